"""Fold the addition of a constant row into a bias.

%1 = nn.gemm %x, %w, %b                   %1 = nn.gemm %x, %w, %b + c
%2 = nn.add %1, %c                     ->
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Graph, Node
from compiler.ir.op import Product
from compiler.ops.add import Add
from compiler.passes.base import Pass, fuse_two
from compiler.quantize.masks import masks_of


class FoldBias(Pass):
    """Where the constant has one value per output channel, and the sum is the only user."""

    name: ClassVar[str] = "fold-bias"

    def run(self, graph: Graph) -> Graph:
        for total, operation in graph.of(Add):
            producer, other = total.inputs
            if operation.clamp is not None or not other.is_constant or graph.sole_user(producer) is not total:
                continue
            if producer.shape != total.shape or masks_of(total):
                continue  # the constant repeats the product, or has no scale beside it
            row = _row(producer, other.constant)
            if row is not None:
                x, w, b = producer.inputs
                named = other if graph.sole_user(other) is total and not b.constant.any() else b
                bias = graph.const((b.constant + row).astype(np.float32), named.name, named.loc)
                fuse_two(graph, producer, total, producer.op, (x, w, bias))
        graph.erase_dead()
        return graph


def _row(producer: Node, values: NDArray[Any]) -> NDArray[Any] | None:
    """The constant as one value per output channel, if it is that."""
    if not isinstance(producer.op, Product) or not producer.op.is_linear:
        return None
    axis = producer.op.channel_axis
    rows = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
    same = (rows == rows[0]).all()
    return np.broadcast_to(rows[0], producer.shape[axis : axis + 1]) if same else None
