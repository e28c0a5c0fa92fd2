"""Which device computes what: by rows, by channels, all of it; or layer after layer on one device each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Final

from compiler.ir.graph import Graph, Node
from compiler.ops.quantize_linear import Quantize, device_values
from compiler.partition.boxes import add_needs, common, even
from compiler.partition.estimate import exchange_cycles, part_cycles
from compiler.rules.partitioning import part_of
from isa.program import Box, box_shape, hull, volume, whole_box
from isa.support.records import Frozen
from isa.target import Target

Assigned = tuple[Box | None, ...]
"""What each device computes of a value."""
BATCH, ROWS, CHANNELS, WHOLE = "batch", "rows", "channels", "whole"
STATES: Final = 24
"""Ways that are followed up after each layer: the cheapest."""


class Way(Frozen):
    """A choice for all values so far: its cost, and of every value that is still to be read its layout."""

    cycles: float
    live: Mapping[int, tuple[str, bool]]
    """How a value lies, and whether every device has all of it by now."""
    chosen: Mapping[int, str]


def computed_values(graph: Graph) -> list[Node]:
    """The values that devices compute, in order."""
    return [n for n in device_values(graph) if not isinstance(n.op, Quantize)]


def boxes_of(node: Node, mode: str, devices: int, columns: int = 1) -> Assigned | None:
    """What each device computes of a value by a mode; None where it cannot be divided so.

    Channels go in groups of so many columns of the array, or of fewer where there are few.
    """
    everything = whole_box(node.shape)
    if mode == WHOLE:
        return (everything,) * devices
    rank = len(node.shape)
    axis = {BATCH: 0, ROWS: rank - 3, CHANNELS: rank - 1}[mode]
    if not 0 <= axis < rank or node.shape[axis] < devices:
        return None
    unit = columns if mode == CHANNELS else 1
    while unit > 1 and -(-node.shape[axis] // unit) < devices:
        unit //= 2
    ranges = even(node.shape[axis], devices, unit)
    if any(low >= high for low, high in ranges):
        return None
    found = tuple((*everything[:axis], r, *everything[axis + 1 :]) for r in ranges)
    return found if all(part_of(node, box) is not None for box in found) else None


def whole_images(graph: Graph, devices: int) -> dict[int, Assigned] | None:
    """Every device some images of the batch; None where that cannot be."""
    found: dict[int, Assigned] = {}
    for node in computed_values(graph):
        boxes = boxes_of(node, BATCH, devices)
        if boxes is None:
            return None
        found[node.id] = boxes
    return found


class Belief(Frozen):
    """What exchanges are believed to cost: no estimate is right everywhere, and the cycle model decides.

    `weight` is that of an exchange against what is computed: some of it is hidden. `one_by_one` says that the
    readiness for each message is waited for, not for the first alone.
    """

    weight: float = 1.0
    one_by_one: bool = False


PLAIN: Final = Belief()


class Hybrid:
    """Finds a mode for every value, by dynamic programming over the values in order.

    Args:
        graph: the network.
        target: the machine.
        devices: how many.
        modes: what is tried, besides that every device computes all of a value.
        belief: about exchanges.
    """

    def __init__(
        self, graph: Graph, target: Target, devices: int, modes: Sequence[str], belief: Belief = PLAIN
    ) -> None:
        self.target, self.devices, self.belief = target, devices, belief
        self.values = computed_values(graph)
        self.boxes: dict[tuple[int, str], Assigned] = {}
        self.cost: dict[tuple[int, str], float] = {}
        for node in self.values:
            for mode in (*modes, WHOLE):
                found = boxes_of(node, mode, devices, target.mx.cols)
                if found is None:
                    continue
                costs = [part_cycles(node, box, target) for box in set(found) if box is not None]
                self.boxes[node.id, mode] = found
                self.cost[node.id, mode] = max(c for c in costs if c is not None)
        index = {n.id: i for i, n in enumerate(self.values)}
        self.last_use = {
            n.id: max((index[u.id] for u in graph.users(n) if u.id in index), default=-1) for n in self.values
        }

    def run(self) -> dict[int, Assigned]:
        """What each device computes of every value."""
        ways = [Way(0.0, {}, {})]
        for number, node in enumerate(self.values):
            found: dict[tuple[object, ...], Way] = {}
            for way in ways:
                for mode in (ROWS, CHANNELS, WHOLE):
                    if (node.id, mode) in self.boxes:
                        made = self._next(way, number, node, mode)
                        key = tuple(sorted(made.live.items()))
                        if key not in found or made.cycles < found[key].cycles:
                            found[key] = made
            ways = sorted(found.values(), key=lambda w: w.cycles)[:STATES]
        chosen = ways[0].chosen
        assigned = {n.id: self.boxes[n.id, chosen[n.id]] for n in self.values}
        return self._recomputed(assigned, chosen)

    def _next(self, way: Way, number: int, node: Node, mode: str) -> Way:
        cycles = way.cycles + self.cost[node.id, mode]
        live = dict(way.live)
        for index, operand in enumerate(node.inputs):
            if operand.id not in live:
                continue
            layout, gathered = live[operand.id]
            if gathered:
                continue
            owned, mine = self.boxes[operand.id, layout], self.boxes[node.id, mode]
            reads = [self._read(node, index, box) for box in mine]
            lacking = max(_lacking(read, own) for read, own in zip(reads, owned, strict=True))
            cycles += self._exchange(lacking, _most_messages(reads, owned))
            if lacking * 2 > volume(operand.shape) // self.devices:
                live[operand.id] = layout, True
        live[node.id] = mode, False
        live = {k: v for k, v in live.items() if self.last_use[k] > number}
        return Way(cycles, live, {**way.chosen, node.id: mode})

    def _exchange(self, received: int, messages: int) -> float:
        """What an exchange is believed to cost."""
        counted = messages if self.belief.one_by_one else min(messages, 1)
        return self.belief.weight * exchange_cycles(received, counted, self.target)

    @staticmethod
    def _read(node: Node, index: int, box: Box | None) -> Box | None:
        part = None if box is None else part_of(node, box)
        return None if part is None else part.reads[index]

    def _recomputed(self, assigned: dict[int, Assigned], chosen: Mapping[int, str]) -> dict[int, Assigned]:
        """Rows that are cheaper computed twice than exchanged, from the last value to the first."""
        found = dict(assigned)
        needs: list[dict[int, Box]] = [{} for _ in range(self.devices)]
        for node in reversed(self.values):
            own = found[node.id]
            wanted = [
                hull(n.get(node.id), b) if b is not None else None for n, b in zip(needs, own, strict=True)
            ]
            if chosen[node.id] == ROWS and self._is_cheaper(node, own, wanted):
                found[node.id] = tuple(wanted)
            for device, box in enumerate(found[node.id]):
                if box is not None:
                    add_needs(needs[device], node, box)
        return found

    def _is_cheaper(self, node: Node, own: Assigned, wanted: Sequence[Box | None]) -> bool:
        """Whether the rows that others have made are made again for less than it takes to get them."""
        lacking = max(_lacking(w, o) for w, o in zip(wanted, own, strict=True))
        if not lacking or any(w is None or part_of(node, w) is None for w in wanted):
            return False
        costs = [part_cycles(node, w, self.target) for w in wanted if w is not None]
        more = max(c for c in costs if c is not None) - self.cost[node.id, ROWS]
        messages = _most_messages(wanted, own)
        return more < self._exchange(lacking, messages)


def _most_messages(reads: Sequence[Box | None], owned: Assigned) -> int:
    """From how many others a device has what it reads, of the device with the most."""
    return max(
        sum(
            own is not None and common(read, own) is not None
            for other, own in enumerate(owned)
            if other != device and read is not None
        )
        for device, read in enumerate(reads)
    )


def _lacking(read: Box | None, own: Box | None) -> int:
    """Elements that a device reads and has not."""
    if read is None:
        return 0
    shared = None if own is None else common(read, own)
    return volume(box_shape(read)) - (0 if shared is None else volume(box_shape(shared)))


def pipeline(graph: Graph, cycles: Mapping[int, float], devices: int, t: Target) -> dict[int, Assigned]:
    """Layers in order, cut so that the slowest device is as fast as can be; `cycles` are those of values."""
    values = computed_values(graph)
    sums = list(accumulate((cycles.get(n.id, 0.0) for n in values), initial=0.0))
    crossing = _crossing(graph, values, t)
    count = len(values)
    best = [[float("inf")] * (count + 1) for _ in range(devices + 1)]
    cut = [[0] * (count + 1) for _ in range(devices + 1)]
    best[0][0] = 0.0
    for stage in range(1, devices + 1):
        for end in range(stage, count + 1):
            for begin in range(stage - 1, end):
                own = sums[end] - sums[begin] + crossing[begin] + crossing[end]
                slowest = max(best[stage - 1][begin], own)
                if slowest < best[stage][end]:
                    best[stage][end], cut[stage][end] = slowest, begin
    owner = [0] * count
    end = count
    for stage in range(devices, 0, -1):
        begin = cut[stage][end]
        owner[begin:end] = [stage - 1] * (end - begin)
        end = begin
    return {
        n.id: tuple(whole_box(n.shape) if d == o else None for d in range(devices))
        for n, o in zip(values, owner, strict=True)
    }


def _crossing(graph: Graph, values: Sequence[Node], t: Target) -> list[float]:
    """For every place between values the cycles for what passes there."""
    index = {n.id: i for i, n in enumerate(values)}
    change = [0] * (len(values) + 2)
    for node in values:
        last = max((index[u.id] for u in graph.users(node) if u.id in index), default=-1)
        if last > index[node.id]:
            change[index[node.id] + 1] += volume(node.shape)
            change[last + 1] -= volume(node.shape)
    passing = list(accumulate(change))[: len(values) + 1]
    return [exchange_cycles(n, 1, t) for n in passing]
