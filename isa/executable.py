"""What a binary holds: one program, or the streams of a training program that share their memory.

Of several devices each has its own program of every stream.
"""

from __future__ import annotations

from functools import cached_property
from typing import Final

from isa.program import MAIN_STREAM, Program, Symbol
from isa.support.diagnostics import UsageError, not_among
from isa.support.records import Frozen

TRAINING_STREAMS: Final = ("train", "tail", "eval", "stats")
"""A step on a whole batch and on what a division into batches leaves, inference, statistics."""
STREAMS: Final = (MAIN_STREAM, *TRAINING_STREAMS)
"""Every stream that a binary may have, in the order of their sections."""
EXECUTED: Final = (MAIN_STREAM, "eval")
"""Streams that a run executes where none is named: the first that there is."""


class Executable(Frozen, dict=True):
    """The programs of a binary, in the order of `STREAMS`, those of one stream by device.

    They have the same target, note and scheme. Those of one device have the same regions and data: what one
    writes to the state region the others read. `training` is the text of `.x1.train`: how the state came to
    be.
    """

    programs: tuple[Program, ...]
    training: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the streams."""
        return tuple(dict.fromkeys(p.stream for p in self.programs))

    @property
    def device_count(self) -> int:
        """How many devices execute it."""
        return self.programs[0].devices

    @property
    def main(self) -> Program:
        """What a run executes where no stream is named, on the first device."""
        return next((p for name in EXECUTED for p in self.programs if p.stream == name), self.programs[0])

    @property
    def instruction_count(self) -> int:
        """Instructions of all streams."""
        return sum(len(p.instructions) for p in self.programs)

    def stream(self, name: str | None) -> Program:
        """The program of a stream on the first device; that which a run executes where none is named.

        Raises:
            UsageError: there is no such stream.
        """
        return self.devices(name)[0]

    def devices(self, name: str | None = None) -> tuple[Program, ...]:
        """The programs of a stream, by device; of that which a run executes where none is named.

        Raises:
            UsageError: there is no such stream.
        """
        wanted = self.main.stream if name is None else name
        found = tuple(p for p in self.programs if p.stream == wanted)
        if found:
            return found
        raise UsageError(
            not_among("usage.stream", f"there is no stream '{wanted}'", wanted, list(self.names))
        )

    @cached_property
    def symbols(self) -> tuple[Symbol, ...]:
        """The symbols of all streams; those of data stand in each, and are listed once."""
        return tuple(dict.fromkeys(s for p in self.programs for s in p.symbols))

    @cached_property
    def extensions(self) -> tuple[str, ...]:
        """The letters of the extensions that some instruction uses, in order."""
        used = {letter for p in self.programs for i in p.instructions for letter, _ in i.extensions()}
        return tuple(sorted(used))


def as_executable(what: Program | Executable) -> Executable:
    """An executable as it is; a program as one that is alone."""
    return Executable((what,)) if isinstance(what, Program) else what
