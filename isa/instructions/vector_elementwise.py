"""Two-operand element-wise instructions of the vector engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa import arithmetic
from isa.arithmetic import f32
from isa.instructions.footprints import eight_bit, element_wise_cycles, granules, pixels
from isa.instructions.records import FLOAT, QuantRecord, require_finite
from isa.memory_map import GRANULE_BYTES, Q_GRANULES
from isa.spec import Access, ElementType, Engine, Fault, Instruction, MachineState, instruction, operand
from isa.target import Target


class Elementwise(IntEnum):
    """The function of `vew`."""

    ADD = 0
    MUL = 1
    IMAX = 2
    IMIN = 3
    FADD = 4
    FSUB = 5
    FMUL = 6
    FDIV = 7
    FMAX = 8
    FMIN = 9
    PRELU = 10
    AFFINE = 11
    LERP0 = 12
    LERP1 = 13
    ISUB = 14
    IADD = 15
    MASK = 16


F = Elementwise
FLOAT_BINARY: Final = {
    F.FADD: np.add,
    F.FSUB: np.subtract,
    F.FMUL: np.multiply,
    F.FDIV: np.divide,
    F.FMAX: np.maximum,
    F.FMIN: np.minimum,
}
INTEGER: Final = {F.IMAX: np.maximum, F.IMIN: np.minimum, F.ISUB: np.subtract, F.IADD: np.add}
UNARY: Final = frozenset({F.PRELU, F.AFFINE})
LERP: Final = frozenset({F.LERP0, F.LERP1})
_SCALES: Final[dict[Elementwise, tuple[int, ...]]] = {
    F.ADD: (0, 1),
    F.MUL: (0,),
    F.PRELU: (0, 2),
    F.AFFINE: (0, 2),
    **dict.fromkeys(FLOAT_BINARY, (0, 1, 2)),
    **dict.fromkeys(LERP, (0, 1, 2, 3, 4, 5)),
    **dict.fromkeys((*INTEGER, F.MASK), ()),
}
_DIVISOR: Final[dict[Elementwise, tuple[int, ...]]] = {
    **dict.fromkeys(FLOAT_BINARY, (2,)),
    **dict.fromkeys(UNARY, (2,)),
    **dict.fromkeys(LERP, (5,)),
}


@instruction("vew", opcode=0x83, engine=Engine.VX)
class VectorElementwise(Instruction):
    """Combine two 8-bit tensors element by element; the result is clamped to lo..hi of record Q.

    add is QLinearAdd: rne(fma(a, p0, fma(b, p1, p2))). mul is QLinearMul: zero point added before
    rounding. imax, imin, isub and iadd are integer. The functions that begin with f dequantize
    both sides by p0 and p1, compute in float32 and quantize by p2; 0/0 becomes lo. prelu and affine
    take slopes, or gains and offsets, per channel from PRM behind the record. lerp0 and lerp1 weigh
    A[i], A[i+d], B[i], B[i+d] by p1..p4, with d = 0 or aps, and quantize by p5. mask (extension T) gives A
    where za < B < zb, else 0. bc=1 reads one channel
    of B for all; a pitch of 0 broadcasts rows or pixels.
    """

    a: int = operand(23, address=True, doc="first byte of A in SPM")
    b: int = operand(23, address=True, doc="first byte of B in SPM")
    out: int = operand(23, address=True, doc="first output byte in SPM")
    prm: int = operand(16, address=True, doc="granule of record Q")
    fn: Elementwise = operand(5, enum=Elementwise, doc="the function")
    h: int = operand(10, low=1, doc="rows")
    w: int = operand(10, low=1, doc="columns")
    c: int = operand(12, low=1, doc="channels")
    aps: int = operand(13, doc="bytes from pixel to pixel of A")
    ars: int = operand(18, doc="bytes from row to row of A")
    bps: int = operand(13, doc="bytes from pixel to pixel of B")
    brs: int = operand(18, doc="bytes from row to row of B")
    ops: int = operand(13, doc="output bytes from pixel to pixel")
    ors: int = operand(18, doc="output bytes from row to row")
    at: ElementType = operand(2, enum=ElementType, doc="type of A")
    bt: ElementType = operand(2, enum=ElementType, doc="type of B")
    ot: ElementType = operand(2, enum=ElementType, doc="output type")
    bc: int = operand(1, doc="1: B has one channel")

    shorthands = ("{fn}", "{h}x{w}x{c}")

    def unused(self) -> frozenset[str]:
        if self.fn in UNARY:
            return frozenset({"b", "bps", "brs", "bt", "bc"})
        return frozenset({"bps", "bt", "bc"}) if self.fn in LERP else frozenset()

    def extensions(self) -> Sequence[tuple[str, str]]:
        return (("T", "fn"),) if self.fn is F.MASK else ()

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        yield from eight_bit("at", self.at)
        yield from eight_bit("bt", self.bt)
        yield from eight_bit("ot", self.ot)

    def _left(self) -> Access:
        columns = self.w + (self.fn is F.LERP1)
        return pixels("a", self.a, self.h, self.ars, columns, self.aps, self.c)

    def _right(self) -> Access:
        if self.fn in LERP:
            columns = self.w + (self.fn is F.LERP1)
            return pixels("b", self.b, self.h, self.brs, columns, self.aps, self.c)
        return pixels("b", self.b, self.h, self.brs, self.w, self.bps, 1 if self.bc else self.c)

    def _table(self) -> Access:
        words = self.c * (2 if self.fn is F.AFFINE else 1)
        return granules("prm", self.prm + Q_GRANULES, -(-words * 4 // GRANULE_BYTES))

    def _output(self) -> Access:
        return pixels("out", self.out, self.h, self.ors, self.w, self.ops, self.c, write=True)

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        yield self._left()
        if self.fn not in UNARY:
            yield self._right()
        yield granules("prm", self.prm, Q_GRANULES)
        if self.fn in UNARY:
            yield self._table()
        yield self._output()

    def may_alias(self, read: Access, write: Access) -> bool:
        return (read.base, read.dims) == (write.base, write.dims)

    def execute(self, m: MachineState) -> None:
        q = QuantRecord.read(
            m, "prm", self.prm, scales=_SCALES[self.fn], divisors=_DIVISOR.get(self.fn, ()), output=self.ot
        )
        if self.fn is F.ADD:
            require_finite("prm", np.array(q.p[2]))
        table = self._checked_table(m) if self.fn in UNARY else np.zeros(0, np.float32)
        a = m.read(self._left(), self.at.dtype).astype(np.int32)
        if self.fn in UNARY:
            y = self._unary(a, table, q)
        else:
            kind = self.at if self.fn in LERP else self.bt
            b = m.read(self._right(), kind.dtype).astype(np.int32)
            y = self._lerp(a, b, q) if self.fn in LERP else self._binary(a, b, q)
        m.write(self._output(), y, self.ot.dtype)

    def _binary(self, a: NDArray[Any], b: NDArray[Any], q: QuantRecord) -> NDArray[Any]:
        match self.fn:
            case F.ADD:
                return arithmetic.add(a, b, q.p[0], q.p[1], q.p[2], q.lo, q.hi)
            case F.MUL:
                return arithmetic.multiply(a, q.za, b, q.zb, q.p[0], q.zo, q.lo, q.hi)
            case F.MASK:
                return np.clip(np.where((q.za < b) & (b < q.zb), a, 0), q.lo, q.hi)
            case fn if fn in INTEGER:
                return np.clip(INTEGER[fn](a, b), q.lo, q.hi)
            case fn:
                left = arithmetic.dequantize(a, q.p[0], q.za)
                right = arithmetic.dequantize(b, q.p[1], q.zb)
                with np.errstate(divide="ignore", invalid="ignore"):
                    v = FLOAT_BINARY[fn](left, right)
                return arithmetic.quantize_real(
                    np.where(np.isnan(v), np.float32(-np.inf), v), q.p[2], q.zo, q.lo, q.hi
                )

    def _checked_table(self, m: MachineState) -> NDArray[np.float32]:
        """Slopes, or gains and offsets."""
        table = m.read(self._table(), FLOAT)
        require_finite("prm", table[: self.c * (2 if self.fn is F.AFFINE else 1)])
        return table

    def _unary(self, a: NDArray[Any], table: NDArray[np.float32], q: QuantRecord) -> NDArray[Any]:
        v = arithmetic.dequantize(a, q.p[0], q.za)
        if self.fn is F.PRELU:
            v = np.where(v < 0, v * table[: self.c], v)
        else:
            v = arithmetic.affine(v, table[: self.c], table[self.c : 2 * self.c])
        return arithmetic.quantize_real(v, q.p[2], q.zo, q.lo, q.hi)

    def _lerp(self, a: NDArray[Any], b: NDArray[Any], q: QuantRecord) -> NDArray[Any]:
        above, below = (arithmetic.dequantize(side, q.p[0], q.za) for side in (a, b))
        step = 1 if self.fn is F.LERP1 else 0
        corners = (
            above[:, : self.w],
            above[:, step : step + self.w],
            below[:, : self.w],
            below[:, step : step + self.w],
        )
        v = f32(corners[0] * q.p[1])
        for corner, weight in zip(corners[1:], q.p[2:5], strict=True):
            v = v + corner * weight
        return arithmetic.quantize_real(v, q.p[5], q.zo, q.lo, q.hi)

    def cycles(self, t: Target) -> int:
        pitches = [(self.aps, self.ars), (self.ops, self.ors)]
        if self.fn not in UNARY:
            pitches.append((self.aps if self.fn in LERP else self.bps, self.brs))
        beats = element_wise_cycles(t, self.h, self.w, self.c, pitches)
        weight = 4 if self.fn is F.FDIV else 2 if self.fn in FLOAT_BINARY or self.fn in UNARY | LERP else 1
        return t.ctl.issue + t.vx.startup + weight * beats
