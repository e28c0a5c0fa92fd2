"""Randomness of training: the same bits on every machine and in every version of numpy.

Everything comes from the raw words of Philox4x64-10 (Salmon et al., 2011), which numpy promises to keep; what
its generators make of them it does not promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.types import Shape

UNIT: Final = np.float32(2.0**-24)
"""Of uniform numbers: 24 bits, each of which float32 holds."""
WITHIN: Final = 0.9544997361036416
"""The part of a normal distribution that lies within two deviations."""
CUT_DEVIATION: Final = 0.8796256610342398
"""The standard deviation of that part, as Keras has it."""
ABOVE: Final = (
    -3.969683028665376e1,
    2.209460984245205e2,
    -2.759285104469687e2,
    1.383577518672690e2,
    -3.066479806614716e1,
    2.506628277459239,
)
BELOW: Final = (
    0.0,
    -5.447609879822406e1,
    1.615858368580409e2,
    -1.556989798598866e2,
    6.680131188771972e1,
    -1.328068155288572e1,
)
"""Acklam's coefficients a and b, of the powers from the highest on."""


def words(key: Sequence[int], count: int) -> NDArray[np.uint64]:
    """The first 64-bit words of the stream of a key of two numbers below 2^64."""
    first, second = key
    generator = np.random.Philox(key=np.array([first, second], np.uint64))
    return np.asarray(generator.random_raw(count), np.uint64)


def uniform(key: Sequence[int], shape: Shape, low: float, high: float) -> NDArray[np.float32]:
    """float32 numbers of low..high: low + u * (high - low), each operation rounded once, u of [0, 1)."""
    count = int(np.prod(shape, dtype=np.int64))
    unit = (words(key, count) >> np.uint64(40)).astype(np.float32) * UNIT
    return (np.float32(low) + unit * np.float32(high - low)).reshape(shape)


def normal(key: Sequence[int], shape: Shape, deviation: float) -> NDArray[np.float32]:
    """float32 numbers of a normal distribution cut off at two deviations, with that standard deviation.

    A uniform number of 24 bits, the middle of its step, is put through the inverse of the distribution: there
    it is a quotient of two polynomials (Acklam, "An algorithm for computing the inverse normal cumulative
    distribution function", 2003), so that every machine gives the same bits. Keras has TruncatedNormal so.
    """
    count = int(np.prod(shape, dtype=np.int64))
    unit = ((words(key, count) >> np.uint64(40)).astype(np.float64) + 0.5) * 2.0**-24
    q = (unit - 0.5) * WITHIN
    r = q * q
    above, below = np.zeros_like(r), np.zeros_like(r)
    for a, b in zip(ABOVE, BELOW, strict=True):
        above, below = above * r + a, below * r + b
    value = q * above / (below * r + 1)
    return (value * (deviation / CUT_DEVIATION)).astype(np.float32).reshape(shape)


def shuffled(key: Sequence[int], count: int) -> NDArray[np.int64]:
    """A permutation of 0..count-1 (Fisher and Yates): from the last place on, i takes j = floor(u * (i + 1)).

    u is the upper half of a word, as a fraction.
    """
    order = list(range(count))
    drawn: list[int] = (words(key, max(count - 1, 0)) >> np.uint64(32)).tolist()
    for i, word in zip(range(count - 1, 0, -1), drawn, strict=True):
        j = word * (i + 1) >> 32
        order[i], order[j] = order[j], order[i]
    return np.array(order, np.int64)
