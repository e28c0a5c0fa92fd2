"""Insert tokens: waits and signals that keep conflicting accesses in program order.

Works from the declared `accesses` on any order of instructions. An instruction must come after
the last conflicting one of every other engine; because engines are in order, one per engine is
enough, and one that is implied by others is left out (transitive reduction by vector clocks). What the
control engine executes at dispatch waits like the others; everything later comes after it by itself.
A semaphore serves one pair of engines, and its k-th signal belongs to its k-th wait. A pair that gets none,
because the target has few, is kept in order by fences.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Final

from compiler.schedule.order.history import History, Part
from isa.accesses import AccessTable, tabulate
from isa.instructions.control import Fence
from isa.program import is_read_only
from isa.spec import INSTRUCTIONS, MAX_SIGNALS, MAX_WAITS, Engine, Instruction
from isa.support.records import Frozen, Struct, field, replace
from isa.target import Target

PAIRS: Final = 12
"""Pairs of one engine that signals and another that waits, of LD, ST, MX and VX: they have equal shares."""
BEFORE_ALL: Final[tuple[int, ...]] = (-1,) * len(Engine)


class Edge(Struct, eq=False):
    """`user` must wait for `producer`; both are indices of the stream."""

    producer: int
    user: int
    semaphore: int = -1


class Synchronized(Frozen):
    """The stream with its tokens; `origin` gives each instruction's index before.

    An instruction that only carries a third wait or signal has the index of the one it serves.
    """

    instructions: list[Instruction]
    origin: list[int]


def insert_tokens(stream: Sequence[Instruction], target: Target) -> Synchronized:
    """The stream with the waits, signals and fences that it needs."""
    edges, loose = assign_semaphores(required_edges(stream, target), stream, target)
    fences = fences_for(loose)
    waits: dict[int, list[int]] = defaultdict(list)
    signals: dict[int, list[int]] = defaultdict(list)
    for edge in edges:
        signals[edge.producer].append(edge.semaphore)
        waits[edge.user].append(edge.semaphore)
    result = Synchronized([], [])
    for index, instr in enumerate(stream):
        fence = [Fence()] if index in fences else []
        for made in (*fence, *_carried(instr, sorted(waits[index]), sorted(signals[index]))):
            result.instructions.append(made)
            result.origin.append(index)
    return result


def required_edges(stream: Sequence[Instruction], target: Target) -> list[Edge]:
    """The edges between engines that no other edge implies, in order of their users.

    An access counts as the range from its first to its last byte: where strided boxes lie in one
    another an edge may be more than is needed, never less.
    """
    table = tabulate(stream, target)
    touched = _accesses(table)
    history = History()
    clocks: list[tuple[int, ...]] = []
    latest: list[tuple[int, ...]] = [BEFORE_ALL for _ in Engine]
    edges: list[Edge] = []
    for index, instr in enumerate(stream):
        if instr.is_barrier:  # after everything before it, and before everything after it
            latest = [(index,) * len(Engine)] * len(Engine)
            clocks.append(latest[0])
            continue
        clock = latest[instr.engine]
        for producer in sorted(history.touch(instr.engine, touched[index], index, clock), reverse=True):
            if clock[stream[producer].engine] < producer:
                edges.append(Edge(producer, index))
                clock = tuple(map(max, clock, clocks[producer]))
        clock = (*clock[: instr.engine], index, *clock[instr.engine + 1 :])
        clocks.append(clock)
        latest[instr.engine] = clock
        if instr.engine is Engine.CTL:
            latest = [tuple(map(max, own, clock)) for own in latest]
    return edges


def _accesses(table: AccessTable) -> list[list[Part]]:
    """The bytes that every instruction touches of what can be written."""
    prototypes = table.prototypes
    constant = [is_read_only(a) for a in prototypes]
    memories: list[int] = table.memory.tolist()
    writes: list[bool] = table.write.tolist()
    pcs: list[int] = table.pc.tolist()
    kinds: list[int] = table.prototype.tolist()
    lows: list[int] = table.low.tolist()
    highs: list[int] = table.high.tolist()
    found: list[list[Part]] = [[] for _ in range(len(table.form))]
    for pc, kind, low, high in zip(pcs, kinds, lows, highs, strict=True):
        if not constant[kind]:
            found[pc].append((memories[kind], low, high, writes[kind]))
    return found


class _Pair(Struct):
    """The semaphores between two engines, and the edges signalled and not yet waited for."""

    semaphores: dict[int, int] = field(default_factory=dict[int, int])
    outstanding: deque[Edge] = field(default_factory=deque[Edge])


def fences_for(edges: Sequence[Edge]) -> set[int]:
    """The instructions before which a fence is put, so that every edge has one between its ends."""
    found: set[int] = set()
    last = -1
    for edge in sorted(edges, key=lambda e: e.user):
        if last <= edge.producer:
            last = edge.user
            found.add(last)
    return found


def assign_semaphores(
    edges: list[Edge], stream: Sequence[Instruction], target: Target
) -> tuple[list[Edge], list[Edge]]:
    """The edges with a semaphore each, none ever above its capacity in program order, and those without one.

    Where a pair of engines has no room for another token, its newest outstanding one is signalled
    later instead: the earlier wait then stands for both.
    """
    starting: dict[int, list[Edge]] = defaultdict(list)
    ending: dict[int, list[Edge]] = defaultdict(list)
    for edge in edges:
        starting[edge.producer].append(edge)
        ending[edge.user].append(edge)
    pairs: dict[tuple[Engine, Engine], _Pair] = defaultdict(_Pair)
    occurring = len({(stream[e.producer].engine, stream[e.user].engine) for e in edges})
    share = max(1, target.ctl.sems // max(PAIRS, occurring))
    kept: list[Edge] = []
    loose: list[Edge] = []
    used = 0
    for index, instr in enumerate(stream):
        for edge in ending[index]:
            if edge.semaphore < 0:
                continue  # merged into an earlier wait
            pair = pairs[stream[edge.producer].engine, instr.engine]
            pair.outstanding.remove(edge)
            pair.semaphores[edge.semaphore] -= 1
        for edge in starting[index]:
            pair = pairs[instr.engine, stream[edge.user].engine]
            free = next((s for s, n in pair.semaphores.items() if n < target.ctl.sem_max), None)
            if free is None and used < target.ctl.sems and len(pair.semaphores) < share:
                free = used
                pair.semaphores[free] = 0
                used += 1
            if free is None:
                if pair.outstanding:
                    pair.outstanding[-1].producer = index
                else:
                    loose.append(edge)
                continue
            edge.semaphore = free
            pair.semaphores[free] += 1
            pair.outstanding.append(edge)
            kept.append(edge)
    return kept, loose


def _carried(instr: Instruction, waits: list[int], signals: list[int]) -> list[Instruction]:
    """The instruction with two waits and two signals, the rest on carriers around it."""
    if not waits and not signals:
        return [instr]
    carrier = INSTRUCTIONS[f"wait.{instr.engine.name.lower()}"]
    before = [carrier(waits=g) for g in _groups(waits[MAX_WAITS:], MAX_WAITS)]
    after = [carrier(signals=g) for g in _groups(signals[MAX_SIGNALS:], MAX_SIGNALS)]
    own = replace(instr, waits=tuple(waits[:MAX_WAITS]), signals=tuple(signals[:MAX_SIGNALS]))
    return [*before, own, *after]


def _groups(items: list[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(items[i : i + size]) for i in range(0, len(items), size)]
