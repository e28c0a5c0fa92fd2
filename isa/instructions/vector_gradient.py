"""Errors on their way back through pooling windows, on the vector engine (extension T)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from isa import arithmetic
from isa.instructions.footprints import pixels, valid_windows, visible_taps
from isa.spec import (
    Access,
    ElementType,
    Engine,
    Fault,
    Instruction,
    MachineState,
    instruction,
    kept,
    operand,
)
from isa.target import Target

ERROR_BOUND: Final = 127
"""Errors are -127..127: so they have no greatest negative number without a positive one."""


class PoolBack(IntEnum):
    """How a pooling window distributes its error."""

    MAXB = 0
    AVGB = 1


@instruction("vpoolb", opcode=0x8E, engine=Engine.VX)
class PoolingGradient(Instruction):
    """Give the errors of pooling windows back to their inputs: dx = clamp(rsh(sum, shift), -127, 127).

    The sum is over the windows that give an input something. maxb gives a window's error to the first of
    its greatest values, row by row; with relu=1 nothing where that is 0 or less. avgb gives it to every
    tap that is not padding, and does not read x. The errors g and dx are s8; dx has the pitches of x and
    is written whole. rsh rounds half to even.
    """

    extension: ClassVar[str] = "T"

    x: int = operand(23, address=True, doc="first byte of the pooled values in SPM")
    g: int = operand(23, address=True, doc="first byte of the windows' errors in SPM")
    dx: int = operand(23, address=True, doc="first byte of the inputs' errors in SPM")
    oh: int = operand(9, low=1, doc="rows of windows")
    ow: int = operand(9, low=1, doc="columns of windows")
    c: int = operand(12, low=1, doc="channels")
    kh: int = operand(4, low=1, doc="window rows")
    kw: int = operand(4, low=1, doc="window columns")
    sh: int = operand(4, low=1, doc="stride over rows")
    sw: int = operand(4, low=1, doc="stride over columns")
    ips: int = operand(13, doc="bytes from pixel to pixel of x and dx")
    irs: int = operand(18, doc="bytes from row to row of x and dx")
    gps: int = operand(13, doc="bytes from pixel to pixel of g")
    grs: int = operand(18, doc="bytes from row to row of g")
    ih: int = operand(10, low=1, doc="rows of x and dx; outside is padding")
    iw: int = operand(10, low=1, doc="columns of x and dx")
    pt: int = operand(4, doc="padding rows above")
    pl: int = operand(4, doc="padding columns to the left")
    fn: PoolBack = operand(1, enum=PoolBack, doc="maximum or average")
    relu: int = operand(1, doc="1: a maximum of 0 or less gives nothing")
    shift: int = operand(4, doc="right shift of the sums, where windows overlap")
    xt: ElementType = operand(1, enum=ElementType, doc="type of x")

    shorthands = ("{fn}", "{oh}x{ow}x{c}", "k={kh}x{kw}", "s={sh}x{sw}")

    def unused(self) -> frozenset[str]:
        return frozenset({"x", "relu", "xt"}) if self.fn is PoolBack.AVGB else frozenset()

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        yield from valid_windows("ih", self.ih, self.oh, self.sh, self.kh, self.pt)
        yield from valid_windows("iw", self.iw, self.ow, self.sw, self.kw, self.pl)

    def _values(self) -> Access:
        return pixels("x", self.x, self.ih, self.irs, self.iw, self.ips, self.c)

    def _errors(self) -> Access:
        return pixels("g", self.g, self.oh, self.grs, self.ow, self.gps, self.c)

    def _output(self) -> Access:
        return pixels("dx", self.dx, self.ih, self.irs, self.iw, self.ips, self.c, write=True)

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        if self.fn is PoolBack.MAXB:
            yield self._values()
        yield self._errors()
        yield self._output()

    @kept
    def _places(self, t: Target) -> tuple[Access, Access, Access]:
        """Values, errors and output."""
        del t
        return self._values(), self._errors(), self._output()

    def execute(self, m: MachineState) -> None:
        if self.fn is PoolBack.MAXB and self.kh <= self.sh and self.kw <= self.sw and not self.shift:
            self._to_maxima_apart(m)
            return
        values, errors_at, output = self._places(m.target)
        errors = m.read(errors_at, ElementType.S8.dtype).astype(np.int16)
        total = np.zeros((self.ih, self.iw, self.c), np.int16)  # at most 225 windows of 127: 15 bits
        if self.fn is PoolBack.MAXB:
            self._to_maxima(m.read(values, self.xt.dtype), errors, total)
        else:
            for outs, ins in self._taps():
                total[ins] += errors[outs]
        given = arithmetic.shift_right_rounding(total, self.shift) if self.shift else total
        m.write(output, np.clip(given, -ERROR_BOUND, ERROR_BOUND), ElementType.S8.dtype)

    def _to_maxima_apart(self, m: MachineState) -> None:
        """The same where no windows overlap, and nothing is summed."""
        values, errors_at, output = self._places(m.target)
        x = m.read(values, self.xt.dtype)
        left = np.maximum(m.read(errors_at, ElementType.S8.dtype), np.int8(-ERROR_BOUND))
        taps = list(self._taps())
        seen = np.full((len(taps), *left.shape), self.xt.bounds[0], x.dtype)
        for tap, (outs, ins) in zip(seen, taps, strict=True):
            tap[outs] = x[ins]
        best = seen.max(axis=0)
        if self.relu:
            left *= (best > 0).view(np.int8)
        given = np.zeros((self.ih, self.iw, self.c), np.int8)
        for tap, (outs, ins) in zip(seen, taps, strict=True):
            share = left[outs] * (tap[outs] == best[outs]).view(np.int8)
            given[ins] = share
            left[outs] -= share
        m.write(output, given, ElementType.S8.dtype)

    def _to_maxima(self, x: NDArray[Any], errors: NDArray[Any], total: NDArray[Any]) -> None:
        """Add every window's error to the first of its greatest values."""
        best = np.full(errors.shape, self.xt.bounds[0], x.dtype)
        for outs, ins in self._taps():
            np.maximum(best[outs], x[ins], out=best[outs])
        left = np.where(best > 0, errors, np.int16(0)) if self.relu else errors
        for outs, ins in self._taps():
            given = np.where(x[ins] == best[outs], left[outs], np.int16(0))
            total[ins] += given
            left[outs] -= given

    def _taps(self) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
        """For every tap, row by row: the windows that see an input through it, and what they see."""
        geometry = (
            (self.kh, self.kw),
            (self.oh, self.ow),
            (self.sh, self.sw),
            (1, 1),
            (self.pt, self.pl),
            (self.ih, self.iw),
        )
        return ((outs, ins) for _, outs, ins in visible_taps(*geometry))

    def cycles(self, t: Target) -> int:
        beats = math.ceil(self.c / t.vx.lanes) * self.oh * self.ow * self.kh * self.kw
        return t.ctl.issue + t.vx.startup + 2 * beats
