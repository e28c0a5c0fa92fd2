"""Programs with one fault planted, and the decision whether a mutant means the same.

That decision knows nothing of the checker: happens-before is the transitive closure, as sets, and the
conflicts of the original are all pairs of instructions, compared access by access.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from isa.encoding import addresses
from isa.footprint import overlaps
from isa.program import Program
from isa.spec import Access, Engine, Instruction
from isa.support.records import replace
from tests.tokens import Pair, token_pairs, with_stream, without, without_pair

Random = np.random.Generator
Conflict = tuple[int, int]
"""Instructions of different engines that touch a common byte, one of them writing; the earlier first."""
PITCHES = ("ips", "irs", "ops", "ors", "aps", "ars", "bps", "brs", "ags", "aws", "ap", "bp", "bg", "ds", "ls",
           "ss", "dd")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """A changed program; `places` gives for every instruction of the original where it is now."""

    program: Program
    places: Sequence[int]


def dropped_pair(program: Program, random: Random) -> Mutant | None:
    """A token less."""
    pairs = list(token_pairs(program.instructions))
    if not pairs:
        return None
    mutant = without_pair(program, pairs[int(random.integers(len(pairs)))])
    return Mutant(mutant, range(len(program.instructions)))


def moved_token(program: Program, random: Random) -> Mutant | None:
    """One end of a token on the instruction before or after."""
    stream = list(program.instructions)
    ends = [(kind, pair) for pair in token_pairs(stream) for kind in ("signals", "waits")]
    random.shuffle(ends)
    for kind, pair in ends:
        moved = _moved(stream, kind, pair, int(random.choice([-1, 1])))
        if moved is not None:
            return Mutant(with_stream(program, moved), range(len(stream)))
    return None


def moved_in_queue(program: Program, random: Random) -> Mutant | None:
    """One end of a token on the engine's instruction before or after: often harmless, if later or earlier."""
    stream = list(program.instructions)
    ends = [(kind, pair) for pair in token_pairs(stream) for kind in ("signals", "waits")]
    random.shuffle(ends)
    for kind, pair in ends:
        source = pair[0] if kind == "signals" else pair[1]
        queue = [pc for pc, instr in enumerate(stream) if instr.engine is stream[source].engine]
        place = queue.index(source) + int(random.choice([-1, 1]))
        if 0 <= place < len(queue):
            moved = _moved(stream, kind, pair, queue[place] - source)
            if moved is not None:
                return Mutant(with_stream(program, moved), range(len(stream)))
    return None


def swapped(program: Program, random: Random) -> Mutant | None:
    """Two instructions of which one depends on the other, in each other's place."""
    found = conflicts(program)
    if not found:
        return None
    earlier, later = found[int(random.integers(len(found)))]
    stream = list(program.instructions)
    stream[earlier], stream[later] = stream[later], stream[earlier]
    places = list(range(len(stream)))
    places[earlier], places[later] = later, earlier
    return Mutant(with_stream(program, stream), places)


def nudged(program: Program, random: Random) -> Mutant | None:
    """An address or a pitch off by one."""
    stream = list(program.instructions)
    order: list[int] = random.permutation(len(stream)).tolist()
    for pc in order:
        instr = stream[pc]
        names = [o.name for o in addresses(type(instr))]
        names += [o.name for o in instr.operands if o.name.rstrip("123") in PITCHES]
        usable = sorted(set(names) - instr.unused())
        if not usable:
            continue
        name = usable[int(random.integers(len(usable)))]
        spec = next(o for o in instr.operands if o.name == name)
        low, high = spec.bounds(signed=spec.signed)
        value = getattr(instr, name) + spec.scale * int(random.choice([-1, 1]))
        if low <= value <= high:
            stream[pc] = replace(instr, **{name: value})
            return Mutant(with_stream(program, stream), range(len(stream)))
    return None


MUTATIONS: dict[str, Callable[[Program, Random], Mutant | None]] = {
    "dropped pair": dropped_pair,
    "moved token": moved_token,
    "moved in queue": moved_in_queue,
    "swapped": swapped,
    "nudged": nudged,
}


def conflicts(program: Program) -> list[Conflict]:
    """Every conflict, by comparing all pairs."""
    accesses = [list(instr.accesses(program.target)) for instr in program.instructions]
    return [
        (i, j)
        for j, later in enumerate(program.instructions)
        for i in range(j)
        if program.instructions[i].engine is not later.engine and _conflict(accesses[i], accesses[j])
    ]


def keeps_order(program: Program, found: list[Conflict], mutant: Mutant) -> bool:
    """Whether the mutant orders every conflict of the original, and does not deadlock."""
    before = closure(mutant.program.instructions)
    if before is None:
        return False
    return all(before[mutant.places[j]] >> mutant.places[i] & 1 for i, j in found)


def same_accesses(program: Program, mutant: Mutant) -> bool:
    """Whether every instruction names the bytes that it named."""
    streams = (program.instructions, mutant.program.instructions)
    return all(_bytes(a, program) == _bytes(b, program) for a, b in zip(*streams, strict=True) if a != b)


def closure(stream: Sequence[Instruction]) -> list[int] | None:
    """For every instruction the set, as bits, of those that happen before it; None if a wait finds nothing."""
    try:
        pairs = list(token_pairs(stream))
    except (IndexError, KeyError):
        return None
    signallers: dict[int, list[int]] = {}
    for signaller, waiter, _ in pairs:
        signallers.setdefault(waiter, []).append(signaller)
    before: list[int] = []
    last: dict[Engine, int] = {}
    for pc, instr in enumerate(stream):
        direct = [last[e] for e in Engine if e in last and e in (instr.engine, Engine.CTL)]
        direct += range(pc) if instr.is_barrier else signallers.get(pc, [])
        past = 0
        for other in direct:
            past |= before[other] | 1 << other
        before.append(past)
        last[instr.engine] = pc
    return before


def _moved(stream: list[Instruction], kind: str, pair: Pair, step: int) -> list[Instruction] | None:
    """The stream with one end of a token a place further; None where that slot is taken or beyond the ends."""
    signaller, waiter, semaphore = pair
    source = signaller if kind == "signals" else waiter
    place = source + step
    if not 0 <= place < len(stream) - 1:
        return None
    held: tuple[int, ...] = getattr(stream[place], kind)
    if len(held) == 2 or semaphore in held:
        return None
    result = list(stream)
    result[source] = replace(result[source], **{kind: without(getattr(result[source], kind), semaphore)})
    result[place] = replace(result[place], **{kind: tuple(sorted((*held, semaphore)))})
    return result


def _conflict(first: list[Access], second: list[Access]) -> bool:
    return any((a.write or b.write) and overlaps(a, b) for a in first for b in second)


def _bytes(instr: Instruction, program: Program) -> list[tuple[object, ...]]:
    """What every access names: its memory, direction and byte numbers in order."""
    result: list[tuple[object, ...]] = []
    for access in instr.accesses(program.target):
        places = np.array([access.base], np.int64)
        for count, pitch in access.dims:
            places = (places[:, None] + np.arange(count) * pitch).ravel()
        result.append((access.operand, access.space, access.region, access.write, places.tobytes()))
    return result
