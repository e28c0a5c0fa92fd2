"""Operands that land on rounding boundaries: codes at the ends of their range, scales that are powers of two."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.instructions.records import QuantRecord
from isa.spec import ElementType

Array = NDArray[Any]
F32 = np.float32


def codes(generator: np.random.Generator, *shape: int, kind: ElementType = ElementType.S8) -> Array:
    """Random codes, the least and the greatest more often than chance."""
    low, high = kind.bounds
    values = generator.integers(low, high + 1, shape)
    return np.where(generator.random(shape) < 0.2, generator.choice([low, high], shape), values).astype(
        kind.dtype
    )


def dyadic(generator: np.random.Generator, low: int, high: int) -> np.float32:
    """A power of two."""
    return F32(2.0 ** int(generator.integers(low, high)))


def odd(generator: np.random.Generator, count: int, kind: ElementType) -> list[int]:
    """Odd zero points."""
    return [int(v) * 2 + 1 + kind.bounds[0] for v in generator.integers(0, 128, count)]


def clamped(kind: ElementType, *p: np.float32, **fields: int) -> QuantRecord:
    """A record that clamps to the range of a type."""
    low, high = kind.bounds
    return QuantRecord(p, lo=low, hi=high, **fields)
