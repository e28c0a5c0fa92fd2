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
