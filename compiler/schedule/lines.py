"""Line buffers: the rows of an image that are needed at the moment.

An image that passes from layer to layer inside a segment never exists as a whole. Every band of its rows
gets a buffer of its own, which begins with those earlier rows that a reader of the band needs too.
"""

from __future__ import annotations

from typing import Final

from compiler.schedule.tiles import Buffer
from isa.structs import Frozen, Struct, field

KEPT: Final = 16
"""Bands whose buffers are remembered: no reader is further behind."""


class Rows(Frozen):
    """The rows from `base` to before `stop`, in a buffer."""

    buffer: Buffer
    base: int
    stop: int


class Line(Struct, eq=False):
    """The latest bands of an image with rows of `row` bytes."""

    row: int
    bands: list[Rows] = field(default_factory=list[Rows])

    def add(self, buffer: Buffer, base: int, stop: int) -> Rows:
        """A buffer for the rows up to `stop`."""
        self.bands = [*self.bands[-KEPT:], Rows(buffer, base, stop)]
        return self.bands[-1]

    def find(self, start: int, stop: int) -> Rows:
        """The buffer that holds these rows: the first that does, since later ones take rows over from it."""
        for band in self.bands:
            if band.base <= start and stop <= band.stop:
                return band
        raise AssertionError(f"rows {start} to {stop} are in no line buffer")
