"""Segments: which layers work through an image together, and which results stay in the scratchpad.

A segment of several layers goes stripe by stripe: some rows of its last layer, and of every other layer the
rows that these need; what passes between them lives in line buffers, their weights stay on the chip. A
segment of one layer goes in tiles of any kind. Between segments a result is whole: in the scratchpad or
in DRAM.

The cheapest partition is found by dynamic programming over the layers in order; a state is the set of
results that lie in the scratchpad. Costs are estimates from the declared work of the operations:
the longest of array, vector unit and DRAM, plus what fills and is_barrier.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, combinations
from typing import Final

from compiler.ir.graph import Node
from compiler.schedule.builder import device_shape
from compiler.schedule.options import ScheduleOptions
from compiler.schedule.segments.stripes import LayerWork, delays, work_of
from compiler.schedule.segments.subtensors import Subtensor
from compiler.schedule.tile_graph import aligned
from compiler.schedule.tiles.products import ACC_PARTS
from isa.instructions.matrix import array_overhead, pass_cycles
from isa.memory_map import GRANULE_BYTES
from isa.support.records import Frozen, Struct
from isa.target import Target

LONGEST: Final = 8
"""Layers of a segment at most.

A compromise: more take longer to search, and fewer stay together for want of room for lines and weights.
"""
DIVISIONS: Final = (2, 4, 7, 10, 14, 19, 28, 56)
"""Stripes into which a segment is cut; all are tried. Of 56 rows they leave 28, 14, 8, 6, 4, 3, 2 and 1."""
STATES: Final = 12
"""Sets of results in the scratchpad that are followed up at a boundary: the cheapest, and none at all.

With all of them many results that live side by side took exponential time. Other numbers did not pay.
"""
TRAFFIC: Final = 0.2
"""What a cycle of the DRAM bus costs though it is hidden, in cycles: others may need the bus.

Without it results went to DRAM wherever compute hid it: MobileNetV2 +6 %, ResNet-50 +6 MB.
"""
MOST_FREE: Final = 3
"""Results that leave a segment of which any may stay: eight sets. Of more, the smaller ones go first.

A compromise: one more doubles the sets that are tried.
"""
LEAST_FREE: Final = 16
"""Divides the scratchpad, for the least that a layer in tiles may be left with.

A compromise: with less, more results could stay, and tiles become so small that none may fit.
"""
BUFFERED: Final = 2
"""Buffers of what passes by, and the parts of what is free: one is used while the other is filled."""
PASSING: Final = 2
"""Divides the bytes of an image that passes in tiles, for those that count as held: half, a rough mean."""
UNHIDDEN: Final = 0.1
"""The part of the shorter of array and vector work that the longer does not hide.

A compromise: the first and the last tile have nothing beside them, and of how many tiles is not known yet.
"""
RECORDS_SHARE: Final = 0.75
"""The part of the parameter memory that the records of a segment may take.

