"""The records that instructions read from the parameter memory."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.arithmetic import is_finite
from isa.instructions.footprints import granules
from isa.memory_map import Q_GRANULES, QUANT_RECORD
from isa.spec import ElementType, MachineState, Trap, TrapError
from isa.support.records import Frozen, field

FLOAT: Final = np.dtype("<f4")
INFINITY_BITS: Final = 0x7F800000
"""Finite float32 values without a sign bit are below it, read as unsigned integers."""


class QuantRecord(Frozen):
    """Record Q: float32 constants p0..p5, zero points of A, B and the output, clamp bounds."""

    p: tuple[np.float32, ...] = field(default=(np.float32(0),) * 6)
    bias: int = 0
    za: int = 0
    zb: int = 0
    zo: int = 0
    lo: int = -128
    hi: int = 127

    def pack(self) -> bytes:
        """The 40 bytes."""
        padded = (*self.p, *(np.float32(0),) * (6 - len(self.p)))
        return np.array(
            (padded, self.bias, self.za, self.zb, self.zo, self.lo, self.hi, 0), QUANT_RECORD
        ).tobytes()

    @staticmethod
    def read(
        m: MachineState,
        operand: str,
        granule: int,
        *,
        scales: tuple[int, ...] = (),
        divisors: tuple[int, ...] = (),
        output: ElementType | None = None,
    ) -> QuantRecord:
        """The record at a granule; constants used as scales or divisors are checked.

        `output` is the type that lo..hi must lie within, where values are clamped to it.

        Raises:
            TrapError: FP_INVALID, or BAD_ENUM where lo..hi is empty or leaves the output type.
        """
        raw = m.read(granules(operand, granule, Q_GRANULES), QUANT_RECORD)[0]
        record = QuantRecord(
            tuple(raw["p"]),
            int(raw["bias"]),
            int(raw["za"]),
            int(raw["zb"]),
            int(raw["zo"]),
            int(raw["lo"]),
            int(raw["hi"]),
        )
        require_scale(operand, np.array([record.p[i] for i in scales], np.float32))
        if any(record.p[i] == 0 for i in divisors):
            raise TrapError(Trap.FP_INVALID, operand, "a divisor of the record is 0")
        if output is not None:
            low, high = output.bounds
            if not low <= record.lo <= record.hi <= high:
                raise TrapError(
                    Trap.BAD_ENUM,
                    operand,
                    f"the record clamps to {record.lo}..{record.hi}; allowed: within {low}..{high}",
                )
        return record


def require_scale(operand: str, scales: NDArray[Any]) -> None:
    """Scales are finite and have no sign bit.

    Raises:
        TrapError: FP_INVALID.
    """
    if not (np.ascontiguousarray(scales).view(np.uint32) < INFINITY_BITS).all():
        raise TrapError(Trap.FP_INVALID, operand, "a multiplier or scale is NaN, infinite or negative")


def require_finite(operand: str, values: NDArray[Any]) -> None:
    """Offsets, slopes and gains are finite.

    Raises:
        TrapError: FP_INVALID.
    """
    if not is_finite(values):
        raise TrapError(Trap.FP_INVALID, operand, "an offset or a table entry is NaN or infinite")


def require_exponentials(operand: str, entries: NDArray[Any]) -> None:
    """A softmax table is finite, non-negative, and positive at its end.

    Raises:
        TrapError: FP_INVALID.
    """
    if not is_finite(entries) or (entries < 0).any() or not entries[-1] > 0:
        raise TrapError(
            Trap.FP_INVALID, operand, "the table is not finite, non-negative, and positive at its end"
        )
