"""Depthwise sums and gradients in the accumulators, on the vector engine (extension T)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from isa.instructions.footprints import accumulators, pixels, run, visible_taps, window_box
from isa.instructions.sums import store_sums
from isa.instructions.vector_depthwise import depthwise_sums, tap_cycles
from isa.memory_map import Space
from isa.spec import (
    Access,
    Dims,
    ElementType,
    Engine,
    Fault,
    Instruction,
    MachineState,
    instruction,
    operand,
)
from isa.target import Target


@instruction("vdwa", opcode=0x8F, engine=Engine.VX)
class DepthwiseSums(Instruction):
    """Convolve every channel with a kernel of its own; the sums stay in the accumulators.

    `ACC[acc + (n/C)*ags + y*ow + x][n%C] (+)= sum X * W` over taps (ky, kx), with the input row
    y*sh + ky*d - pt and column x*sw + kx*d - pl; taps outside ih x iw contribute nothing. Weights are s8
    and lie as `[kh][kw][c]`. The sum wraps to int32.
    """

    extension: ClassVar[str] = "T"

    inp: int = operand(23, address=True, doc="first input byte in SPM: pixel (0, 0) of the tile")
    wgt: int = operand(20, scale=8, address=True, doc="first weight byte in SPM, a multiple of 8")
    acc: int = operand(14, address=True, doc="first accumulator row")
    oh: int = operand(8, low=1, doc="output rows")
    ow: int = operand(8, low=1, doc="output columns")
    c: int = operand(12, low=1, doc="channels")
    kh: int = operand(4, low=1, doc="kernel rows")
    kw: int = operand(4, low=1, doc="kernel columns")
    sh: int = operand(2, low=1, doc="stride over rows")
    sw: int = operand(2, low=1, doc="stride over columns")
    d: int = operand(3, low=1, doc="dilation over rows and columns")
    ips: int = operand(13, doc="input bytes from pixel to pixel")
    irs: int = operand(18, doc="input bytes from row to row")
    ih: int = operand(9, low=1, doc="valid input rows; outside is padding")
    iw: int = operand(9, low=1, doc="valid input columns")
    pt: int = operand(4, doc="padding rows above")
    pl: int = operand(4, doc="padding columns to the left")
    ags: int = operand(14, doc="accumulator rows from channel group to channel group")
    accum: int = operand(1, doc="1: add to the accumulators, 0: replace them")
    xt: ElementType = operand(1, enum=ElementType, doc="input type")

    shorthands = ("{oh}x{ow}x{c}", "k={kh}x{kw}", "s={sh}x{sw}")

    def unused(self) -> frozenset[str]:
        return frozenset({"d"}) if self.kh == self.kw == 1 else frozenset()

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        yield from window_box("ih", self.ih, self.oh, self.sh, self.kh, self.d, self.pt)
        yield from window_box("iw", self.iw, self.ow, self.sw, self.kw, self.d, self.pl)

    def _input(self) -> Access:
        return pixels("inp", self.inp, self.ih, self.irs, self.iw, self.ips, self.c)

    def _weights(self) -> Access:
        return run("wgt", Space.SPM, self.wgt, self.kh * self.kw * self.c)

    def _rows(self) -> Dims:
        return ((self.oh * self.ow, 1),)

    def _targets(self, t: Target, *, write: bool) -> list[tuple[slice, Access]]:
        return list(accumulators("acc", self.acc, self.ags, self._rows(), self.c, t, write=write))

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self._input()
        yield self._weights()
        if self.accum:
            yield from (a for _, a in self._targets(t, write=False))
        yield from (a for _, a in self._targets(t, write=True))

    def may_alias(self, read: Access, write: Access) -> bool:
        return read.operand == write.operand == "acc"

    def execute(self, m: MachineState) -> None:
        box = m.read(self._input(), self.xt.dtype).astype(np.int32)
        raw = m.read(self._weights(), ElementType.S8.dtype).astype(np.int32)
        taps = visible_taps(
            (self.kh, self.kw),
            (self.oh, self.ow),
            (self.sh, self.sw),
            (self.d, self.d),
            (self.pt, self.pl),
            (self.ih, self.iw),
        )
        total = depthwise_sums(box, raw.reshape(self.kh, self.kw, self.c), taps, (self.oh, self.ow))
        targets = self._targets(m.target, write=True)
        store_sums(m, targets, total.reshape(-1, self.c), self.kh * self.kw, accumulate=bool(self.accum))

    def macs(self) -> int:
        return self.oh * self.ow * self.c * self.kh * self.kw

    def cycles(self, t: Target) -> int:
        return tap_cycles(t, self.oh * self.ow, self.c, self.kh, self.kw)


@instruction("vdwg", opcode=0x8A, engine=Engine.VX)
class DepthwiseGradient(Instruction):
    """Sum, channel by channel, the products of inputs and errors for every tap of a depthwise kernel.

    `ACC[acc + (ky*kw + kx)*groups + n/C][n%C] (+)= sum x * g` over output pixels (y, x), with groups =
    ceil(c/C), the input row y*sh + ky - pt and column x*sw + kx - pl; taps outside ih x iw contribute
    nothing. With one tap it sums products of two maps. The sum wraps to int32.
    """

    extension: ClassVar[str] = "T"

    x: int = operand(23, address=True, doc="first input byte in SPM: pixel (0, 0) of the tile")
    g: int = operand(23, address=True, doc="first byte of the errors in SPM")
    acc: int = operand(14, address=True, doc="first accumulator row")
    oh: int = operand(8, low=1, doc="output rows")
    ow: int = operand(8, low=1, doc="output columns")
    c: int = operand(12, low=1, doc="channels")
    kh: int = operand(4, low=1, doc="kernel rows")
    kw: int = operand(4, low=1, doc="kernel columns")
    sh: int = operand(2, low=1, doc="stride over rows")
    sw: int = operand(2, low=1, doc="stride over columns")
    ips: int = operand(13, doc="input bytes from pixel to pixel")
    irs: int = operand(18, doc="input bytes from row to row")
    gps: int = operand(13, doc="error bytes from pixel to pixel; 0: one pixel for all of a row")
    grs: int = operand(18, doc="error bytes from row to row")
    ih: int = operand(9, low=1, doc="valid input rows; outside is padding")
    iw: int = operand(9, low=1, doc="valid input columns")
    pt: int = operand(4, doc="padding rows above")
    pl: int = operand(4, doc="padding columns to the left")
    accum: int = operand(1, doc="1: add to the accumulators, 0: replace them")
    xt: ElementType = operand(1, enum=ElementType, doc="input type")
    gt: ElementType = operand(1, enum=ElementType, doc="type of the errors")

    shorthands = ("{oh}x{ow}x{c}", "k={kh}x{kw}", "s={sh}x{sw}")

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        yield from window_box("ih", self.ih, self.oh, self.sh, self.kh, 1, self.pt)
        yield from window_box("iw", self.iw, self.ow, self.sw, self.kw, 1, self.pl)

    def _input(self) -> Access:
        return pixels("x", self.x, self.ih, self.irs, self.iw, self.ips, self.c)

    def _errors(self) -> Access:
        return pixels("g", self.g, self.oh, self.grs, self.ow, self.gps, self.c)

    def _rows(self, t: Target) -> Dims:
        return ((self.kh * self.kw, math.ceil(self.c / t.mx.cols)),)

    def _targets(self, t: Target, *, write: bool) -> list[tuple[slice, Access]]:
        return list(accumulators("acc", self.acc, 1, self._rows(t), self.c, t, write=write))

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self._input()
        yield self._errors()
        if self.accum:
            yield from (a for _, a in self._targets(t, write=False))
        yield from (a for _, a in self._targets(t, write=True))

    def may_alias(self, read: Access, write: Access) -> bool:
        return read.operand == write.operand == "acc"

    def execute(self, m: MachineState) -> None:
        x = m.read(self._input(), self.xt.dtype).astype(np.int64)
        g = m.read(self._errors(), self.gt.dtype).astype(np.int64)
        sums = np.zeros((self.kh * self.kw, self.c), np.int64)
        for (ky, kx), outs, ins in visible_taps(
            (self.kh, self.kw),
            (self.oh, self.ow),
            (self.sh, self.sw),
            (1, 1),
            (self.pt, self.pl),
            (self.ih, self.iw),
        ):
            sums[ky * self.kw + kx] = (x[ins] * g[outs]).sum(axis=(0, 1))
        targets = self._targets(m.target, write=True)
        store_sums(m, targets, sums, self.oh * self.ow, accumulate=bool(self.accum))

    def macs(self) -> int:
        return self.oh * self.ow * self.c * self.kh * self.kw

    def cycles(self, t: Target) -> int:
        return tap_cycles(t, self.oh * self.ow, self.c, self.kh, self.kw)