A compromise: the rest is for tables and other records of its layers, and for gaps.
"""


class Segment(Frozen):
    """Layers that work together, and the rows of the last one in a stripe.

    0 rows: one layer in tiles, or two of which the second takes every tile of the first.
    """

    layers: tuple[Node, ...]
    rows: int = 0


class Partition(Frozen):
    """The segments in order, and the results that stay in the scratchpad as a whole."""

    segments: tuple[Segment, ...]
    resident: frozenset[int]
    over: dict[int, int]
    """Results that take the place of an operand."""


class Cost(Frozen):
    """Estimated cycles and bytes: of the scratchpad while it lasts, of weights that must come first."""

    cycles: float
    memory: int
    weights: int
    rows: int = 0


class StripeCost(Frozen):
    """What a segment costs with stripes of `rows` rows while nothing that passes is whole in the scratchpad.

    `array` and `vector` are cycles, `memory` the bytes of buffers, `moved` those of copies. `lines` has for
    every result what falls away where it stays: bytes of line buffers, cycles of moving rows between them,
    bytes to store; `entering` for every value from outside: bytes of buffers, bytes to load, its holder.
    """

    rows: int
    count: int
    array: float
    vector: float
    memory: int
    moved: int
    lines: dict[int, tuple[int, float, int]]
    entering: dict[int, tuple[int, int, int]]


class Flow(Frozen):
    """What passes between the layers of a segment.

    `halo` has for every value the rows that two stripes share, `lag` by how many stripes its last reader is
    behind; `outside` for what comes from outside the bytes of a row, the rows, and the holder.
    """

    halo: dict[int, int]
    lag: dict[int, int]
    outside: dict[int, tuple[int, int, int]]


class State(Struct):
    """The cheapest way to a boundary with some results in the scratchpad."""

    cycles: float
    memory: int
    before: tuple[int, frozenset[int]] | None = None
    rows: int = 0


class Partitioner:
    """Finds the partition of a graph's layers.

    Args:
        layers: in order of execution.
        users: for every value the layers that read it, by index; graph inputs too.
        returned: values that are graph outputs.
        may_stay: values that may lie in the scratchpad as a whole.
        target: the machine.
        options: what may be done.
        fill: of the scratchpad, that may be held.
        subtensors: values that are read where another lies.
    """

    def __init__(
        self,
        layers: Sequence[Node],
        users: Mapping[int, Sequence[int]],
        returned: frozenset[int],
        may_stay: frozenset[int],
        target: Target,
        options: ScheduleOptions,
        fill: float,
        subtensors: Mapping[int, Subtensor],
    ) -> None:
        self.users, self.returned, self.may_stay = users, returned, may_stay
        self.target, self.options = target, options
        self.layers = [work_of(n, target, subtensors) for n in layers]
        self.last_use = {n.id: max(users[n.id], default=-1) for n in layers}
        self.size = {n.id: aligned(n.type.elements) for n in layers}
        self.room = int(target.spm.bytes * fill)
        self.drained = array_overhead(target)
        """Cycles to fill and drain the array once."""
        self.constants = list(accumulate((layer.constants for layer in self.layers), initial=0))
        """Bytes of the constants of all layers before one."""
        self.fused: dict[tuple[int, int], list[StripeCost]] = {}

    def partition(self) -> Partition:
        """The cheapest partition."""
        count = len(self.layers)
        states: list[dict[frozenset[int], State]] = [{} for _ in range(count + 1)]
        states[0][frozenset()] = State(0.0, 0)
        for begin in range(count):
            states[begin] = _best(states[begin])
            for end in (begin + 1, *self._ends(begin)):
                for staying in self._choices(begin, end):
                    for held, state in list(states[begin].items()):
                        self._extend(states, begin, end, held, state, staying, together=end > begin + 1)
            if self._joins(begin):
                for staying in self._choices(begin, begin + 2):
                    for held, state in list(states[begin].items()):
                        self._extend(states, begin, begin + 2, held, state, staying, together=False)
        return self._traced(states)

    def _joins(self, begin: int) -> bool:
        """Whether the next layer can take this one's tiles as they are made: it alone uses them."""
        if not self.options.fusion or begin + 1 >= len(self.layers):
            return False
        layer, following = self.layers[begin], self.layers[begin + 1]
        name = layer.node.id
        operands = following.operands
        taken = [o.node.id for o in operands].count(name) == [o.holder for o in operands].count(name) == 1
        alone = list(self.users[name]) == [begin + 1] and name not in self.returned
        return layer.on_array and following.single and taken and alone

    def _traced(self, states: list[dict[frozenset[int], State]]) -> Partition:
        place = len(self.layers)
        held, state = min(states[place].items(), key=lambda item: (item[1].cycles, sorted(item[0])))
        segments: list[Segment] = []
        resident: set[int] = set()
        over: dict[int, int] = {}
        while state.before is not None:
            begin, earlier = state.before
            last = self.layers[place - 1].node.id
            if not state.rows and last in held:
                taken = self._written_over(begin, place, earlier, frozenset({last}))
                over |= {} if taken is None else {last: taken}
            layers = tuple(layer.node for layer in self.layers[begin:place])
            segments.append(Segment(layers, state.rows))
            resident |= held
            place, held = begin, earlier
            state = states[place][held]
        return Partition(tuple(segments[::-1]), frozenset(resident), over)

    def _choices(self, begin: int, end: int) -> Iterator[frozenset[int]]:
        """Which of the results that leave a segment stay in the scratchpad."""
        leaving = [
            n.id
            for n in (layer.node for layer in self.layers[begin:end])
            if n.id in self.may_stay and self.last_use[n.id] >= end and self.size[n.id] <= self.room
        ]
        if not self.options.residency:
            leaving = []
        leaving.sort(key=lambda n: (self.size[n], n))
        if len(leaving) > MOST_FREE:
            yield from (frozenset(leaving[:k]) for k in range(len(leaving) + 1))
            return
        for k in range(len(leaving) + 1):
            yield from map(frozenset, combinations(leaving, k))

    def _extend(
        self,
        states: list[dict[frozenset[int], State]],
        begin: int,
        end: int,
        held: frozenset[int],
        state: State,
        staying: frozenset[int],
        *,
        together: bool,
    ) -> None:
        whole = sum([self.size[n] for n in (*held, *staying)])
        if together:
            cost = self._together(begin, end, held, staying, self.room - whole)
        else:
            over = self._written_over(begin, end, held, staying)
            whole -= 0 if over is None else self.size[over]
            cost = self._in_tiles(begin, end, held, staying, self.room - whole)
        if cost is None:
            return
        after = frozenset([n for n in held | staying if self.last_use[n] >= end])
        late = max(0, cost.weights + state.memory - self.room) if self.options.prefetch else cost.weights
        cycles = state.cycles + cost.cycles + late / self.target.dram.bytes_per_cycle
        known = states[end].get(after)
        if known is None or cycles < known.cycles:
            states[end][after] = State(cycles, whole + cost.memory, (begin, held), cost.rows)

    def _written_over(
        self, begin: int, end: int, held: frozenset[int], staying: frozenset[int]
    ) -> int | None:
        """The operand in the scratchpad whose place the last layer's result takes: it ends there."""
        last = self.layers[end - 1]
        if not last.single or last.node.id not in staying:
            return None
        read_before = {o.holder for layer in self.layers[begin : end - 1] for o in layer.operands}
        for operand in last.operands:
            name = operand.node.id
            if name in held and self.last_use[name] == end - 1 and name not in read_before | self.returned:
                return name
        return None

    # --- tiles -----------------------------------------------------------------------------------

    def _in_tiles(
        self, begin: int, end: int, held: frozenset[int], staying: frozenset[int], free: int
    ) -> Cost | None:
        """One layer in tiles, or two of which the second takes the tiles of the first."""
        t, layer, last = self.target, self.layers[begin], self.layers[end - 1]
        if free < t.spm.bytes // LEAST_FREE:
            return None
        within = {n.node.id for n in self.layers[begin : end - 1]}
        values = {o.holder: o.node.type.elements for o in layer.operands}
        loaded, weights = sum(n for value, n in values.items() if value not in held), layer.constants
        half = free // BUFFERED
        moved = loaded + weights
        if loaded and weights > half and loaded > half:
            again = loaded * math.ceil(weights / half) + weights, loaded + weights * math.ceil(loaded / half)
            moved = min(again)
        if last is not layer:
            moved += sum(
                o.node.type.elements
                for o in last.operands
                if o.holder not in held and o.node.id not in within
            )
        stored = 0 if last.node.id in staying else last.node.type.elements
        dram = (moved + stored) / t.dram.bytes_per_cycle
        array = self._array(layer, layer.shape[1], 1)
        vector = sum(n.vector for n in self.layers[begin:end])
        cycles = (
            max(array, vector, dram) + t.dram.latency_read + min(array, vector) * UNHIDDEN + TRAFFIC * dram
        )
        memory = min(BUFFERED * weights, half) + min(loaded, half) // PASSING + min(stored, half) // PASSING
        return Cost(cycles, min(memory, free), min(weights, half))

    def _array(self, layer: LayerWork, rows: int, times: int) -> float:
        """Cycles of the array for so many rows of a result, so many times: passes, filling and draining."""
        t = self.target
        if not layer.on_array:
            return 0.0
        images, h, w, c = layer.shape
        area = min(rows, h) * w * (images if times == 1 else 1)
        tiles = -(-(-(-c // t.mx.cols) * area) // max(t.acc.rows // ACC_PARTS, 1))
        # As if the next weights always arrived under a pass, also where wload_double is false. Passes are
        # those of the lower bound.
        return times * (layer.passes * pass_cycles(t, area) + self.drained * tiles)

    # --- several layers --------------------------------------------------------------------------

    def _ends(self, begin: int) -> list[int]:
        """Where segments of several layers that begin here may end: all but the last feed another of them."""
        if not self.options.fusion or not self.layers[begin].row_by_row:
            return []
        found: list[int] = []
        constants = self.layers[begin].constants
        inside, unread = {self.layers[begin].node.id}, {self.layers[begin].node.id}
        for last in range(begin + 1, min(begin + LONGEST, len(self.layers))):
            layer = self.layers[last]
            constants += layer.constants
            if not layer.row_by_row or layer.shape[0] != self.layers[begin].shape[0] or constants > self.room:
                break
            if any(o.holder in inside and o.holder != o.node.id for o in layer.operands):
                break  # a part of what is not yet whole
            inside.add(layer.node.id)
            unread -= {o.node.id for o in layer.operands}
            if not unread and layer.shape[1] > 1:
                found.append(last + 1)
            unread.add(layer.node.id)
        return found

    def _together(
        self, begin: int, end: int, held: frozenset[int], staying: frozenset[int], free: int
    ) -> Cost | None:
        """The cheapest stripes that fit."""
        weights = self.constants[end] - self.constants[begin]
        if weights > free:
            return None
        cuts = self._cuts(begin, end)
        inside = [name for name, of in cuts[0].entering.items() if of[2] in held] if cuts else []
        best: Cost | None = None
        for striped in cuts:
            memory = weights + striped.memory
            moved = weights + striped.moved
            vector = striped.vector
            for name in staying:
                line, copies, stored = striped.lines[name]
                memory, moved, vector = memory - line, moved - stored, vector - copies
            for name in inside:
                line, loaded, _ = striped.entering[name]
                memory, moved = memory - line, moved - loaded
            if memory > free:
                continue
            dram = moved / self.target.dram.bytes_per_cycle
            longest = max(striped.array, vector, dram) + TRAFFIC * dram
            ramp = (striped.array + vector) / striped.count
            cycles = longest + ramp + self.target.dram.latency_read
            if best is None or cycles < best.cycles:
                best = Cost(cycles, memory, weights, striped.rows)
        return best

    def _cuts(self, begin: int, end: int) -> list[StripeCost]:
        key = (begin, end)
        if key not in self.fused:
            layers = self.layers[begin:end]
            height = layers[-1].shape[1]
            records = sum(GRANULE_BYTES * layer.shape[3] for layer in layers)
            sizes = sorted({math.ceil(height / d) for d in DIVISIONS if d <= height}, reverse=True)
            if records > self.target.prm.bytes * RECORDS_SHARE:
                sizes = []
            names = [layer.node.id for layer in layers]
            whole = {n for n in names if self.last_use[n] >= end or n in self.returned}
            flow = _flow(layers)
            self.fused[key] = [self._striped(layers, flow, r, whole) for r in sizes]
        return self.fused[key]

    def _striped(self, layers: Sequence[LayerWork], flow: Flow, rows: int, whole: set[int]) -> StripeCost:
        """What a segment costs with stripes of so many rows: all stripes taken as the middle ones are."""
        t = self.target
        count = -(-layers[-1].shape[1] // rows)
        made = {layers[-1].node.id: rows}
        for layer in reversed(layers):
            mine = made[layer.node.id]
            for name, stride, extent, _ in layer.taken:
                made[name] = max(made.get(name, 0), min(mine * stride, extent))
        images = layers[0].shape[0]
        rounds, start = images * count, t.ctl.issue + t.vx.startup
        array = 0.0
        vector = float(rounds * start * len(layers))
        memory = moved = 0
        lines: dict[int, tuple[int, float, int]] = {}
        for layer in layers:
            name, row, mine = layer.node.id, layer.row_bytes, made[layer.node.id]
            array += self._array(layer, mine, count)
            over = max(flow.halo.get(name, 0), 0)
            held = ((BUFFERED + flow.lag.get(name, 0)) * mine + BUFFERED * over) * row
            copies = rounds * (over * row / t.vx.lanes + start) if over else 0.0
            stored = layer.node.type.elements if name in whole else 0
            vector += layer.vector + copies
            memory, moved = memory + held, moved + stored
            lines[name] = held, copies, stored
        entering: dict[int, tuple[int, int, int]] = {}
        for name, (row, extent, holder) in flow.outside.items():
            halo = flow.halo[name]
            held = BUFFERED * (made[name] + halo) * row
            loaded = images * (extent + count * max(halo, 0)) * row
            memory, moved = memory + held, moved + loaded
            entering[name] = held, loaded, holder
        return StripeCost(rows, count, images * array, vector, memory, moved, lines, entering)


def _flow(layers: Sequence[LayerWork]) -> Flow:
    """What passes between the layers of a segment, whatever the stripes."""
    delay = delays(layers)
    halo: dict[int, int] = {}
    lag: dict[int, int] = {}
    outside: dict[int, tuple[int, int, int]] = {}
    for layer in layers:
        mine = delay[layer.node.id]
        for operand, (name, _, extent, shared) in zip(layer.operands, layer.taken, strict=True):
            halo[name] = max(halo.get(name, 0), shared)
            if name in delay:
                lag[name] = max(lag.get(name, 0), mine - delay[name])
            else:
                row = math.prod(device_shape(operand.node.shape)[2:])
                outside[name] = row, extent, operand.holder
    return Flow(halo, lag, outside)


def _best(states: dict[frozenset[int], State]) -> dict[frozenset[int], State]:
    """The cheapest states, and the one with nothing in the scratchpad, which is always possible."""
    if len(states) <= STATES:
        return states
    cheapest = sorted(states, key=lambda held: (states[held].cycles, sorted(held)))[:STATES]
    none: frozenset[int] = frozenset()
    kept = {held: states[held] for held in cheapest}
    return kept | ({none: states[none]} if none in states else {})
