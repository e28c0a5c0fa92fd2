"""Geometry of strided boxes: do two overlap, does one name a byte twice, does it stay inside."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.memory_map import ACCUMULATOR_BYTES, GRANULE_BYTES, SREG_BYTES, Space
from isa.spec import Access

GRAIN: Final = {
    Space.SPM: 1,
    Space.ACC: ACCUMULATOR_BYTES,
    Space.PRM: GRANULE_BYTES,
    Space.DRAM: 1,
    Space.SREG: SREG_BYTES,
}
"""Bytes that are always accessed together, and share one entry of a shadow memory."""


def same_memory(a: Access, b: Access) -> bool:
    """Whether the accesses are to the same space, and region where it is DRAM."""
    return a.space is b.space and a.region == b.region


def overlaps(a: Access, b: Access) -> bool:
    """Whether two accesses name a common byte: intervals first, then run by run."""
    if not same_memory(a, b):
        return False
    (a_low, a_high), (b_low, b_high) = a.span(), b.span()
    if a_high <= b_low or b_high <= a_low:
        return False
    if is_contiguous(a) and is_contiguous(b):
        return True
    starts, others = run_starts(a), np.sort(run_starts(b))
    first = np.searchsorted(others, starts - b.dims[-1][0], "right")
    return bool((first < np.searchsorted(others, starts + a.dims[-1][0], "left")).any())


def is_contiguous(a: Access) -> bool:
    """Whether the bytes between the first and the last are all named."""
    low, high = a.span()
    return high - low == a.size() and not repeats(a)


def repeats(a: Access) -> bool:
    """Whether a byte is named twice."""
    extent = 1
    for count, pitch in sorted((d for d in a.dims if d[0] > 1), key=lambda d: abs(d[1])):
        if abs(pitch) < extent:
            return _repeats_exactly(a)
        extent += (count - 1) * abs(pitch)
    return False


def box(memory: NDArray[Any], a: Access, origin: int = 0) -> NDArray[Any]:
    """The strided view of a byte array that an access names; `origin` is the array's first byte."""
    return np.ndarray(
        tuple([n for n, _ in a.dims]),
        memory.dtype,
        memory.data,
        offset=(a.base - origin) * memory.itemsize,
        strides=tuple([p * memory.itemsize for _, p in a.dims]),
    )


def elements(memory: NDArray[np.uint8], a: Access, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The strided view of the elements that an access names: the innermost run is of this type."""
    *outer, (run, _) = a.dims
    shape = (*(n for n, _ in outer), run // dtype.itemsize)
    strides = (*(p for _, p in outer), dtype.itemsize)
    return np.ndarray(shape, dtype, memory.data, a.base, strides)


def coarse(access: Access) -> Access:
    """The access counted in entries of its shadow memory."""
    grain = GRAIN[access.space]
    if grain == 1:
        return access
    *outer, (run, _) = access.dims
    dims = (*((n, p // grain) for n, p in outer), (run // grain, 1))
    return Access(access.operand, access.space, access.base // grain, dims, access.write, access.region)


def run_starts(a: Access) -> NDArray[np.int64]:
    """The first bytes of the runs that the innermost dimension makes."""
    starts = np.array([a.base], np.int64)
    for count, pitch in a.dims[:-1]:
        starts = (starts[:, None] + np.arange(count, dtype=np.int64) * pitch).ravel()
    return starts


def _repeats_exactly(a: Access) -> bool:
    return bool((np.diff(np.sort(run_starts(a))) < a.dims[-1][0]).any())
