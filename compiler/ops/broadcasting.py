"""What operations on two operands share: shapes that broadcast to one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import ShapeError
from compiler.ir.types import MAX_ELEMENTS, Shape, TensorType
from compiler.ops.shapes import Reshape
from compiler.rules.importing import LayerCall, OnnxNode

BROADCAST_OPSET: Final = 7
"""Since this opset operands broadcast to one another as in numpy."""


def broadcast(types: Sequence[TensorType]) -> Shape:
    """The shape of a result whose operands, of one rank, broadcast to one another.

    Raises:
        ShapeError: they do not.
    """
    shapes = [t.shape for t in types]
    try:
        shape = np.broadcast_shapes(*shapes)
    except ValueError:
        shape = ()
    if len({len(s) for s in shapes}) != 1 or (shape == () and shapes[0] != ()):
        raise ShapeError(
            f"the shapes {' and '.join(str(list(s)) for s in shapes)} do not broadcast to one another",
            "equal rank, extents equal or 1",
        )
    return shape


def is_innermost_broadcast(operand: Shape, result: Shape) -> bool:
    """Whether an operand has one value for the whole of the innermost dimension of a result that is not 1.

    Of a result of one element every operand has.
    """
    longer = [i for i, extent in enumerate(result) if extent > 1]
    return not longer or operand[longer[-1]] == 1


def broadcast_operands(n: OnnxNode) -> list[Node]:
    """The two operands of a node, brought to one rank."""
    a, b = n.operand(0), n.operand(1)
    return same_rank(n, [a, laid_along(n, a, b)])


def laid_along(n: OnnxNode, a: Node, b: Node) -> Node:
    """The second operand, as operator sets before 7 lay it along the first."""
    return _legacy_operand(n, a, b) if n.opset < BROADCAST_OPSET else b


def same_rank(n: OnnxNode, operands: Sequence[Node]) -> list[Node]:
    """Operands with ones in front, so that they have one rank."""
    rank = max(len(x.shape) for x in operands)
    try:
        shape = np.broadcast_shapes(*(x.shape for x in operands))
    except ValueError:
        given = " and ".join(str(list(x.shape)) for x in operands)
        n.fail(f"the shapes {given} do not broadcast to one another")
    if math.prod(shape) > MAX_ELEMENTS:
        n.fail(f"the result has the shape {list(shape)}", f"{MAX_ELEMENTS} elements")
    return [_with_rank(n, x, rank, i) for i, x in enumerate(operands)]


def _with_rank(n: OnnxNode, x: Node, rank: int, index: int) -> Node:
    shape = (*(1,) * (rank - len(x.shape)), *x.shape)
    if shape == x.shape:
        return x
    return n.before(Reshape(shape), x, suffix=f"operand{index}")


def _legacy_operand(n: OnnxNode, a: Node, b: Node) -> Node:
    """B before opset 7: of the shape of A, or with broadcast=1 laid along A's dimensions from `axis` on."""
    if not n.integer("broadcast", 0):
        if a.shape != b.shape:
            n.fail(
                f"the shapes {list(a.shape)} and {list(b.shape)} differ without broadcast=1", "equal shapes"
            )
        return b
    axis = n.integer("axis", len(a.shape) - len(b.shape))
    axis += len(a.shape) if axis < 0 else 0
    along = a.shape[axis : axis + len(b.shape)]
    if (
        axis < 0
        or len(along) != len(b.shape)
        or any(e not in (1, d) for e, d in zip(b.shape, along, strict=True))
    ):
        n.fail(
            f"B of shape {list(b.shape)} along axis {axis} of {list(a.shape)} is not supported",
            "the extents of A from that axis on, or 1",
        )
    spread = (*b.shape, *(1,) * (len(a.shape) - axis - len(b.shape)))
    return n.before(Reshape(spread), b, suffix="operand1")


def layer_operands(call: LayerCall) -> Sequence[Node]:
    """The two operands of a DSL layer."""
    if len(call.operands) != 2:
        call.fail(f"{call.layer} takes two values, not {len(call.operands)}")
    return call.operands
