"""32-bit arithmetic on the vector engine: float32 and int32 in accumulator rows (extension T)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from isa import arithmetic
from isa.instructions.dma import WORD
from isa.instructions.footprints import granules, register
from isa.instructions.records import FLOAT
from isa.memory_map import Space, address_unit
from isa.spec import (
    Access,
    Engine,
    Fault,
    Instruction,
    MachineState,
    Trap,
    TrapError,
    instruction,
    kept,
    operand,
)
from isa.target import Target

Words = NDArray[Any]
SLOW: Final = 4
"""Cycles of a division or a root for every one of another function."""


class Function32(IntEnum):
    """The function of `v32`."""

    FADD = 0
    FSUB = 1
    FMUL = 2
    FDIV = 3
    FSQRT = 4
    FMAX = 5
    FMIN = 6
    FABS = 7
    I2F = 8
    F2I = 9
    P2F = 10
    IADD = 11
    ISUB = 12
    IMAX = 13
    ISHADD = 14
    ISHSUB = 15
    SEL = 16


class Source32(IntEnum):
    """Where an operand of `v32` comes from."""

    ROWS = 0
    ROW = 1
    PRM = 2
    REG = 3


F = Function32
FLOAT_BINARY: Final[dict[Function32, Callable[[Words, Words], Words]]] = {
    F.FADD: np.add,
    F.FSUB: np.subtract,
    F.FMUL: np.multiply,
    F.FDIV: np.divide,
    F.FMAX: lambda a, b: np.where(a > b, a, b),
    F.FMIN: lambda a, b: np.where(a < b, a, b),
}
FLOAT_UNARY: Final[dict[Function32, Callable[[Words], Words]]] = {F.FSQRT: np.sqrt, F.FABS: np.abs}
CONVERSIONS: Final[dict[Function32, Callable[[Words], Words]]] = {
    F.I2F: arithmetic.f32,
    F.F2I: arithmetic.to_word,
    F.P2F: arithmetic.power_of_two,
}
SPREADING: Final = frozenset({F.FADD, F.FSUB, F.FMUL})
"""Functions of two floats whose result is finite only if both are."""
SHIFTED: Final = {F.ISHADD: 1, F.ISHSUB: -1}
"""The sign of the shifted operand."""
INTEGER_BINARY: Final[dict[Function32, Callable[[Words, Words], Words]]] = {
    F.IADD: np.add,
    F.ISUB: np.subtract,
    F.IMAX: np.maximum,
    F.SEL: lambda a, b: np.where(a > 0, b, 0),
}
"""Functions of int64 copies of the operands; the result wraps to int32."""
UNARY: Final = frozenset({*FLOAT_UNARY, *CONVERSIONS})
TAKES_FLOATS: Final = frozenset({*FLOAT_BINARY, *FLOAT_UNARY, F.F2I})
GIVES_FLOATS: Final = frozenset({*FLOAT_BINARY, *FLOAT_UNARY, F.I2F, F.P2F})
IN_ACCUMULATORS: Final = (Source32.ROWS, Source32.ROW)


@instruction("v32", opcode=0x89, engine=Engine.VX)
class Vector32(Instruction):
    """Compute with 32-bit words, lane by lane: d = fn(a, b) in lanes 0..lanes-1 of accumulator rows.

    An operand is a row for each of d (rows), one row for all (row), a word of the parameter memory (prm;
    the first word of the granule for a, the second for b), or a scalar register (reg); a register or word
    holds the bits of a float32 for functions of floats, else an integer. fadd, fsub, fmul, fdiv, fsqrt are
    rounded once, half to even, subnormals kept; fmax, fmin and fabs are exact; a NaN or an infinity among
    operands or results traps. i2f rounds a to float32; f2i rounds half to even and saturates to
    -2^30..2^30; p2f gives 2^a, a clamped to -126..127. iadd, isub wrap; imax compares signed. ishadd and
    ishsub give a + rsh(b, s) and a - rsh(b, s), saturated to int32: rsh shifts right by register s = sra,
    rounding half to even, or left where it is negative. sel gives b where a > 0, else 0. Register obs, if
    one is named, becomes the maximum of itself and of |d|: of its float32 bits where d is a float, else
    saturated to 2^31 - 1.
    """

    extension: ClassVar[str] = "T"

    d: int = operand(14, address=True, doc="first accumulator row written")
    a: int = operand(14, address=True, doc="first accumulator row of a")
    b: int = operand(14, address=True, doc="first accumulator row of b")
    rows: int = operand(12, low=1, doc="rows written")
    lanes: int = operand(8, low=1, doc="lanes of a row")
    fn: Function32 = operand(5, enum=Function32, doc="the function")
    sa: Source32 = operand(2, enum=Source32, doc="where a comes from")
    sb: Source32 = operand(2, enum=Source32, doc="where b comes from")
    prm: int = operand(16, address=True, doc="granule of the words of a and b")
    sra: int = operand(6, doc="scalar register of a, or that gives the shift")
    srb: int = operand(6, doc="scalar register of b")
    obs: int = operand(6, doc="scalar register that observes the greatest magnitude of d; 0: none")

    shorthands = ("{fn}", "{d}<-{a}", "{rows}x{lanes}")

    def unused(self) -> frozenset[str]:
        unary = self.fn in UNARY
        idle: set[str] = {"sb"} if unary else set()
        if self.sa not in IN_ACCUMULATORS:
            idle.add("a")
        if unary or self.sb not in IN_ACCUMULATORS:
            idle.add("b")
        if self.sa is not Source32.REG and self.fn not in SHIFTED:
            idle.add("sra")
        if unary or self.sb is not Source32.REG:
            idle.add("srb")
        if self.sa is not Source32.PRM and (unary or self.sb is not Source32.PRM):
            idle.add("prm")
        return frozenset(idle)

    def check(self, t: Target) -> Iterator[Fault]:
        if self.lanes > t.mx.cols:
            yield Fault(
                Trap.LIMIT,
                "lanes",
                f"lanes={self.lanes} exceeds the lanes of an accumulator row; allowed: {t.mx.cols}",
            )
        if self.fn in SHIFTED and self.sa is Source32.REG:
            text = f"fn={self.fn.name.lower()} takes its shift from sra; allowed: sa=rows, row or prm"
            yield Fault(Trap.BAD_ENUM, "sa", text)

    def _rows(self, t: Target, name: str, first: int, count: int, *, write: bool = False) -> Access:
        unit = address_unit(t, Space.ACC)
        dims = ((count, unit), (self.lanes * WORD.itemsize, 1))
        return Access(name, Space.ACC, first * unit, dims, write=write)

    def _operand(self, t: Target, name: str) -> Access:
        """Where a or b is read from."""
        source: Source32 = self.sa if name == "a" else self.sb
        match source:
            case Source32.PRM:
                return granules("prm", self.prm, 1)
            case Source32.REG:
                return register(f"sr{name}", self.sra if name == "a" else self.srb)
            case _:
                count = self.rows if source is Source32.ROWS else 1
                return self._rows(t, name, self.a if name == "a" else self.b, count)

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self._operand(t, "a")
        if self.fn not in UNARY:
            yield self._operand(t, "b")
        if self.fn in SHIFTED:
            yield register("sra", self.sra)
        if self.obs:
            yield register("obs", self.obs)
        yield self._rows(t, "d", self.d, self.rows, write=True)
        if self.obs:
            yield register("obs", self.obs, write=True)

    def may_alias(self, read: Access, write: Access) -> bool:
        if write.operand == "obs":
            return read.operand == "obs"
        return read.operand in ("a", "b") and (read.base, read.dims) == (write.base, write.dims)

    def execute(self, m: MachineState) -> None:
        places = self._places(m.target)
        kind = FLOAT if self.fn in TAKES_FLOATS else WORD
        if kind is FLOAT and (self.sa is Source32.PRM or self.sb is Source32.PRM):
            self._check_words(m, places)
        a = self._values(m, places, 0, kind)
        b = a if self.fn in UNARY else self._values(m, places, 1, kind)
        result = self._compute(m, a, b)
        m.write(places[2], result, FLOAT if self.fn in GIVES_FLOATS else WORD)
        if self.obs:
            observe(m, self.obs, result)

    @kept
    def _places(self, t: Target) -> tuple[Access, Access, Access]:
        """a, b and d."""
        a = self._operand(t, "a")
        b = a if self.fn in UNARY else self._operand(t, "b")
        return a, b, self._rows(t, "d", self.d, self.rows, write=True)

    def _check_words(self, m: MachineState, places: tuple[Access, ...]) -> None:
        """Words of the parameter memory first: the checker sees them alone."""
        for index in (0,) if self.fn in UNARY else (0, 1):
            if places[index].operand == "prm":
                self._require_finite(self._values(m, places, index, FLOAT))

    @staticmethod
    def _values(m: MachineState, places: tuple[Access, ...], index: int, kind: np.dtype[Any]) -> Words:
        values = m.read(places[index], kind)
        return values[index] if places[index].operand == "prm" else values

    def _compute(self, m: MachineState, a: Words, b: Words) -> Words:
        if self.fn in FLOAT_BINARY:
            result = FLOAT_BINARY[self.fn](a, b)
            self._require_finite(result)
            if self.fn not in SPREADING:
                self._require_finite(a)
                self._require_finite(b)
            return result
        if self.fn in FLOAT_UNARY:
            result = FLOAT_UNARY[self.fn](a)
            self._require_finite(result)
            return result
        if self.fn is F.F2I:
            self._require_finite(a)
        if self.fn in CONVERSIONS:
            return CONVERSIONS[self.fn](a)
        if self.fn in SHIFTED:
            shift = int(m.read(register("sra", self.sra), WORD)[0])
            shifted = arithmetic.shift_right_rounding(b, shift)
            return arithmetic.saturate32(a.astype(np.int64) + SHIFTED[self.fn] * shifted)
        exact = INTEGER_BINARY[self.fn](a.astype(np.int64), b.astype(np.int64))
        if exact.max() > arithmetic.INT32_MAX or exact.min() < arithmetic.INT32_MIN:
            m.accumulators_overflow()
        return arithmetic.wrap32(exact)

    def _require_finite(self, values: Words) -> None:
        if not arithmetic.is_finite(values):
            raise TrapError(Trap.FP_INVALID, "d", f"{self.fn.name.lower()} meets or gives NaN or infinity")

    def cycles(self, t: Target) -> int:
        weight = SLOW if self.fn in (F.FDIV, F.FSQRT) else 1
        return t.ctl.issue + t.vx.startup + weight * math.ceil(self.rows * t.mx.cols / t.vx.lanes)


def observe(m: MachineState, number: int, values: Words) -> None:
    """Make a scalar register the maximum of itself and the magnitudes of values.

    Of float32 the bits count, which are in the order of the magnitudes; -2^31 counts as 2^31 - 1.
    """
    before = int(m.read(register("obs", number), WORD)[0])
    if values.dtype == np.float32:
        greatest = int(abs(np.float32(max(values.max(), -values.min()))).view(np.int32))
    else:
        greatest = min(max(int(values.max()), -int(values.min())), arithmetic.INT32_MAX)
    m.write(register("obs", number, write=True), np.array(max(before, greatest)), WORD)
