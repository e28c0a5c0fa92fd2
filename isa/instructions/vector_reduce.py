"""Reductions on the vector engine."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa import arithmetic
from isa.instructions.dma import WORD
from isa.instructions.footprints import eight_bit, element_wise_cycles, granules, pixels, register
from isa.instructions.records import QuantRecord
from isa.memory_map import Q_GRANULES, Space
from isa.spec import Access, ElementType, Engine, Fault, Instruction, MachineState, Trap, instruction, operand
from isa.target import Target


class Reduction(IntEnum):
    """The function of `vred`."""

    SUM = 0
    MEAN = 1
    MEANF = 2
    MAX = 3
    ARGMAX = 4
    ABSMAX = 5


class Axis(IntEnum):
    """What is reduced."""

    HW = 0
    C = 1
    W = 2
    H = 3


class OperandPlace(IntEnum):
    """Where an operand of `vred` lies."""

    SPM = 0
    ACC = 1


R = Reduction
INTEGER_SUMS: Final = frozenset({R.SUM, R.MEAN})
KEPT: Final = {Axis.HW: (False, False, True), Axis.C: (True, True, False), Axis.W: (True, False, True),
               Axis.H: (False, True, True)}  # fmt: skip
"""Which of rows, columns and channels are left."""


@instruction("vred", opcode=0x86, engine=Engine.VX)
class VectorReduce(Instruction):
    """Reduce a tile along rows and columns, channels, columns, or rows.

    sum and mean add X - za in int32, wrapping, and requantize the sum as mode f32 of `vreq` does,
    with multiplier p0, bias, zo, lo and hi of record Q; to the accumulators they write the sum as it
    is, and with accum=1 add to what stands there, so that a map of several tiles can be reduced.
    meanf adds float32 F(X - za) * p0 in ascending index, divides by the number of entries, and
    quantizes by p1. max copies the greatest value. argmax gives the int32 index of the greatest value,
    the first or (last=1) the last one; along rows and columns it counts row by row. absmax writes the
    greatest |X| of the whole tile to a scalar register, with accum=1 the maximum with what it holds.
    Operands in the accumulators count rows, and have at most as many channels as a row has lanes.
    """

    inp: int = operand(23, address=True, doc="first input byte in SPM, or accumulator row")
    isp: OperandPlace = operand(1, enum=OperandPlace, doc="where the input lies")
    out: int = operand(23, address=True, doc="first output byte in SPM, or accumulator row")
    osp: OperandPlace = operand(1, enum=OperandPlace, doc="where the output lies")
    fn: Reduction = operand(4, enum=Reduction, doc="the function")
    axis: Axis = operand(2, enum=Axis, doc="what is reduced")
    h: int = operand(10, low=1, doc="input rows")
    w: int = operand(10, low=1, doc="input columns")
    c: int = operand(16, low=1, doc="input channels")
    ips: int = operand(16, doc="input bytes (or accumulator rows) from pixel to pixel")
    irs: int = operand(20, doc="input bytes (or accumulator rows) from row to row")
    ops: int = operand(16, doc="output bytes (or accumulator rows) from pixel to pixel")
    ors: int = operand(20, doc="output bytes (or accumulator rows) from row to row")
    prm: int = operand(16, address=True, doc="granule of record Q")
    sreg: int = operand(6, doc="scalar register that absmax writes")
    xt: ElementType = operand(2, enum=ElementType, doc="input type; s32 in the accumulators")
    ot: ElementType = operand(2, enum=ElementType, doc="output type; s32 in the accumulators and of argmax")
    accum: int = operand(1, doc="1: take what stands in the output into account")
    last: int = operand(1, doc="1: argmax gives the last of equal values")

    shorthands = ("{fn}", "{axis}", "{h}x{w}x{c}")

    def unused(self) -> frozenset[str]:
        idle: set[str] = set()
        if self.fn is not R.ABSMAX:
            idle.add("sreg")
        if self.fn is not R.ARGMAX:
            idle.add("last")
        if self.fn in (R.MAX, R.ARGMAX, R.ABSMAX):
            idle.add("prm")
        if self.fn in (R.MEANF, R.MAX, R.ARGMAX) or (
            self.fn in INTEGER_SUMS and self.osp is OperandPlace.SPM
        ):
            idle.add("accum")
        if self.fn is R.ABSMAX:
            idle |= {"axis", "out", "osp", "ops", "ors", "ot"}
        return frozenset(idle)

    def check(self, t: Target) -> Iterator[Fault]:
        yield from self._check_type("xt", self.xt, self.isp)
        if self.fn is R.ABSMAX:
            if self.sreg == 0:
                yield Fault(Trap.LIMIT, "sreg", "sreg=0 is the register that reads 0; allowed: 1 to 63")
        elif self.fn is R.ARGMAX:
            if self.ot is not ElementType.S32 or self.osp is not OperandPlace.SPM:
                yield Fault(Trap.BAD_ENUM, "ot", "argmax writes int32 to SPM; allowed: ot=s32, osp=spm")
        else:
            yield from self._check_type("ot", self.ot, self.osp)
            if self.fn is R.MAX and self.ot is not self.xt:
                yield Fault(Trap.BAD_ENUM, "ot", "fn=max copies values; allowed: ot = xt")
            if self.fn is R.MEANF and OperandPlace.ACC in (self.isp, self.osp):
                yield Fault(Trap.BAD_ENUM, "isp", "fn=meanf is on 8-bit values; allowed: isp=spm, osp=spm")
        channels = {self.isp: self.c} | ({self.osp: self._shape()[2]} if self.fn is not R.ABSMAX else {})
        if max(channels.get(OperandPlace.ACC, 0), self.c if self.isp is OperandPlace.ACC else 0) > t.mx.cols:
            yield Fault(
                Trap.LIMIT, "c", f"c={self.c} exceeds the lanes of an accumulator row; allowed: {t.mx.cols}"
            )

    @staticmethod
    def _check_type(name: str, element: ElementType, place: OperandPlace) -> Iterator[Fault]:
        if place is OperandPlace.SPM:
            yield from eight_bit(name, element)
        elif element is not ElementType.S32:
            yield Fault(Trap.BAD_ENUM, name, f"{name} of the accumulators is s32")

    def _shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels of the output."""
        extents = (self.h, self.w, self.c)
        h, w, c = (n if kept else 1 for n, kept in zip(extents, KEPT[self.axis], strict=True))
        return h, w, c

    def _tile(
        self,
        t: Target,
        name: str,
        place: OperandPlace,
        base: int,
        shape: tuple[int, int, int],
        pitches: tuple[int, int],
        element: ElementType,
        *,
        write: bool = False,
    ) -> Access:
        h, w, c = shape
        pixel, row = pitches
        size = element.dtype.itemsize
        if place is OperandPlace.SPM:
            return pixels(name, base, h, row, w, pixel, c, write=write, element_bytes=size)
        unit = t.mx.cols * WORD.itemsize
        dims = ((h, row * unit), (w, pixel * unit), (c * WORD.itemsize, 1))
        return Access(name, Space.ACC, base * unit, dims, write=write)

    def _input(self, t: Target) -> Access:
        shape, pitches = (self.h, self.w, self.c), (self.ips, self.irs)
        return self._tile(t, "inp", self.isp, self.inp, shape, pitches, self.xt)

    def _output(self, t: Target, *, write: bool) -> Access:
        pitches = (self.ops, self.ors)
        return self._tile(t, "out", self.osp, self.out, self._shape(), pitches, self.ot, write=write)

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self._input(t)
        if "prm" not in self.unused():
            yield granules("prm", self.prm, Q_GRANULES)
        if self.fn is R.ABSMAX:
            if self.accum:
                yield register("sreg", self.sreg)
            yield register("sreg", self.sreg, write=True)
            return
        if self.accum:
            yield self._output(t, write=False)
        yield self._output(t, write=True)

    def may_alias(self, read: Access, write: Access) -> bool:
        return read.operand == write.operand

    def execute(self, m: MachineState) -> None:
        q = self._record(m)
        x = m.read(self._input(m.target), self.xt.dtype)
        match self.fn:
            case R.SUM | R.MEAN:
                self._write(m, self._sum(m, x, q))
            case R.MEANF:
                self._write(m, self._mean_real(x, q))
            case R.MAX:
                self._write(m, x.max(axis=self._axes(), keepdims=True))
            case R.ARGMAX:
                self._write(m, self._argmax(x))
            case R.ABSMAX:
                self._absmax(m, x)

    def _axes(self) -> tuple[int, ...]:
        return tuple(i for i, kept in enumerate(KEPT[self.axis]) if not kept)

    def _write(self, m: MachineState, values: NDArray[Any]) -> None:
        m.write(self._output(m.target, write=True), values, self.ot.dtype)

    def _record(self, m: MachineState) -> QuantRecord:
        """Record Q of the functions that have one."""
        if self.fn is R.MEANF:
            return QuantRecord.read(m, "prm", self.prm, scales=(0, 1), divisors=(1,), output=self.ot)
        if self.fn not in (R.SUM, R.MEAN):
            return QuantRecord()
        scales = (0,) if self.osp is OperandPlace.SPM else ()
        output = self.ot if self.osp is OperandPlace.SPM else None
        return QuantRecord.read(m, "prm", self.prm, scales=scales, output=output)

    def _sum(self, m: MachineState, x: NDArray[Any], q: QuantRecord) -> NDArray[Any]:
        exact = (x.astype(np.int64) - q.za).sum(axis=self._axes(), keepdims=True)
        if self.accum:
            exact = exact + m.read(self._output(m.target, write=False), WORD)
        if exact.max() > arithmetic.INT32_MAX or exact.min() < arithmetic.INT32_MIN:
            m.accumulators_overflow()
        total = arithmetic.wrap32(exact)
        if self.osp is OperandPlace.ACC:
            return total
        return arithmetic.requantize(total, q.bias, q.p[0], q.zo, q.lo, q.hi)

    def _mean_real(self, x: NDArray[Any], q: QuantRecord) -> NDArray[Any]:
        real = arithmetic.dequantize(x, q.p[0], q.za)
        mean = arithmetic.mean_real(self._flattened(real), q.p[1], q.zo, q.lo, q.hi)
        return mean.reshape(self._shape())

    def _argmax(self, x: NDArray[Any]) -> NDArray[Any]:
        entries = self._flattened(x)
        index = len(entries) - 1 - entries[::-1].argmax(axis=0) if self.last else entries.argmax(axis=0)
        return index.astype(np.int32).reshape(self._shape())

    def _flattened(self, x: NDArray[Any]) -> NDArray[Any]:
        """The entries along the axis first, row by row; what is left second."""
        axes = self._axes()
        moved = np.moveaxis(x, axes, range(len(axes)))
        return moved.reshape(math.prod(x.shape[a] for a in axes), -1)

    def _absmax(self, m: MachineState, x: NDArray[Any]) -> None:
        greatest = int(np.abs(x.astype(np.int64)).max())
        if self.accum:
            greatest = max(greatest, int(m.read(register("sreg", self.sreg), WORD)[0]))
        value = min(greatest, arithmetic.INT32_MAX)
        m.write(register("sreg", self.sreg, write=True), np.array(value), WORD)

    def cycles(self, t: Target) -> int:
        unit = self.c if self.isp is OperandPlace.SPM else 1
        pitch = self.ips * self.c // unit
        row = self.irs * self.c // unit
        beats = element_wise_cycles(t, self.h, self.w, self.c, [(pitch, row)])
        if self.fn is not R.ABSMAX and self.axis is Axis.C:
            beats += self.h * self.w * math.ceil(math.log2(t.vx.lanes))
        if self.fn is R.MEANF:
            left = math.prod(self._shape())
            beats += self.h * self.w * self.c // left * math.ceil(left / t.vx.lanes)
        return t.ctl.issue + t.vx.startup + beats
