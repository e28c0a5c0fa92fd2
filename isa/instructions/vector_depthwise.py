"""Depthwise convolution on the vector engine."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa import arithmetic
from isa.instructions.footprints import (
    Pair,
    Tap,
    granules,
    pixels,
    run,
    table,
    visible_taps,
    window_box,
)
from isa.instructions.records import QuantRecord, require_scale
from isa.instructions.vector import write_codes
from isa.memory_map import Q_GRANULES, REQUANT_RECORD, Space
from isa.spec import Access, ElementType, Engine, Fault, Instruction, MachineState, instruction, operand
from isa.target import Target


def depthwise_sums(
    box: NDArray[np.int32], kernel: NDArray[np.int32], taps: Iterable[Tap], out: Pair
) -> NDArray[np.int32]:
    """The sums over the taps of every channel's kernel, (oh, ow, c)."""
    total = np.zeros((*out, kernel.shape[2]), np.int32)
    for (ky, kx), outs, ins in taps:
        total[outs] += box[ins] * kernel[ky, kx]
    return total


def tap_cycles(t: Target, pixels: int, channels: int, kh: int, kw: int) -> int:
    """Issue, fill, and for every pixel and lane group the taps of a kernel row, `dw_taps` at a time."""
    beats = math.ceil(channels / t.vx.lanes) * pixels * kh * math.ceil(kw / t.vx.dw_taps)
    return t.ctl.issue + t.vx.startup + beats


@instruction("vdwc", opcode=0x84, engine=Engine.VX)
class DepthwiseConv(Instruction):
    """Convolve every channel with a kernel of its own, and requantize.

    Channel n of pixel (y, x) is the sum of (X - za) * (W - zb) over taps (ky, kx), with the input
    row y*sh + ky*d - pt and column x*sw + kx*d - pl; taps outside ih x iw contribute nothing. Weights
    lie as `[kh][kw][c]`. The sum becomes a value as in mode f32 of `vreq`, with record {i32 bias,
    f32 m} of its channel, zo, lo and hi of record Q; a table may follow.
    """

    inp: int = operand(23, address=True, doc="first input byte in SPM: pixel (0, 0) of the tile")
    wgt: int = operand(20, scale=8, address=True, doc="first weight byte in SPM, a multiple of 8")
    out: int = operand(23, address=True, doc="first output byte in SPM")
    prm: int = operand(16, address=True, doc="granule of record Q; the records of the channels follow it")
    lut: int = operand(8, doc="0: none, n: the table at PRM byte 256*n")
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
    ops: int = operand(13, doc="output bytes from pixel to pixel")
    ors: int = operand(18, doc="output bytes from row to row")
    xt: ElementType = operand(1, enum=ElementType, doc="input type")
    wt: ElementType = operand(1, enum=ElementType, doc="weight type")
    ot: ElementType = operand(1, enum=ElementType, doc="output type")

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

    def _records(self) -> Access:
        return granules("prm", self.prm + Q_GRANULES, self.c)

    def _output(self) -> Access:
        return pixels("out", self.out, self.oh, self.ors, self.ow, self.ops, self.c, write=True)

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        yield self._input()
        yield self._weights()
        yield granules("prm", self.prm, Q_GRANULES)
        yield self._records()
        if self.lut:
            yield table("lut", self.lut)
        yield self._output()

    def execute(self, m: MachineState) -> None:
        q = QuantRecord.read(m, "prm", self.prm, output=self.ot)
        records = m.read(self._records(), REQUANT_RECORD)
        require_scale("prm", records["m"])
        y = arithmetic.requantize(self._sum(m, q), records["bias"], records["m"], q.zo, q.lo, q.hi)
        write_codes(m, self._output(), y.astype(self.ot.dtype), self.lut)

    def _sum(self, m: MachineState, q: QuantRecord) -> NDArray[Any]:
        """int32 sums, (oh, ow, c); at most 256 products of 9 x 9 bits, far from overflow."""
        box = m.read(self._input(), self.xt.dtype).astype(np.int32) - q.za
        raw = m.read(self._weights(), self.wt.dtype).astype(np.int32) - q.zb
        taps = visible_taps(
            (self.kh, self.kw),
            (self.oh, self.ow),
            (self.sh, self.sw),
            (self.d, self.d),
            (self.pt, self.pl),
            (self.ih, self.iw),
        )
        return depthwise_sums(box, raw.reshape(self.kh, self.kw, self.c), taps, (self.oh, self.ow))

    def macs(self) -> int:
        return self.oh * self.ow * self.c * self.kh * self.kw

    def cycles(self, t: Target) -> int:
        return tap_cycles(t, self.oh * self.ow, self.c, self.kh, self.kw)
