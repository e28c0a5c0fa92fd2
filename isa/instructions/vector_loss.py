"""Softmax and cross-entropy of a training step, on the vector engine (extension T)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import IntEnum
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from isa import arithmetic
from isa.instructions.dma import WORD
from isa.instructions.footprints import accumulators, granules, pixels, register
from isa.instructions.records import FLOAT, require_exponentials, require_scale
from isa.instructions.sums import gather_sums
from isa.spec import (
    Access,
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

TABLE_GRANULES: Final = 128
"""Of 256 float32 values; the granule after them holds the factor of the sums."""
STEPS_BITS: Final = 4
"""Differences of logits count in steps of 2^-4."""
RECORD: Final = np.dtype([("d", "<i4"), ("z", "<f4"), ("best", "<i4")])
"""What a row leaves for the host: the label's difference, the sum, the index of the greatest."""
ONE: Final = 127
"""The error of a probability of 1."""


class Loss(IntEnum):
    """What `vloss` writes."""

    ERRORS = 0
    PROBS = 1


@instruction("vloss", opcode=0x8B, engine=Engine.VX)
class SoftmaxLoss(Instruction):
    """Take the softmax of rows of sums A, and with it the errors of the categorical cross-entropy.

    d_j = clamp(rne(F(F(A_j - max A) * F(f * 2^(e + 4)))), -255, 0) with e from register sreg and the
    float32 f in the granule after the table; t_j = table[255 + d_j]; z is the float32 sum of t in ascending
    j. errors writes g_j = rne(F(F(t_j * 127) / z)) - 127 * (j = label), s8, and a record {i32 d[label], f32
    z, i32 index of the first greatest A} for each row; a label beyond the row's sums traps, and so does an
    infinite F(f * 2^(e + 4)). probs writes p_j = F(t_j / z), float32. Row i of the sums is accumulator row
    acc + (j/C)*ags + i; labels are int32.
    """

    extension: ClassVar[str] = "T"

    acc: int = operand(14, address=True, doc="first accumulator row")
    ags: int = operand(14, doc="accumulator rows from class group to class group")
    lab: int = operand(23, address=True, doc="first byte of the labels in SPM")
    g: int = operand(23, address=True, doc="first byte of the errors or probabilities in SPM")
    gps: int = operand(16, doc="bytes from row to row of g")
    rec: int = operand(23, address=True, doc="first byte of the records in SPM")
    tab: int = operand(16, address=True, doc="first granule of the float32[256] table")
    h: int = operand(10, low=1, doc="rows")
    c: int = operand(16, low=1, doc="classes")
    fn: Loss = operand(1, enum=Loss, doc="what is written")
    sreg: int = operand(6, doc="scalar register with the exponent of the sums")

    shorthands = ("{fn}", "{h}x{c}")

    def unused(self) -> frozenset[str]:
        return frozenset({"lab", "rec"}) if self.fn is Loss.PROBS else frozenset()

    def _sources(self, t: Target) -> list[tuple[slice, Access]]:
        return list(accumulators("acc", self.acc, self.ags, ((self.h, 1),), self.c, t, write=False))

    def _table(self) -> Access:
        return granules("tab", self.tab, TABLE_GRANULES + 1)

    def _labels(self) -> Access:
        return pixels("lab", self.lab, 1, 0, 1, 0, self.h, element_bytes=WORD.itemsize)

    def _records(self) -> Access:
        return pixels("rec", self.rec, 1, 0, 1, 0, self.h, element_bytes=RECORD.itemsize, write=True)

    def _output(self) -> Access:
        size = 1 if self.fn is Loss.ERRORS else FLOAT.itemsize
        return pixels("g", self.g, 1, 0, self.h, self.gps, self.c, element_bytes=size, write=True)

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self._table()
        yield register("sreg", self.sreg)
        yield from (a for _, a in self._sources(t))
        if self.fn is Loss.ERRORS:
            yield self._labels()
        yield self._output()
        if self.fn is Loss.ERRORS:
            yield self._records()

    def execute(self, m: MachineState) -> None:
        table, factor = self._checked_table(m)
        exponent = int(m.read(register("sreg", self.sreg), WORD)[0])
        if not np.isfinite(arithmetic.loss_unit(factor, exponent + STEPS_BITS)):
            raise TrapError(Trap.FP_INVALID, "tab", "the unit of the sums is more than float32 holds")
        sums = gather_sums(m, self._sources(m.target), (self.h,), self.c)
        differences = arithmetic.loss_steps(sums, factor, exponent + STEPS_BITS)
        entries, total = arithmetic.exponentials(differences, table)
        if self.fn is Loss.PROBS:
            m.write(self._output(), (entries / total[:, None])[None], FLOAT)
            return
        labels = m.read(self._labels(), WORD).ravel()
        if labels.min() < 0 or labels.max() >= self.c:
            text = f"a label is {int(labels.min())} or {int(labels.max())}; allowed: 0..{self.c - 1}"
            raise TrapError(Trap.LIMIT, "lab", text)
        rows = np.arange(self.h)
        errors = arithmetic.to_integer(entries * np.float32(ONE) / total[:, None], 0, ONE)
        errors[rows, labels] -= ONE
        record = np.zeros(self.h, RECORD)
        record["d"], record["z"], record["best"] = differences[rows, labels], total, sums.argmax(axis=1)
        m.write(self._output(), errors[None], ElementType.S8.dtype)
        m.write(self._records(), record, RECORD)

    def _checked_table(self, m: MachineState) -> tuple[NDArray[np.float32], np.float32]:
        words = m.read(self._table(), FLOAT)
        entries, factor = words[:256], words[256]
        require_scale("tab", words[256:257])
        require_exponentials("tab", entries)
        return entries, factor

    def cycles(self, t: Target) -> int:
        per_row = 3 * math.ceil(self.c / t.vx.lanes) + self.c
        return t.ctl.issue + t.vx.startup + self.h * per_row
