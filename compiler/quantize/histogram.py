"""How often which values occur in a tensor: a histogram that takes samples one after another.

Its bins divide [-2^k, 2^k) evenly. Where a value lies beyond, k grows and bins merge in pairs, so that
memory is constant and the counts depend on the values alone, not on their order.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.support.records import Struct, field

BITS: Final = 13
HALF: Final = 1 << BITS
"""Bins on each side of zero: at least 16 for each of 256 codes of a range that lies on one side."""
Counts = NDArray[np.int64]


def _no_counts() -> Counts:
    return np.zeros(2 * HALF, np.int64)


class Histogram(Struct):
    """Counts of finite values; `exponent` is k, None until a value other than zero has come."""

    counts: Counts = field(default_factory=_no_counts)
    exponent: int | None = None

    def include(self, values: NDArray[Any], largest: float) -> None:
        """Count values, of which none is larger than `largest` in magnitude."""
        if largest > 0:
            self._reach(math.frexp(largest)[1])
        if self.exponent is None:
            self.counts[HALF] += values.size
            return
        bins = values.ravel().astype(np.float64)
        bins *= math.ldexp(1.0, BITS - self.exponent)  # exact: float64 has room for every float32
        np.floor(bins, out=bins)
        self.counts += np.bincount(bins.astype(np.int64) + HALF, minlength=2 * HALF)

    def _reach(self, exponent: int) -> None:
        """Let the bins cover [-2^exponent, 2^exponent)."""
        if self.exponent is None:
            self.exponent = exponent
        while self.exponent < exponent:
            merged = _no_counts()
            merged[HALF // 2 : HALF // 2 + HALF] = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts, self.exponent = merged, self.exponent + 1

    def occupied(self, low: float, high: float) -> tuple[NDArray[np.float64], Counts]:
        """The centres, within [low, high], and the counts of the bins that hold values."""
        width = math.ldexp(1.0, (self.exponent or 0) - BITS)
        (at,) = np.nonzero(self.counts)
        centres = ((at - HALF).astype(np.float64) + 0.5) * width
        return np.minimum(np.maximum(centres, low), high), self.counts[at]
