"""Parts: results that are a box of another, so that nothing is copied.

A slice reads its operand where it lies. What is concatenated or padded is written where the result lies,
if its codes stay as they are. Whoever reads or writes a part does so with the pitches of the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from compiler.ir.graph import Graph, Node
from compiler.ops.depth_to_space import Take
from compiler.ops.shapes import Transpose, unreshaped
from compiler.ops.slices import QPad, Slice
from compiler.schedule.builder import READS
from compiler.schedule.tiles.placement import ORIGIN, Start, moved, placed
from isa.support.records import Frozen
from isa.target import Target

COPY_MOVES: Final = 2
"""How often a dense copy moves every byte: in, and out again."""


class Subtensor(Frozen):
    """A box of the result of `whole`, from `start` on: (n, h, w, c)."""

    whole: Node
    start: Start


def slices_in_place(graph: Graph, nodes: Sequence[Node], target: Target) -> dict[int, Subtensor]:
    """Slices that are read where their operand lies: without steps, and seen by nobody under a new shape.

    A part in DRAM has short runs, which waste bursts: with many readers a dense copy is cheaper.
    """
    found: dict[int, Subtensor] = {}
    for node in nodes:
        operation = node.op
        if not isinstance(operation, Slice) or any(step != 1 for step in operation.steps):
            continue
        (source,) = node.inputs
        if unreshaped(source) is not source or source.is_constant or not source.type.dtype.is_code:
            continue
        users = graph.users(node)
        if users and node not in graph.outputs and all(_reads_boxes(user) for user in users):
            within = found.get(source.id, Subtensor(source, ORIGIN))
            longer = _bursts(node, within.whole, target)
            # in place all read short runs; a copy does so once, and is written and read in one piece
            if len(users) * longer <= longer + 1 + len(users):
                found[node.id] = Subtensor(within.whole, moved(within.start, operation.starts))
    return found


def _reads_boxes(user: Node) -> bool:
    """Whether an operation reads its operands under their own shapes, whatever the pitches."""
    return type(user.op) in READS or isinstance(user.op, (Slice, QPad, Take))


def operands_in_place(
    graph: Graph, node: Node, layers: Collection[int], target: Target, resident: Collection[int]
) -> Iterator[tuple[Node, Subtensor]]:
    """The operands of a concatenation or a pad that may be written into its result.

    They are computed by layers, each an operand once, keep their codes, are read as boxes alone, and are in
    the same memory; in DRAM few others may read them, as with slices.
    """
    for operand, start in placed(node):
        alone = sum(i is operand for i in node.inputs) == 1 and operand not in graph.outputs
        if (
            alone
            and operand.id in layers
            and operand.type.quant == node.type.quant
            and not isinstance(operand.op, (Transpose, Slice))
            and (operand.id in resident) == (node.id in resident)
            and all(user is node or _reads_boxes(user) for user in graph.users(operand))
        ):
            others = len(graph.users(operand)) - 1
            if node.id in resident or others * (_bursts(operand, node, target) - 1) <= COPY_MOVES:
                yield operand, Subtensor(node, start)


def _bursts(part: Node, whole: Node, target: Target) -> float:
    """How many times as many bytes of bursts it takes to copy a part as to copy as much in one piece."""
    run = 1
    for extent, all_of in zip(part.shape[::-1], whole.shape[::-1], strict=True):
        run *= extent
        if extent < all_of:
            return 1 + (target.dma.burst - 1) / run
    return 1.0


def whole_of(node: Node, subtensors: Mapping[int, Subtensor]) -> Node:
    """The value whose bytes a node's are: reshapes and slices in place are looked through."""
    node = unreshaped(node)
    while node.id in subtensors:
        node = unreshaped(subtensors[node.id].whole)
    return node
