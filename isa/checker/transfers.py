"""Rules N1 and N2 for transfers between devices: docs/isa/machine.md states both.

What is before what is a graph of events; the programs end if no event comes, along it, before itself. Two
such graphs are looked at: the meaning, each device in program order with sends that never wait; and the
machine, with tokens, dispatch in order, queues of one place, and transfers that start on both sides
together. A machine with longer queues does nothing later than that one.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

from isa.checker.report import Violations
from isa.checker.tokens import Matches
from isa.program import Program
from isa.spec import Engine, Instruction, Transfer, Trap
from isa.support.records import Frozen, Struct, field
from isa.waiting import Blocked, followed, waiting_text

Channel = tuple[int, int, int]
"""The device that sends, that which receives, the number of the channel."""
Place = tuple[int, int]
"""A device, and an instruction of it."""
DISPATCHED, STARTED, COMPLETED = range(3)
EVENTS: Final = 3
"""Events of every instruction."""


class Pair(Frozen):
    """Both sides of a transfer."""

    send: Place
    receive: Place


class _Sides(Struct):
    """What is sent on a channel, and what is received."""

    sends: list[tuple[int, Transfer]] = field(default_factory=list[tuple[int, Transfer]])
    receives: list[tuple[int, Transfer]] = field(default_factory=list[tuple[int, Transfer]])


def check_transfers(
    programs: Sequence[Program], matches: Sequence[Matches], findings: Sequence[Violations]
) -> None:
    """Rules N1 and N2; `matches` and `findings` are those of each device."""
    pairs = _matched(programs, findings)
    if any(f.found for f in findings):
        return
    for text in (_in_program_order(programs, pairs), _on_the_machine(programs, matches, pairs)):
        if text is not None:
            device, pc, message = text
            findings[device].add(Trap.DEADLOCK, pc, message)
            return


def _matched(programs: Sequence[Program], findings: Sequence[Violations]) -> list[Pair]:
    """N1: the k-th send and the k-th receive of a channel name the same tag and number of bytes."""
    pairs: list[Pair] = []
    for (source, destination, channel), sides in _channels(programs, findings).items():
        for (sent_at, sent), (got_at, got) in zip(sides.sends, sides.receives, strict=False):
            if (sent.bytes, sent.tag) != (got.bytes, got.tag):
                text = (
                    f"receives {got.bytes} bytes with tag {got.tag}; device {source} pc {sent_at} "
                    f"sends {sent.bytes} with tag {sent.tag}"
                )
                findings[destination].add(Trap.UNMATCHED, got_at, text, sent_at)
            pairs.append(Pair((source, sent_at), (destination, got_at)))
        common = min(len(sides.sends), len(sides.receives))
        for pc, _ in sides.sends[common:]:
            text = f"sends to device {destination} on channel {channel}, which does not receive it"
            findings[source].add(Trap.UNMATCHED, pc, text)
        for pc, _ in sides.receives[common:]:
            text = f"receives from device {source} on channel {channel}, which does not send it"
            findings[destination].add(Trap.UNMATCHED, pc, text)
    return pairs


def _channels(programs: Sequence[Program], findings: Sequence[Violations]) -> dict[Channel, _Sides]:
    found: dict[Channel, _Sides] = {}
    for device, program in enumerate(programs):
        for pc, instr in enumerate(program.instructions):
            transfer = instr.transfer()
            if transfer is None:
                continue
            if text := transfer.peer_fault(device, len(programs)):
                findings[device].add(Trap.PEER, pc, text)
                continue
            other = transfer.other(device, len(programs))
            ends = (device, other) if transfer.sends else (other, device)
            sides = found.setdefault((*ends, transfer.channel), _Sides())
            (sides.sends if transfer.sends else sides.receives).append((pc, transfer))
    return found


def _in_program_order(programs: Sequence[Program], pairs: Iterable[Pair]) -> tuple[int, int, str] | None:
    """N2, the meaning: why not every transfer happens in program order, and where."""
    places = sorted(p for pair in pairs for p in (pair.send, pair.receive))
    number = {place: n for n, place in enumerate(places)}
    graph = _Graph(len(places))
    for before, after in itertools.pairwise(places):
        if before[0] == after[0]:
            graph.order(number[before], number[after])
    for pair in pairs:
        graph.order(number[pair.send], number[pair.receive])
    return _circle(programs, graph.stuck(), {n: place for place, n in number.items()})


def _on_the_machine(
    programs: Sequence[Program], matches: Sequence[Matches], pairs: Iterable[Pair]
) -> tuple[int, int, str] | None:
    """N2, the machine: why not every instruction completes, and where."""
    first: list[int] = [0]
    for program in programs:
        first.append(first[-1] + EVENTS * len(program.instructions))
    graph = _Graph(first[-1])
    for device, program in enumerate(programs):
        _order_device(graph, program.instructions, matches[device], first[device], program.target.ctl.sem_max)
    for pair in pairs:  # both start together: each after the other stands at the head with its tokens
        one, other = (first[d] + EVENTS * pc + STARTED for d, pc in (pair.send, pair.receive))
        graph.join(one, other)
    stuck = graph.stuck()
    places = {
        event: (device, (event - first[device]) // EVENTS)
        for device in range(len(programs))
        for event in stuck
        if first[device] <= event < first[device + 1]
    }
    return _circle(programs, stuck, places)


def _order_device(
    graph: _Graph, stream: Sequence[Instruction], matches: Matches, first: int, capacity: int
) -> None:
    """The order of the events of a device, with queues of one place."""
    latest: dict[Engine, int] = {}
    waits: dict[int, list[int]] = {}
    signals: dict[int, int] = {}
    for pc, instr in enumerate(stream):
        dispatched, started, completed = (first + EVENTS * pc + e for e in range(EVENTS))
        before = first + EVENTS * (pc - 1)
        is_control = instr.engine is Engine.CTL
        if pc:
            graph.order(before + (STARTED if stream[pc - 1].engine is Engine.CTL else DISPATCHED), dispatched)
        graph.order(dispatched, started)
        graph.order(started, completed)
        previous = latest.get(instr.engine)
        if previous is not None:
            graph.order(previous + STARTED, started if is_control else dispatched)
            graph.order(previous + COMPLETED, completed)
        if instr.is_barrier:
            for other in latest.values():
                graph.order(other + COMPLETED, started)
        for signaller in matches.get(pc, ()):
            graph.order(first + EVENTS * signaller + COMPLETED, started)
        for semaphore in instr.waits:
            waits.setdefault(semaphore, []).append(started)
        for semaphore in instr.signals:
            count = signals.get(semaphore, 0)
            if count >= capacity:
                graph.order(waits[semaphore][count - capacity], completed)
            signals[semaphore] = count + 1
        latest[instr.engine] = first + EVENTS * pc


class _Graph:
    """Events, and which must come before which."""

    def __init__(self, count: int) -> None:
        self.after: list[list[int]] = [[] for _ in range(count)]
        self.missing = [0] * count
        self.joined: dict[int, int] = {}
        """Events that happen together."""

    def order(self, before: int, after: int) -> None:
        """Let an event come before another."""
        self.after[before].append(after)
        self.missing[after] += 1

    def join(self, one: int, other: int) -> None:
        """Let two events happen together."""
        self.joined[one], self.joined[other] = other, one

    def stuck(self) -> dict[int, int]:
        """The events that never happen, and of each one that it waits for."""
        ready = deque(event for event, count in enumerate(self.missing) if not count)
        happened = [False] * len(self.missing)
        while ready:
            event = ready.popleft()
            other = self.joined.get(event)
            if happened[event] or (other is not None and self.missing[other]):
                continue
            for each in (event,) if other is None else (event, other):
                happened[each] = True
                for later in self.after[each]:
                    self.missing[later] -= 1
                    if not self.missing[later]:
                        ready.append(later)
        return self._waiting(happened)

    def _waiting(self, happened: Sequence[bool]) -> dict[int, int]:
        """Of each event that never happens one that it waits for."""
        waiting = {
            later: event
            for event, afters in enumerate(self.after)
            if not happened[event]
            for later in afters
            if not happened[later]
        }
        for event, other in self.joined.items():
            if not happened[event]:
                waiting.setdefault(event, other)
        return waiting


def _circle(
    programs: Sequence[Program], stuck: dict[int, int], places: dict[int, Place]
) -> tuple[int, int, str] | None:
    """The circle of those that wait for one another: its first transfer, and its text."""
    if not stuck:
        return None
    events, _ = followed(next(iter(stuck)), stuck)
    met = list(dict.fromkeys(places[e] for e in events))
    transfers = [(d, pc) for d, pc in met if programs[d].instructions[pc].transfer() is not None]
    shown = [Blocked(programs[d], pc) for d, pc in transfers or met]
    return shown[0].program.device, shown[0].pc, waiting_text(shown, closes=True)
