"""Segments: which layers work through an image together, and which results stay in the scratchpad.

A segment of several layers goes band by band: some rows of its last layer, and of every other layer the
rows that these need; what passes between them lives in line buffers, their weights stay on the chip. A
segment of one layer goes in tiles of any kind. Between segments a result is whole: in the scratchpad or
in DRAM.

The cheapest division is found by dynamic programming over the layers in order; a state is the set of
results that lie in the scratchpad. Costs are estimates from the declared work of the operations:
the longest of array, vector unit and DRAM, plus what fills and drains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from compiler.ir.graph import Node
from compiler.ir.work import Least
from compiler.ops.shapes import unreshaped
from compiler.schedule.builder import READS, Span, device_shape, spans
from compiler.schedule.techniques import Techniques
from isa.target import Target

LONGEST: Final = 12
"""Layers of a segment at most."""
DIVISIONS: Final = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56)
"""Bands into which a segment is cut; tried in turn."""
FILL: Final = 0.92
"""Of the scratchpad, that a plan may hold: the rest is lost between addresses."""
MOST_FREE: Final = 3
"""Results of which any may stay: of more, the smaller ones go first."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Layers that work together, and the rows of the last one in a band; 0 where it is one layer in tiles."""

    layers: tuple[Node, ...]
    rows: int = 0


@dataclass(frozen=True, slots=True)
class Division:
    """The segments in order, and the results that stay in the scratchpad as a whole."""

    segments: tuple[Segment, ...]
    resident: frozenset[int]


@dataclass(frozen=True, slots=True)
class Bands:
    """What the layers of a segment do in every band: rows made, and rows read of every operand."""

    made: dict[int, list[Span]]
    read: dict[tuple[int, int], list[Span]]
    """By (layer, operand)."""
    delay: dict[int, int]
    """By how many bands a layer is behind the first: what the array needs was made a band before."""

    @property
    def rounds(self) -> int:
        """Bands, and those that the last layers are behind."""
        return len(next(iter(self.made.values()))) + max(self.delay.values())


def bands_of(
    layers: Sequence[Node], rows: int, whole: frozenset[int], uses_array: Callable[[Node], bool]
) -> Bands:
    """The bands of a segment; results in `whole` are made completely, needed inside or not."""
    inside = {n.id for n in layers}
    last = layers[-1]
    ends: dict[int, list[int]] = {n.id: [] for n in layers}
    height = device_shape(last.shape)[1]
    cuts = spans(height, rows)
    for number, cut in enumerate(cuts):
        need = {n.id: 0 for n in layers}
        need[last.id] = cut.stop
        for node in reversed(layers):
            if number == len(cuts) - 1 and node.id in whole:
                need[node.id] = device_shape(node.shape)[1]
            stop = need[node.id]
            for index, operand in enumerate(node.inputs):
                if operand.id in inside and stop:
                    taken = READS[type(node.op)](node, index, Span(0, stop))
                    assert taken is not None
                    need[operand.id] = max(need[operand.id], taken.stop)
        for node in layers:
            ends[node.id].append(max(need[node.id], ends[node.id][-1] if ends[node.id] else 0))
    made = {
        n: [Span(a, b) for a, b in zip([0, *stops[:-1]], stops, strict=True)] for n, stops in ends.items()
    }
    read: dict[tuple[int, int], list[Span]] = {}
    delay: dict[int, int] = {}
    for node in layers:
        reads = READS[type(node.op)]
        behind = 0
        for index, operand in enumerate(node.inputs):
            if operand.is_constant:
                continue
            empty = Span(0, 0)
            read[node.id, index] = [
                (reads(node, index, rows) or empty) if rows.extent else empty for rows in made[node.id]
            ]
            if operand.id in inside:
                behind = max(behind, delay[operand.id] + int(uses_array(node)))
        delay[node.id] = behind
    return Bands(made, read, delay)


@dataclass(frozen=True, slots=True)
class Cost:
    """Estimated cycles and bytes: of the scratchpad while it lasts, of weights that must come first."""

    cycles: float
    memory: int
    weights: int
    rows: int = 0


