"""Strided boxes that several instructions share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.memory_map import GRANULE_BYTES, SREG_BYTES, TABLE_BYTES, Space, address_unit
from isa.spec import Access, Dims, ElementType, Fault, Trap
from isa.target import Target

GEOMETRIES: Final = 1024
"""Windows whose taps are remembered: more than a network has."""
Pair = tuple[int, int]
Tap = tuple[Pair, tuple[slice, slice], tuple[slice, slice]]
"""Row and column of a tap, the outputs that see input through it, and what they see."""


def channel_groups(channels: int, cols: int) -> Iterator[tuple[int, int, int]]:
    """Accumulator lanes of a channel range: (first channel, groups, lanes of each).

    All full groups of `cols` lanes come as one, the rest as another.
    """
    full, rest = divmod(channels, cols)
    if full:
        yield 0, full, cols
    if rest:
        yield full * cols, 1, rest


def accumulators(
    operand: str, row: int, group_pitch: int, rows: Dims, channels: int, t: Target, *, write: bool
) -> Iterator[tuple[slice, Access]]:
    """The accumulator words of a tile: (channels, footprint (groups, *rows, lane bytes)).

    `rows` lists (count, pitch in accumulator rows), outermost first.
    """
    row_bytes = address_unit(t, Space.ACC)
    for first, groups, lanes in channel_groups(channels, t.mx.cols):
        base = (row + first // t.mx.cols * group_pitch) * row_bytes
        dims = ((groups, group_pitch * row_bytes), *((n, p * row_bytes) for n, p in rows), (lanes * 4, 1))
        yield slice(first, first + groups * lanes), Access(operand, Space.ACC, base, dims, write=write)


def pixels(
    operand: str,
    base: int,
    h: int,
    row_pitch: int,
    w: int,
    pixel_pitch: int,
    channels: int,
    *,
    write: bool = False,
    element_bytes: int = 1,
) -> Access:
    """The bytes of an (h, w, channels) tile in the scratchpad."""
    return Access(
        operand,
        Space.SPM,
        base,
        ((h, row_pitch), (w, pixel_pitch), (channels * element_bytes, 1)),
        write=write,
    )


def granules(operand: str, first: int, count: int) -> Access:
    """A run of granules of the parameter memory."""
    return Access(operand, Space.PRM, first * GRANULE_BYTES, ((count * GRANULE_BYTES, 1),))


def table(operand: str, number: int) -> Access:
    """The 256-byte table of that number."""
    return Access(operand, Space.PRM, number * TABLE_BYTES, ((TABLE_BYTES, 1),))


def register(operand: str, number: int, *, write: bool = False) -> Access:
    """A scalar register."""
    return Access(operand, Space.SREG, number * SREG_BYTES, ((SREG_BYTES, 1),), write=write)


def run(operand: str, space: Space, base: int, size: int, *, write: bool = False) -> Access:
    """A contiguous run of bytes."""
    return Access(operand, space, base, ((size, 1),), write=write)


def eight_bit(operand: str, element: ElementType) -> Iterator[Fault]:
    """The element types of the base instruction set, where s32 has no meaning."""
    if element is ElementType.S16:
        yield Fault(Trap.EXT_MISSING, operand, f"{operand}=s16 needs extension X")
    elif element is ElementType.S32:
        yield Fault(Trap.BAD_ENUM, operand, f"{operand}=s32 has no meaning here; allowed: s8, u8")


def ordered(low: int, high: int) -> Iterator[Fault]:
    """Clamp bounds that leave at least one value."""
    if low > high:
        yield Fault(Trap.BAD_ENUM, "lo", f"lo={low} is above hi={high}")


def seen(outputs: int, stride: int, offset: int, extent: int) -> tuple[slice, slice]:
    """The outputs whose position y*stride + offset lies in 0..extent, and those positions."""
    first = max(0, -(offset // stride))
    last = min(outputs - 1, (extent - 1 - offset) // stride)
    if last < first:
        return slice(0, 0), slice(0, 0)
    start = first * stride + offset
    return slice(first, last + 1), slice(start, start + (last - first) * stride + 1, stride)


@lru_cache(maxsize=GEOMETRIES)
def visible_taps(
    kernel: Pair, out: Pair, stride: Pair, dilation: Pair, pad: Pair, extent: Pair
) -> tuple[Tap, ...]:
    """Every tap of a window, row by row: (ky, kx), the outputs that see input through it, and what they see.

    Each pair is (rows, columns). Padding is nowhere laid out, so that memory does not grow with it.
    """
    found: list[Tap] = []
    for tap in itertools.product(range(kernel[0]), range(kernel[1])):
        rows, columns = (seen(out[i], stride[i], tap[i] * dilation[i] - pad[i], extent[i]) for i in (0, 1))
        found.append((tap, (rows[0], columns[0]), (rows[1], columns[1])))
    return tuple(found)


def strided(memory: NDArray[Any], shape: tuple[int, ...], strides: tuple[int, ...]) -> NDArray[Any]:
    """A view of an array in C order, strides in bytes; the caller vouches that it stays inside."""
    return np.ndarray(shape, memory.dtype, memory, 0, strides)


def window_box(
    name: str, extent: int, out: int, stride: int, taps: int, dilation: int, pad: int
) -> Iterator[Fault]:
    """An input extent must not reach past the last window, so that footprints are exact."""
    reach = (out - 1) * stride + (taps - 1) * dilation + 1 - pad
    if extent > reach:
        yield Fault(
            Trap.LIMIT, name, f"{name}={extent} reaches past the last window; allowed: at most {reach}"
        )


def valid_windows(name: str, extent: int, out: int, stride: int, taps: int, pad: int) -> Iterator[Fault]:
    """Every window has a tap that is not padding."""
    if pad >= taps or (out - 1) * stride - pad >= extent:
        yield Fault(Trap.LIMIT, name, "a window has no valid tap")


def element_wise_cycles(t: Target, h: int, w: int, c: int, pitches: list[tuple[int, int]]) -> int:
    """Beats of an element-wise instruction; `pitches` lists (pixel, row) of each operand."""
    lanes = t.vx.lanes
    if all(pixel == c and row == w * c for pixel, row in pitches):
        return math.ceil(h * w * c / lanes)
    if all(pixel == c for pixel, _ in pitches):
        return h * math.ceil(w * c / lanes)
    return h * w * math.ceil(c / lanes)
