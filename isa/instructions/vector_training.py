"""Sums of maps, batch normalization and dropout on the vector engine (extension T)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from isa import arithmetic
from isa.instructions.dma import BYTE, WORD
from isa.instructions.footprints import accumulators, element_wise_cycles, granules, pixels, register, run
from isa.instructions.records import FLOAT, require_finite
from isa.instructions.sums import store_sums
from isa.memory_map import GRANULE_BYTES, Space
from isa.spec import (
    Access,
    Dims,
    ElementType,
    Engine,
    Instruction,
    MachineState,
    Trap,
    TrapError,
    instruction,
    operand,
)
from isa.target import Target

FRACTION: Final = np.float32(1 << 16)
"""Normalized values count in steps of 2^-16."""


class MapSum(IntEnum):
    """The function of `vsum`."""

    SADD = 0
    BNF = 1
    BNB = 2


ROWS: Final = {MapSum.SADD: 0, MapSum.BNF: 2, MapSum.BNB: 3}
"""Rows of a float32 for each channel in the parameter memory."""


@instruction("vsum", opcode=0x8D, engine=Engine.VX)
class VectorSum(Instruction):
    """Combine 8-bit maps into int32 accumulators, `ACC[acc + (n/C)*ags + y*w + x][n%C]`.

    sadd gives rsh(a, s) + rsh(b, t), s and t from registers sra and srb; rsh rounds half to even, and
    shifts left where its register is negative, saturating. bnf gives clamp(rne((F(a)*k + h) * 2^16),
    +-2^30), bnb the same of F(a)*k + (F(b)*q + r), each operation rounded to float32: k, h or k, q, r are
    float32 rows, one number for each channel, that lie one after another in the parameter memory, each
    padded to whole granules. A NaN or an infinity among rows or sums traps.
    """

    extension: ClassVar[str] = "T"

    a: int = operand(23, address=True, doc="first byte of a in SPM")
    b: int = operand(23, address=True, doc="first byte of b in SPM")
    acc: int = operand(14, address=True, doc="first accumulator row")
    prm: int = operand(16, address=True, doc="first granule of the rows")
    fn: MapSum = operand(3, enum=MapSum, doc="the function")
    h: int = operand(10, low=1, doc="rows")
    w: int = operand(10, low=1, doc="columns")
    c: int = operand(12, low=1, doc="channels")
    aps: int = operand(13, doc="bytes from pixel to pixel of a")
    ars: int = operand(18, doc="bytes from row to row of a")
    bps: int = operand(13, doc="bytes from pixel to pixel of b")
    brs: int = operand(18, doc="bytes from row to row of b")
    ags: int = operand(14, doc="accumulator rows from channel group to channel group")
    at: ElementType = operand(1, enum=ElementType, doc="type of a")
    bt: ElementType = operand(1, enum=ElementType, doc="type of b")
    sra: int = operand(6, doc="scalar register with the shift of a")
    srb: int = operand(6, doc="scalar register with the shift of b")

    shorthands = ("{fn}", "{h}x{w}x{c}")

    def unused(self) -> frozenset[str]:
        match self.fn:
            case MapSum.SADD:
                return frozenset({"prm"})
            case MapSum.BNF:
                return frozenset({"b", "bps", "brs", "bt", "sra", "srb"})
            case _:
                return frozenset({"sra", "srb"})

    def _left(self) -> Access:
        return pixels("a", self.a, self.h, self.ars, self.w, self.aps, self.c)

    def _right(self) -> Access:
        return pixels("b", self.b, self.h, self.brs, self.w, self.bps, self.c)

    def _row_granules(self) -> int:
        return math.ceil(self.c * FLOAT.itemsize / GRANULE_BYTES)

    def _rows(self) -> Access:
        return granules("prm", self.prm, ROWS[self.fn] * self._row_granules())

    def _rows_of_map(self) -> Dims:
        return ((self.h * self.w, 1),)

    def _targets(self, t: Target) -> list[tuple[slice, Access]]:
        return list(accumulators("acc", self.acc, self.ags, self._rows_of_map(), self.c, t, write=True))

    def accesses(self, t: Target) -> Iterator[Access]:
        if self.fn is not MapSum.SADD:
            yield self._rows()
        yield self._left()
        if self.fn is not MapSum.BNF:
            yield self._right()
        if self.fn is MapSum.SADD:
            yield register("sra", self.sra)
            yield register("srb", self.srb)
        yield from (a for _, a in self._targets(t))

    def execute(self, m: MachineState) -> None:
        rows = self._parameters(m)
        a = m.read(self._left(), self.at.dtype)
        if self.fn is MapSum.SADD:
            b = m.read(self._right(), self.bt.dtype)
            s, t = (
                int(m.read(register(f"sr{n}", r), WORD)[0]) for n, r in (("a", self.sra), ("b", self.srb))
            )
            exact = arithmetic.shift_right_rounding(a, s) + arithmetic.shift_right_rounding(b, t)
            self._write(m, exact)
            return
        v = arithmetic.f32(a) * rows[0]
        if self.fn is MapSum.BNF:
            v = v + rows[1]
        else:
            v = v + (arithmetic.f32(m.read(self._right(), self.bt.dtype)) * rows[1] + rows[2])
        if not arithmetic.is_finite(v):
            raise TrapError(Trap.FP_INVALID, "prm", f"{self.fn.name.lower()} meets or gives NaN or infinity")
        self._write(m, arithmetic.to_word(v * FRACTION))

    def _parameters(self, m: MachineState) -> NDArray[np.float32]:
        """The rows: (rows, channels)."""
        count = ROWS[self.fn]
        if not count:
            return np.zeros((0, self.c), np.float32)
        rows = m.read(self._rows(), FLOAT).reshape(count, -1)[:, : self.c]
        require_finite("prm", rows)
        return rows

    def _write(self, m: MachineState, values: NDArray[Any]) -> None:
        flat = values.reshape(-1, self.c)
        store_sums(m, self._targets(m.target), flat, 1, accumulate=False)

    def cycles(self, t: Target) -> int:
        pitches = [(self.aps, self.ars)]
        if self.fn is not MapSum.BNF:
            pitches.append((self.bps, self.brs))
        weight = 1 if self.fn is MapSum.SADD else 2
        return t.ctl.issue + t.vx.startup + weight * element_wise_cycles(t, self.h, self.w, self.c, pitches)


@instruction("vrnd", opcode=0x8C, engine=Engine.VX)
class VectorRandom(Instruction):
    """Write random bytes, 1 or 0: byte i is 1 where mix((first + i) xor key) >= rate * 2^16.

    key and first are scalar registers, taken modulo 2^32 as their sum is. mix is lowbias32 (Wellons): x ^=
    x >> 16, x *= 0x7feb352d, x ^= x >> 15, x *= 0x846ca68b, x ^= x >> 16, modulo 2^32. So a byte depends on
    its number alone, wherever it is made.
    """

    extension: ClassVar[str] = "T"

    dst: int = operand(23, address=True, doc="first byte written in SPM")
    n: int = operand(23, low=1, doc="bytes")
    key: int = operand(6, doc="scalar register with the key")
    first: int = operand(6, doc="scalar register with the number of the first byte")
    rate: int = operand(16, doc="share of zeros, in 2^-16")

    shorthands = ("{dst}", "n={n}")

    def _output(self) -> Access:
        return run("dst", Space.SPM, self.dst, self.n, write=True)

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        yield register("key", self.key)
        yield register("first", self.first)
        yield self._output()

    def execute(self, m: MachineState) -> None:
        key, first = (
            int(m.read(register(name, number), WORD)[0]) % (1 << 32)
            for name, number in (("key", self.key), ("first", self.first))
        )
        numbers = np.arange(self.n, dtype=np.uint32) + np.uint32(first)
        mixed = arithmetic.mix(numbers ^ np.uint32(key))
        m.write(self._output(), (mixed >= np.uint32(self.rate << 16)).astype(BYTE), BYTE)

    def cycles(self, t: Target) -> int:
        return t.ctl.issue + t.vx.startup + math.ceil(self.n / t.vx.lanes)
