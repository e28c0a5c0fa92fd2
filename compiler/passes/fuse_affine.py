"""Make a product and a sum with constants, between a Dequantize and a Quantize, one operation.

%1 = nn.binary %0, %g {function="mul"}         %2 = nn.affine %0, %gain, %offset {axis=1}
%2 = nn.add %1, %h                          ->
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from compiler.ir.graph import Graph, Node
from compiler.ops.add import Add
from compiler.ops.affine import Affine
from compiler.ops.binary import BinaryFunction
from compiler.passes.base import Pass, fuse_two

PRODUCT = BinaryFunction("mul")


class FuseAffine(Pass):
    """Where both constants are float32, one value or one a channel, and the sum alone uses the product."""

    name: ClassVar[str] = "fuse-affine"

    def run(self, graph: Graph) -> Graph:
        for total, operation in graph.of(Add):
            if operation.clamp is not None or (found := _operand_and_constant(total)) is None:
                continue
            product, offset = found
            if product.op != PRODUCT or graph.sole_user(product) is not total:
                continue
            if (factors := _operand_and_constant(product)) is None:
                continue
            x, gain = factors
            axis = _axis(x, gain, offset)
            if axis is None or x.shape != total.shape:
                continue
            rows = (np.broadcast_to(c.constant.ravel(), (x.shape[axis],)) for c in (gain, offset))
            constants = [
                graph.const(np.ascontiguousarray(row), c.name, c.loc)
                for row, c in zip(rows, (gain, offset), strict=True)
            ]
            fuse_two(graph, product, total, Affine(axis), (x, *constants))
        graph.erase_dead()
        return graph


def _operand_and_constant(node: Node) -> tuple[Node, Node] | None:
    """The two operands, the float32 constant second; None where there is not one of each."""
    a, b = node.inputs
    if a.is_constant == b.is_constant:
        return None
    return (b, a) if a.is_constant else (a, b)


def _axis(x: Node, *constants: Node) -> int | None:
    """The one axis of x along which the constants lie; None where there is none."""
    axes = {i for c in constants for i, extent in enumerate(c.shape) if extent > 1}
    if len(axes) > 1 or not x.shape:
        return None
    return axes.pop() if axes else min(1, len(x.shape) - 1)
