"""Fold a batch normalization into the convolution or matrix product before it.

%1 = nn.conv2d %x, %w, %b                 %1 = nn.conv2d %x, %w*gain, %b*gain + offset
%2 = nn.affine %1, %gain, %offset      ->
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from compiler.ir.graph import Graph, Node
from compiler.ir.op import Product
from compiler.ops.affine import Affine
from compiler.ops.conv2d import Conv2d
from compiler.passes.base import Pass, fuse_two


class FoldBatchNorm(Pass):
    """Scale the weights and the bias where the normalization is the only user."""

    name: ClassVar[str] = "fold-batch-norm"

    def run(self, graph: Graph) -> Graph:
        for norm, operation in graph.of(Affine):
            producer, gain, offset = norm.inputs
            product = producer.op
            if not isinstance(product, Product) or not product.is_linear:
                continue
            if graph.sole_user(producer) is norm and operation.axis == product.channel_axis:
                _fold(graph, norm, producer, gain, offset)
        graph.erase_dead()
        return graph


def _fold(graph: Graph, norm: Node, producer: Node, gain: Node, offset: Node) -> None:
    x, w, b = producer.inputs
    by_output = (-1, 1, 1, 1) if isinstance(producer.op, Conv2d) else (1, -1)
    weights = w.constant * gain.constant.reshape(by_output)
    bias = b.constant * gain.constant + offset.constant
    operands = (
        x,
        graph.const(weights.astype(np.float32), w.name, w.loc),
        graph.const(bias.astype(np.float32), b.name, b.loc),
    )
    fuse_two(graph, producer, norm, producer.op, operands)
