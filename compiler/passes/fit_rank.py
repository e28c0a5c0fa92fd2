"""Give every value on the device at most four dimensions: neighbouring ones become one.

%1 = transpose %0 : i8[1,2,3,4,4]          %2 = reshape %0 : i8[2,3,16]
     {perm=[0,2,1,3,4]}                 -> %3 = transpose %2 {perm=[1,0,2]}
                                           %1 = reshape %3 : i8[1,3,2,4,4]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Final

import numpy as np

from compiler.errors import CompileError
from compiler.ir.graph import Graph, Input, Node, TupleElement
from compiler.ir.op import ElementWise, Groups
from compiler.ir.types import Shape
from compiler.ops.quantize_linear import Dequantize, Quantize, Returned
from compiler.ops.shapes import Reshape, Transpose
from compiler.ops.slices import Slice
from compiler.passes.base import Pass
from isa.support.diagnostics import Diagnostic

DEVICE_RANK: Final = 4
AS_THEY_ARE: Final = (Input, Quantize, Dequantize, Returned, Reshape, TupleElement)
"""Operations that the host does, and those that no instruction does."""


class FitRank(Pass):
    """By what an operation says of its axes (`Op.axis_roles`); transposes and slices in several steps."""

    name: ClassVar[str] = "fit-rank"

    def run(self, graph: Graph) -> Graph:
        refused: list[Diagnostic] = []
        for node in graph.nodes():
            ranks = {len(v.shape) for v in (node, *node.inputs)}
            if node.is_constant or isinstance(node.op, AS_THEY_ARE) or (0 not in ranks and max(ranks) <= 4):
                continue
            match node.op:
                case Transpose():
                    _transpose(graph, node, node.op.perm)
                case Slice() if _groups(node) is None:
                    _slice(graph, node, node.op)
                case _:
                    refused += _merge(graph, node)
        if refused:
            raise CompileError(refused)
        return graph


def _merge(graph: Graph, node: Node) -> list[Diagnostic]:
    """The same operation on operands with merged dimensions; a refusal where they cannot be merged."""
    groups = _groups(node) or _groups(node := _with_whole_constants(graph, node))
    if groups is None:
        message = f"'{node.name}' of the shape {list(node.shape)} has no form of {DEVICE_RANK} dimensions"
        return [Diagnostic("model.rank", message, node.loc, f"at most {DEVICE_RANK} dimensions")]
    rank = len(node.inputs[0].shape)
    operands = [
        _reshaped(graph, x, _merged(x.shape, groups)) if len(x.shape) == rank else x for x in node.inputs
    ]
    operation = node.op.with_axes(groups)
    made = graph.add(operation, operands, name=node.name, loc=node.loc, quant=node.type.quant)
    _stand_in(graph, node, made)
    return []


def _with_whole_constants(graph: Graph, node: Node) -> Node:
    """The node with constants that are as large as its result, where it repeats them."""
    if not isinstance(node.op, ElementWise) or not any(x.is_constant for x in node.inputs):
        return node
    operands = [
        graph.const(np.broadcast_to(x.constant, node.shape), x.name, x.loc, x.type.quant)
        if x.is_constant
        else x
        for x in node.inputs
    ]
    made = graph.add(node.op, operands, name=node.name, loc=node.loc, quant=node.type.quant, views=node.views)
    graph.replace(node, made)
    return made


def _stand_in(graph: Graph, node: Node, made: Node) -> None:
    """Let a value with the same elements in the same order take the place of a node."""
    made.views = node.views
    graph.replace(node, _reshaped(graph, made, node.shape))


def _groups(node: Node) -> Groups | None:
    """The axes of the operands in at most four groups of neighbours; None where there is no such grouping."""
    operands = [x.shape for x in node.inputs if len(x.shape) == len(node.inputs[0].shape)]
    roles = node.op.axis_roles([i.type for i in node.inputs], node.type)
    if roles is None:
        return None
    groups: list[list[int]] = [[i] for i in range(len(roles))]
    single = [all(shape[i] == 1 for shape in (*operands, node.shape)) for i in range(len(roles))]
    while len(groups) > DEVICE_RANK:
        pair = next((k for k in range(len(groups) - 1) if _alike(groups[k : k + 2], roles, single)), None)
        if pair is None:
            return None
        groups[pair : pair + 2] = [groups[pair] + groups[pair + 1]]
    return tuple(map(tuple, groups))


def _alike(pair: Sequence[Sequence[int]], roles: Sequence[object], single: Sequence[bool]) -> bool:
    """Whether two groups may be one: of one role, or one of them of extent 1 and of no role of its own."""
    one, other = ({roles[i] for i in group if not (single[i] and roles[i] is None)} for group in pair)
    return all(role is None for role in one | other) or (one == other and len(one) == 1 and _shared(one))


def _shared(roles: set[object]) -> bool:
    """Whether neighbours of a role may be one axis: a role that is a number belongs to one axis alone."""
    return not any(isinstance(role, int) for role in roles)


def _merged(shape: Shape, groups: Groups) -> Shape:
    return tuple(math.prod(shape[i] for i in group) for group in groups) or (1,)


def _reshaped(graph: Graph, x: Node, shape: Shape) -> Node:
    if x.shape == shape:
        return x
    if x.is_constant:
        return graph.const(x.constant.reshape(shape), x.name, x.loc, x.type.quant)
    return graph.add(Reshape(shape), (x,), name=f"{x.name}/merged", loc=x.loc)


def _transpose(graph: Graph, node: Node, perm: Sequence[int]) -> None:
    """Blocks of axes change places, two at a time: every step has at most four dimensions."""
    (x,) = node.inputs
    shape = x.shape
    wanted = [p for p in perm if shape[p] != 1]
    held = sorted(wanted)
    value = x
    for at in range(len(wanted)):
        here = held.index(wanted[at])
        if here == at:
            continue
        run = 1
        while held[here + run : here + run + 1] == wanted[at + run : at + run + 1] != []:
            run += 1
        parts = (held[:at], held[at:here], held[here : here + run], held[here + run :])
        blocks = tuple(math.prod(shape[i] for i in part) for part in parts)
        value = _reshaped(graph, value, blocks)
        value = graph.add(
            Transpose((0, 2, 1, 3)), (value,), name=f"{node.name}/step{at}", loc=node.loc, quant=x.type.quant
        )
        held = [*parts[0], *parts[2], *parts[1], *parts[3]]
    if value is x:
        value = graph.add(Reshape(node.shape), (x,), name=node.name, loc=node.loc)
        value.views = node.views
        graph.replace(node, value)
        return
    _stand_in(graph, node, value)


def _slice(graph: Graph, node: Node, operation: Slice) -> None:
    """One axis after the other."""
    (value,) = node.inputs
    for axis, (start, count, step) in enumerate(operation.taken(value.shape)):
        extent = value.shape[axis]
        if (start, count, step) == (0, extent, 1):
            continue
        before, after = math.prod(value.shape[:axis]), math.prod(value.shape[axis + 1 :])
        rows = _reshaped(graph, value, (before, extent, after))
        cut = Slice((0, start, 0), (before, count, after), (1, step, 1))
        made = graph.add(cut, (rows,), name=f"{node.name}/axis{axis}", loc=node.loc, quant=node.type.quant)
        value = _reshaped(graph, made, (*value.shape[:axis], count, *value.shape[axis + 1 :]))
    value = graph.add(Reshape(node.shape), (value,), name=node.name, loc=node.loc)
    value.views = node.views
    graph.replace(node, value)
