"""Tiles of a segment: several layers, stripe by stripe.

In every round each layer makes one stripe, of rows that were made a round before (but for the vector unit's
layers among themselves). So the layers of a round do not wait for one another: their tiles take turns, and
array and vector unit both always have work whose operands are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from compiler.ir.graph import Node
from compiler.schedule.builder import Builder, Span, Stripe, View, device_shape, spans
from compiler.schedule.segments.stripes import LayerWork, Stripes, entering_rows
from compiler.schedule.tile_graph import Layer, LineBuffer, Memory, Ref, Tensor, TileOp
from compiler.schedule.tiles.moves import MAX_RUN, move
from compiler.schedule.tiles.planners import planner_of
from isa.spec import Engine
from isa.support.records import Frozen

EMPTY: Final = Span(0, 0)
TURN: Final = 400
"""Cycles of the vector unit that one layer takes at a time.

Where layers did not take turns the array waited for long depthwise stripes: MobileNetV2 +10 %. A compromise:
shorter turns let others in sooner, and each costs the start of an instruction.
"""


class SegmentLayer(Frozen):
    """A layer of a segment, and its result."""

    work: LayerWork
    layer: Layer
    out: Tensor

    @property
    def node(self) -> Node:
        """The layer's node."""
        return self.work.node


class SegmentPlanner:
    """Makes the operations of one segment.

    Args:
        b: the plan being made.
        members: the layers in order.
        stripes: what each does in every stripe.
        views: where values are that come from outside; those not in the scratchpad get line buffers.
    """

    def __init__(
        self, b: Builder, members: Sequence[SegmentLayer], stripes: Stripes, view: Callable[[Node], View]
    ) -> None:
        self.b, self.members, self.stripes, self.view = b, members, stripes, view
        self.inside = {m.node.id: m for m in members}
        self.readers: dict[int, list[tuple[int, int]]] = {}
        """For every value the (layer, operand) of those inside that read it, the least behind first."""
        for member in sorted(members, key=lambda m: stripes.delay[m.node.id]):
            for operand in member.work.operands:
                reader = member.node.id, operand.index
                self.readers.setdefault(operand.node.id, []).append(reader)
        self.entering = self._entering()

    def run(self) -> None:
        """All images, all stripes."""
        units = self._units()
        count = len(self.stripes.made[self.members[0].node.id])
        ops = self.b.graph.ops
        images = device_shape(self.members[0].node.shape)[0]
        for image in range(images):
            self._empty_lines()
            for number in range(self.stripes.rounds):
                for node in self.entering:
                    self._load(node, image, number, count)
                begin = len(ops)
                made: list[list[TileOp]] = []
                for unit in units:
                    stripe = number - self.stripes.delay[unit[0].node.id]
                    for member in unit if 0 <= stripe < count else ():
                        self._make(member, image, stripe)
                    made.append(ops[begin + sum(map(len, made)) :])
                ops[begin:] = taking_turns(made)
        self.b.stripe = None
        self.b.kept.clear()
        for node in self.entering:
            self.view(node).tensor.line = None

    def _empty_lines(self) -> None:
        """Forget the rows of the image before."""
        for tensor in (*(m.out for m in self.members), *(self.view(n).tensor for n in self.entering)):
            if tensor.line is not None:
                tensor.line.stripes = []

    def _units(self) -> list[list[SegmentLayer]]:
        """Layers whose tiles keep their order: each of the array, and those of the vector unit of a delay."""
        units: dict[tuple[int, int], list[SegmentLayer]] = {}
        for member in self.members:
            own = member.node.id if member.work.on_array else -1
            units.setdefault((self.stripes.delay[member.node.id], own), []).append(member)
        return list(units.values())

    def _entering(self) -> Mapping[Node, list[Span]]:
        """Values from outside that are not in the scratchpad: the rows that each stripe needs."""
        rows = entering_rows([m.work for m in self.members], self.stripes)
        found = {node: taken for node, taken in rows.items() if not self.view(node).tensor.resident}
        for node in found:
            tensor = self.view(node).tensor
            tensor.line = LineBuffer(tensor.shape[2] * tensor.shape[3])
        return found

    def _load(self, node: Node, image: int, number: int, count: int) -> None:
        """Bring the rows that a round needs from DRAM; rows that the one before had too come again."""
        first, _ = self.readers[node.id][0]
        stripe = number - self.stripes.delay[first]
        if not 0 <= stripe < count or not self.entering[node][stripe].extent:
            return
        tensor, rows = self.view(node).tensor, self.entering[node][stripe]
        line = tensor.line
        assert line is not None
        self.b.resume(self.inside[first].layer)
        self.b.tile = (image, rows.start)
        buffer = self.b.buffer("input", Memory.SPM, rows.extent * line.row)
        self.b.load_rows(tensor, image, rows, Ref(buffer))
        line.add(buffer, rows.start, rows.stop)

    def _make(self, member: SegmentLayer, image: int, stripe: int) -> None:
        """The rows of a layer in a stripe."""
        rows = self.stripes.made[member.node.id][stripe]
        if not rows.extent:
            return
        self.b.resume(member.layer)
        self.b.stripe = Stripe(image, rows)
        if member.out.line is not None:
            self._extend(member, member.out.line, rows)
        node = member.node
        for part in self._parts(member, rows):
            self.b.stripe = Stripe(image, part)
            planner_of(node.op)(
                self.b,
                node,
                node.op,
                lambda i: self.view(node.inputs[i]),
                member.out,
                self.b.target.spm.bytes,
            )

    def _parts(self, member: SegmentLayer, rows: Span) -> list[Span]:
        """The rows of a stripe in parts that do not hold the vector unit for long."""
        work = member.work
        if work.on_array:
            return [rows]
        row = work.vector / (work.shape[0] * work.shape[1])
        return [
            s.shifted(rows.start) for s in spans(rows.extent, max(1, int(TURN / row) if row else rows.extent))
        ]

    def _extend(self, member: SegmentLayer, line: LineBuffer, rows: Span) -> None:
        """A line buffer for these rows, and before them those that a reader of them needs too."""
        base = rows.start
        for key in self.readers.get(member.node.id, ()):
            taken = next((r for r in self.stripes.read[key] if r.extent and r.stop > rows.start), EMPTY)
            if taken.extent:
                base = min(base, taken.start)
        self.b.tile = (rows.start,)
        buffer = self.b.buffer("line", Memory.SPM, (rows.stop - base) * line.row)
        if base < rows.start:
            held = line.find(base, rows.start)
            self._copy(
                Ref(held.buffer, (base - held.base) * line.row), Ref(buffer), rows.start - base, line.row
            )
        line.add(buffer, base, rows.stop)

    def _copy(self, source: Ref, destination: Ref, rows: int, row: int) -> None:
        """Copy whole rows within the scratchpad."""
        parts = next(p for p in range(-(-row // MAX_RUN), row + 1) if row % p == 0)
        levels = [(parts, row // parts, row // parts), (rows, row, row)]
        self.b.emit(move(row // parts, levels), {"src": source, "dst": destination})


def taking_turns(lists: Sequence[Sequence[TileOp]]) -> list[TileOp]:
    """Operations of several layers, tile by tile, each layer evenly over the whole."""
    turns: list[tuple[float, int, int, Sequence[TileOp]]] = []
    for number, ops in enumerate(lists):
        tiles = _tiles(ops)
        # a tile is placed by its middle
        turns += [((i + 0.5) / len(tiles), number, i, tile) for i, tile in enumerate(tiles)]
    return [op for *_, tile in sorted(turns, key=lambda turn: turn[:3]) for op in tile]


def _tiles(ops: Sequence[TileOp]) -> list[Sequence[TileOp]]:
    """Operations up to what completes a part of the result, and the stores of it."""
    found: list[Sequence[TileOp]] = []
    begin, complete = 0, False
    for index, op in enumerate(ops):
        if complete and op.engine is not Engine.ST:
            found.append(ops[begin:index])
            begin, complete = index, False
        complete |= op.stored is not None
    if begin < len(ops):
        found.append(ops[begin:])
    return found
