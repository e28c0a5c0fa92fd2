"""Parts of results along axes along which an operation does nothing: of each operand the same box."""

from __future__ import annotations

from compiler.ir.graph import Node
from compiler.ir.op import AlongAxis, ElementWise, Op
from compiler.ops.reduce import QReduce
from compiler.ops.slices import QPad
from compiler.rules.partitioning import Part, part_rule
from isa.program import Box, whole_box


@part_rule(ElementWise)
def part_of_elements(node: Node, operation: ElementWise, box: Box) -> Part:
    """Every element by itself; what is repeated along an axis is read whole there."""
    return Part(operation, tuple(_same(node, i, box) for i in node.inputs))


@part_rule(AlongAxis, QReduce, QPad)
def part_of_others(node: Node, operation: Op, box: Box) -> Part | None:
    """Cut along other axes than those that something is done along."""
    roles = operation.axis_roles([i.type for i in node.inputs], node.type)
    if roles is None:
        return None
    cut = [bounds != (0, n) for bounds, n in zip(box, node.shape, strict=True)]
    if any(c and role is not None for c, role in zip(cut, roles, strict=True)):
        return None
    return Part(
        operation,
        tuple(
            tuple(b if c else (0, n) for b, c, n in zip(box, cut, i.shape, strict=True))
            if len(i.shape) == len(box)
            else whole_box(i.shape)
            for i in node.inputs
        ),
    )


def _same(node: Node, operand: Node, box: Box) -> Box:
    if len(operand.shape) != len(box):
        return whole_box(operand.shape)
    return tuple(
        bounds if extent == n else (0, extent)
        for bounds, extent, n in zip(box, operand.shape, node.shape, strict=True)
    )
