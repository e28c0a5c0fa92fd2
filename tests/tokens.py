"""The tokens of a stream, and streams that lack one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isa.program import Program
from isa.spec import Instruction
from isa.support.records import replace

Pair = tuple[int, int, int]
"""Signalling instruction, waiting instruction, semaphore."""


def token_pairs(stream: Sequence[Instruction]) -> Iterator[Pair]:
    """Every token: the k-th signal of a semaphore belongs to its k-th wait."""
    waiting: dict[int, list[int]] = {}
    for pc, instr in enumerate(stream):
        for semaphore in instr.waits:
            yield waiting[semaphore].pop(0), pc, semaphore
        for semaphore in instr.signals:
            waiting.setdefault(semaphore, []).append(pc)


def without(slots: tuple[int, ...], semaphore: int) -> tuple[int, ...]:
    """The slots that name other semaphores."""
    return tuple(s for s in slots if s != semaphore)


def with_stream(program: Program, stream: list[Instruction]) -> Program:
    """The program with another stream; its debug map no longer fits and is dropped."""
    return replace(program, instructions=tuple(stream), debug=replace(program.debug, rows=()))


def without_pair(program: Program, pair: Pair) -> Program:
    """The program without one signal and its wait."""
    signaller, waiter, semaphore = pair
    stream = list(program.instructions)
    stream[signaller] = replace(stream[signaller], signals=without(stream[signaller].signals, semaphore))
    stream[waiter] = replace(stream[waiter], waits=without(stream[waiter].waits, semaphore))
    return with_stream(program, stream)
