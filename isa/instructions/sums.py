"""int32 sums in accumulator rows, as instructions read and write them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.arithmetic import INT32_MAX, INT32_MIN
from isa.instructions.dma import WORD
from isa.spec import Access, MachineState

SAFE_DEPTH: Final = 33_025
"""Sums of this many 9 x 9 bit products stay within int32."""


def store_sums(
    m: MachineState,
    targets: list[tuple[slice, Access]],
    total: NDArray[Any],
    depth: int,
    *,
    accumulate: bool,
) -> None:
    """Write (or add) a (rows, channels) sum into the accumulators, wrapping to int32.

    `targets` are channels and their accumulators: (groups, *rows, bytes of lanes).
    """
    parts: list[NDArray[Any]] = []
    for channels, access in targets:
        (groups, _), *rows, (run, _) = access.dims
        shape = [n for n, _ in rows]
        part = total[:, channels]
        if groups == 1:
            part = part.reshape(1, *shape, -1)
        else:
            part = part.reshape(*shape, groups, run // WORD.itemsize)
            part = part.transpose(len(shape), *range(len(shape)), -1)
        if accumulate or depth > SAFE_DEPTH or total.dtype != np.int32:
            part = part.astype(np.int64)
            if accumulate:
                part += m.read(access, WORD)
            if part.max() > INT32_MAX or part.min() < INT32_MIN:
                m.accumulators_overflow()
        parts.append(part)
    for part, (_, access) in zip(parts, targets, strict=True):
        m.write(access, part.astype(np.int32, copy=False), WORD)


def gather_sums(
    m: MachineState, sources: list[tuple[slice, Access]], shape: tuple[int, ...], channels: int
) -> NDArray[np.int32]:
    """The sums of a tile of so many channels, as (*shape, channels)."""
    sums = np.empty((*shape, channels), np.int32)
    for lanes, access in sources:
        part: NDArray[Any] = m.read(access, WORD).transpose(*range(1, len(shape) + 1), 0, -1)
        sums[..., lanes].reshape(part.shape)[...] = part  # a view: only the last axis is split
    return sums
