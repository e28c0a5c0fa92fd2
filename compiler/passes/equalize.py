"""Move scale between neighbouring layers, so that the channels between them have like ranges.

%1 = nn.conv2d %x, %w1, %b1           %1 = nn.conv2d %x, %w1 / s, %b1 / s
%2 = nn.conv2d %1, %w2, %b2        -> %2 = nn.conv2d %1, s * %w2, %b2

Cross-layer equalization (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias
Correction, 2019): s = sqrt(r1 / r2) for each channel, r1 and r2 the largest weights that make and that
take it. Here s is rounded to a power of two, so that the network computes the same bits as before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Graph, Node
from compiler.ir.op import Product
from compiler.ops.conv2d import Conv2d
from compiler.ops.gemm import Gemm
from compiler.ops.max_pool import MaxPool
from compiler.passes.base import Pass

ROUNDS: Final = 8
LARGEST: Final = 2.0**20
"""No channel is scaled by more, so that nothing becomes subnormal or infinite on the way."""
HOMOGENEOUS: Final = (None, (0.0, math.inf))
"""Clamps f with f(s * x) = s * f(x)."""


class EqualizeLayers(Pass):
    """Where one product alone uses the result of another, directly or through max pooling."""

    name: ClassVar[str] = "equalize-layers"

    def run(self, graph: Graph) -> Graph:
        for _ in range(ROUNDS):
            changed = [_equalize(graph, *pair) for pair in _pairs(graph)]
            if not any(changed):
                break
        graph.erase_dead()
        return graph


def _pairs(graph: Graph) -> Iterator[tuple[Node, Node]]:
    for first in graph.nodes():
        if not isinstance(first.op, (Conv2d, Gemm)) or first.op.clamp not in HOMOGENEOUS:
            continue
        last, user = first, graph.sole_user(first)
        while user is not None and isinstance(user.op, MaxPool):
            last, user = user, graph.sole_user(user)
        if user is not None and isinstance(user.op, Product) and user.inputs[0] is last:
            yield first, user


def _equalize(graph: Graph, first: Node, second: Node) -> bool:
    """Scale the weights of both; whether that changed anything."""
    made, bias = first.inputs[1:]
    taken = second.inputs[1]
    outgoing = np.abs(np.moveaxis(made.constant, _axis(first), 0)).reshape(bias.type.elements, -1).max(axis=1)
    incoming = np.abs(_by_input(second, taken.constant)).max(axis=(1, 3)).reshape(-1)
    if outgoing.shape != incoming.shape:
        return False
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.rint(np.log2(outgoing / incoming) / 2)
    exponent = np.where((outgoing > 0) & (incoming > 0), exponent, 0)
    scales = np.clip(np.exp2(exponent), 1 / LARGEST, LARGEST).astype(np.float32)
    if (scales == 1).all():
        return False
    along = [-1 if i == _axis(first) else 1 for i in range(made.constant.ndim)]
    groups = _by_input(second, taken.constant)
    turned = groups * scales.reshape(groups.shape[0], 1, -1, 1)
    _put(graph, first, 1, made.constant / scales.reshape(along))
    _put(graph, first, 2, bias.constant / scales)
    _put(graph, second, 1, _by_output(second, turned, taken.shape))
    return True


def _axis(node: Node) -> int:
    assert isinstance(node.op, Product)
    return node.op.weight_axis


def _by_input(node: Node, w: NDArray[Any]) -> NDArray[Any]:
    """Weights as (groups, outputs, inputs, taps)."""
    if isinstance(node.op, Conv2d):
        groups = node.op.groups
        return w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)
    return w.T[None, :, :, None]


def _by_output(node: Node, w: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Weights as the operation takes them."""
    return w.reshape(shape) if isinstance(node.op, Conv2d) else w[0, :, :, 0].T


def _put(graph: Graph, node: Node, index: int, value: NDArray[Any]) -> None:
    old = node.inputs[index]
    graph.set_operand(node, index, graph.const(value.astype(np.float32), old.name, old.loc))