@dataclass(slots=True)
class State:
    """The cheapest way to a boundary with some results in the scratchpad."""

    cycles: float
    memory: int
    before: tuple[int, frozenset[int]] | None = None
    rows: int = 0


class Divider:
    """Finds the division of a graph's layers.

    Args:
        layers: in order of execution.
        users: for every value the layers that read it, by index; graph inputs too.
        returned: values that are graph outputs.
        may_stay: values that may lie in the scratchpad as a whole.
        target: the machine.
        allowed: what may be done.
    """

    def __init__(
        self,
        layers: Sequence[Node],
        users: Mapping[int, Sequence[int]],
        returned: frozenset[int],
        may_stay: frozenset[int],
        target: Target,
        allowed: Techniques,
    ) -> None:
        self.layers, self.users, self.returned, self.may_stay = layers, users, returned, may_stay
        self.target, self.allowed = target, allowed
        self.index = {n.id: i for i, n in enumerate(layers)}
        self.least: list[Least] = [
            n.op.work([i.type for i in n.inputs], n.type).least(target) for n in layers
        ]
        self.last_use = {n.id: max(users[n.id], default=-1) for n in layers}
        self.size = {n.id: -(-n.type.elements // 64) * 64 for n in layers}
        self.room = int(target.spm.bytes * FILL)
        self.fused: dict[tuple[int, int], list[tuple[int, Bands]] | None] = {}

    def uses_array(self, node: Node) -> bool:
        """Whether a layer works on the matrix array."""
        return self.least[self.index[node.id]].mx_cycles > 0

    def divide(self) -> Division:
        """The cheapest division."""
        count = len(self.layers)
        states: list[dict[frozenset[int], State]] = [{} for _ in range(count + 1)]
        states[0][frozenset()] = State(0.0, 0)
        for begin in range(count):
            for end in range(begin + 1, min(begin + LONGEST, count) + 1):
                if end > begin + 1 and not (self.allowed.fusion and self._can_fuse(begin, end)):
                    continue
                for staying in self._choices(begin, end):
                    for held, state in list(states[begin].items()):
                        self._extend(states, begin, end, held, state, staying)
        return self._traced(states)

    def _traced(self, states: list[dict[frozenset[int], State]]) -> Division:
        place = len(self.layers)
        held, state = min(states[place].items(), key=lambda item: (item[1].cycles, sorted(item[0])))
        segments: list[Segment] = []
        resident: set[int] = set()
        while state.before is not None:
            begin, earlier = state.before
            segments.append(Segment(tuple(self.layers[begin:place]), state.rows))
            resident |= held
            place, held = begin, earlier
            state = states[place][held]
        return Division(tuple(segments[::-1]), frozenset(resident))

    def _choices(self, begin: int, end: int) -> Iterator[frozenset[int]]:
        """Which of the results that leave a segment stay in the scratchpad."""
        leaving = [
            n.id
            for n in self.layers[begin:end]
            if n.id in self.may_stay and self.last_use[n.id] >= end and self.size[n.id] <= self.room
        ]
        if not self.allowed.residency:
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
    ) -> None:
        whole = sum(self.size[n] for n in held) + sum(self.size[n] for n in staying)
        whole -= self._written_over(begin, end, held, staying)
        cost = self._cost(begin, end, held, staying, self.room - whole)
        if cost is None:
            return
        after = frozenset(n for n in held | staying if self.last_use[n] >= end)
        late = max(0, cost.weights + state.memory - self.room) if self.allowed.prefetch else cost.weights
        cycles = state.cycles + cost.cycles + late / self.target.dram.bytes_per_cycle
        known = states[end].get(after)
        if known is None or cycles < known.cycles:
            states[end][after] = State(cycles, whole + cost.memory, (begin, held), cost.rows)

    def _written_over(self, begin: int, end: int, held: frozenset[int], staying: frozenset[int]) -> int:
        """Bytes that an element-wise result takes over from an operand that ends with it."""
        del begin, end, held, staying
        return 0

    # --- one layer -------------------------------------------------------------------------------

    def _cost(
        self, begin: int, end: int, held: frozenset[int], staying: frozenset[int], free: int
    ) -> Cost | None:
        if end == begin + 1:
            return self._single(begin, held, staying, free)
        return self._together(begin, end, held, staying, free)

    def _outside(self, node: Node, held: frozenset[int]) -> int:
        """Bytes of operands that come from DRAM."""
        values = {unreshaped(i).id: i for i in node.inputs if not i.is_constant}
        return sum(i.type.elements for key, i in values.items() if key not in held)

    def _weights(self, index: int) -> int:
        """Bytes of constants: padded columns too."""
        return sum(
            i.type.elements * i.type.dtype.numpy.itemsize for i in self.layers[index].inputs if i.is_constant
        )

    def _single(self, index: int, held: frozenset[int], staying: frozenset[int], free: int) -> Cost | None:
        t, node, least = self.target, self.layers[index], self.least[index]
        if free < t.spm.bytes // 16:
            return None
        loaded, weights = self._outside(node, held), self._weights(index)
        stored = 0 if node.id in staying else node.type.elements
        half = free // 2
        moved = loaded + weights
        if loaded and weights > half and loaded > half:
            moved = min(
                loaded * math.ceil(weights / half) + weights, loaded + weights * math.ceil(loaded / half)
            )
        dram = (moved + stored) / t.dram.bytes_per_cycle
        array = least.mx_cycles * (1 + self._overhead(index))
        vector = least.vx_lanes / t.vx.lanes
        cycles = max(array, vector, dram) + t.dram.latency_read + min(array, vector) * 0.1
        memory = min(2 * weights, half) + min(loaded, half) // 2 + min(stored, half) // 2
        if memory > free:
            memory = free
        return Cost(cycles, memory, min(weights, half))

    def _overhead(self, index: int) -> float:
        """Filling and draining of the array, as a share of its passes."""
        t, least = self.target, self.least[index]
        if not least.mx_cycles:
            return 0.0
        _, h, w, c = device_shape(self.layers[index].shape)
        groups = math.ceil(c / t.mx.cols)
        tiles = math.ceil(groups * h * w / max(t.acc.rows // 2, 1))
        return tiles * (t.ctl.issue + 2 * t.mx.rows + t.mx.cols) / least.mx_cycles

    # --- several layers --------------------------------------------------------------------------

    def _can_fuse(self, begin: int, end: int) -> bool:
        """Whether these layers can work together at all; every one but the last feeds another of them."""
        inside = {n.id for n in self.layers[begin:end]}
        for node in self.layers[begin:end]:
            reads = READS.get(type(node.op))
            if reads is None or device_shape(node.shape)[0] != device_shape(self.layers[begin].shape)[0]:
                return False
            for index, operand in enumerate(node.inputs):
                if operand.is_constant:
                    continue
                if unreshaped(operand).id != operand.id or reads(node, index, Span(0, 1)) is None:
                    return False
            feeds = any(begin <= u < end for u in self.users[node.id])
            if node.id not in inside or (node is not self.layers[end - 1] and not feeds):
                return False
        return device_shape(self.layers[end - 1].shape)[1] > 1

    def _together(
        self, begin: int, end: int, held: frozenset[int], staying: frozenset[int], free: int
    ) -> Cost | None:
        weights = sum(self._weights(i) for i in range(begin, end))
        params = sum(
            8 * i.shape[0] for n in self.layers[begin:end] for i in n.inputs[2:3] if i.is_constant and i.shape
        )
        if weights > free or params > self.target.prm.bytes * 3 // 4:
            return None
        best: Cost | None = None
        for rows, bands in self._cuts(begin, end):
            cost = self._banded(begin, end, held, staying, rows, bands, weights)
            if cost.memory <= free and (best is None or cost.cycles < best.cycles):
                best = cost
        return best

    def _cuts(self, begin: int, end: int) -> list[tuple[int, Bands]]:
        key = (begin, end)
        if key not in self.fused:
            layers = self.layers[begin:end]
            height = device_shape(layers[-1].shape)[1]
            sizes = sorted({math.ceil(height / d) for d in DIVISIONS if d <= height and d > 1}, reverse=True)
            whole = frozenset(n.id for n in layers if self.last_use[n.id] >= end or n.id in self.returned)
            self.fused[key] = [(r, bands_of(layers, r, whole, self.uses_array)) for r in sizes]
        found = self.fused[key]
        assert found is not None
        return found

    def _banded(
        self,
        begin: int,
        end: int,
        held: frozenset[int],
        staying: frozenset[int],
        rows: int,
        bands: Bands,
        weights: int,
    ) -> Cost:
        t = self.target
        array = vector = moved = 0.0
        memory = weights
        half = max(t.acc.rows // 2, 1)
        inside = {n.id for n in self.layers[begin:end]}
        count = len(bands.made[self.layers[begin].id])
        for index in range(begin, end):
            node, least = self.layers[index], self.least[index]
            _, h, w, c = device_shape(node.shape)
            made = bands.made[node.id]
            most = max(s.extent for s in made)
            if least.mx_cycles:
                passes = least.mx_cycles / (h * w)
                groups = math.ceil(c / t.mx.cols)
                each = t.ctl.issue + 2 * t.mx.rows + t.mx.cols
                for span in made:
                    area = span.extent * w
                    array += passes * max(area, t.mx.rows if area else 0) + each * math.ceil(
                        groups * area / half
                    )
            vector += least.vx_lanes / t.vx.lanes + count * 12
            if node.id not in staying:
                memory += (2 + self._lag(node, bands, inside)) * most * w * c
                halo = self._halo(node, bands, inside)
                memory += 2 * halo * w * c
                vector += count * (halo * w * c / t.vx.lanes + (12 if halo else 0))
            if node.id not in staying and (self.last_use[node.id] >= end or node.id in self.returned):
                moved += node.type.elements
        for key, spans_read in self._entering(begin, end, held, bands).items():
            node = key
            _, h, w, c = device_shape(node.shape)
            del h
            taken = max(s.extent for s in spans_read)
            memory += 2 * taken * w * c
            moved += sum(s.extent for s in spans_read) * w * c
        moved += weights
        longest = max(array, vector, moved / t.dram.bytes_per_cycle)
        ramp = (array + vector) / count
        return Cost(longest + ramp + t.dram.latency_read, memory, weights, rows)

    def _lag(self, node: Node, bands: Bands, inside: set[int]) -> int:
        """By how many bands the readers of a result are behind it."""
        readers = [self.layers[u].id for u in self.users[node.id] if self.layers[u].id in inside]
        return max((bands.delay[r] - bands.delay[node.id] for r in readers), default=0)

    def _halo(self, node: Node, bands: Bands, inside: set[int]) -> int:
        """Rows that move from one line buffer to the next, in the middle of the image."""
        made = bands.made[node.id]
        middle = len(made) // 2
        halo = 0
        for user in self.users[node.id]:
            reader = self.layers[user]
            if reader.id in inside:
                for index, operand in enumerate(reader.inputs):
                    if operand.id == node.id:
                        start = bands.read[reader.id, index][middle].start
                        halo = max(halo, made[middle].start - start)
        return halo

    def _entering(self, begin: int, end: int, held: frozenset[int], bands: Bands) -> dict[Node, list[Span]]:
        """What comes from DRAM band by band: for every value the rows that its readers need."""
        inside = {n.id for n in self.layers[begin:end]}
        found: dict[Node, list[Span]] = {}
        for node in self.layers[begin:end]:
            for index, operand in enumerate(node.inputs):
                if operand.is_constant or operand.id in inside or operand.id in held:
                    continue
                spans_read = bands.read[node.id, index]
                known = found.get(operand)
                found[operand] = spans_read if known is None else list(map(union, known, spans_read))
        return found


def union(a: Span, b: Span) -> Span:
    """The range from the first to the last of two ranges."""
    if not a.extent or not b.extent:
        return a if a.extent else b
    return Span(min(a.start, b.start), max(a.stop, b.stop))
