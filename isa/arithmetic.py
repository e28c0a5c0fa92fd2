"""The arithmetic of X1, to the bit.

These functions are the specification: the interpreter, the compiler's evaluator and its constant
tables all call them, and ONNX Runtime's CPU int8 kernels compute the same bits (docs/exactness.md).
Every float32 operation stands alone, so that each is rounded once; `fma` rounds once by name.
Rounding is half to even throughout.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

F32 = np.float32
Float = NDArray[np.float32]
Int = NDArray[np.int32]
Array = NDArray[Any]
Real = float | np.float32

INT32_MIN: Final = -(1 << 31)
INT32_MAX: Final = (1 << 31) - 1
EXACT_INTEGERS: Final = 1 << 24
"""float32 holds every integer up to this magnitude."""


WORD_LIMIT: Final = 1 << 30
"""Integers made of float32 values saturate at this magnitude: two of them can be added."""


POWERS: Final = np.ldexp(np.float32(1), np.arange(-126, 128)).astype(np.float32)
"""2^-126 to 2^127."""


def f32(value: ArrayLike) -> Float:
    """F(x): round to float32, nearest even; float64 and integer input are rounded once."""
    return np.asarray(value).astype(np.float32)


def is_finite(v: Float) -> bool:
    """Whether no value is NaN or infinite."""
    return np.count_nonzero(np.isfinite(v)) == v.size


def wrap32(value: Array) -> Int:
    """Two's complement modulo 2^32 of int64 values."""
    return value.astype(np.int64).astype(np.int32)


def add_wrapping(a: ArrayLike, b: ArrayLike) -> Int:
    """int32 addition modulo 2^32; unsigned, because there numpy promises to wrap."""
    if isinstance(b, int) and b == 0:
        return np.asarray(a, np.int32)
    left, right = (np.asarray(v, np.int32).view(np.uint32) for v in (a, b))
    return np.add(left, right).view(np.int32)


def round_half_even(v: Float) -> Float:
    """rne(v)."""
    return np.rint(v)


def to_integer(v: Float, low: int, high: int) -> Int:
    """rne(v), saturated to low..high; v must not be NaN."""
    return np.clip(round_half_even(v), F32(low), F32(high)).astype(np.int32)


def to_word(v: Float) -> Int:
    """rne(v), saturated to -2^30..2^30; v must not be NaN."""
    return to_integer(v, -WORD_LIMIT, WORD_LIMIT)


def power_of_two(exponent: Array) -> Float:
    """2^e as float32, e clamped to -126..127: no subnormal, no infinity."""
    return POWERS[np.clip(exponent, -126, 127) + 126]


def saturate32(value: Array) -> Int:
    """int64 values, saturated to int32."""
    return np.clip(value, INT32_MIN, INT32_MAX).astype(np.int32)


# --- requantization ------------------------------------------------------------------------------


def requantize(acc: Array, bias: ArrayLike, m: ArrayLike, zero_point: int, low: int, high: int) -> Int:
    """REQ: int32 accumulators to low..high with one float32 multiplier per channel.

    The clamp comes before the rounding, and the zero point is added to the rounded integer:
    QLinearConv, QLinearMatMul and QGemm of ONNX Runtime.

    Args:
        acc: int32, any shape; the channel is the last axis.
        bias: int32, added modulo 2^32.
        m: float32, per channel.
        zero_point: of the output.
        low: the least output value.
        high: the greatest output value.
    """
    v = f32(add_wrapping(acc, bias))
    v *= f32(m)
    return _clamped_then_rounded(v, zero_point, low, high)


def _clamped_then_rounded(v: Float, zero_point: int, low: int, high: int) -> Int:
    """rne(clamp(v, low - zp, high - zp)) + zp; v is used up."""
    v.clip(F32(low - zero_point), F32(high - zero_point), out=v)
    rounded = round_half_even(v).astype(np.int32)
    if zero_point:
        rounded += np.int32(zero_point)
    return rounded


def requantize_shifted(acc: Array, bias: ArrayLike, m: ArrayLike, shift: int, low: int, high: int) -> Int:
    """REQ by m * 2^-shift, rounded to float32 once; the shift is clamped to -31..126, the zero point 0.

    With m = 1 this is `shift_right_rounding`, clamped, for sums that float32 holds exactly.
    """
    return requantize(acc, bias, shifted_scale(m, shift), 0, low, high)


def shifted_scale(m: ArrayLike, shift: int) -> Float:
    """F(m * 2^-shift), the shift clamped to -31..126."""
    return f32(m) * POWERS[126 - min(max(shift, -31), 126)]


def quantize_by_exponent(v: Float, shift: int, low: int, high: int) -> Int:
    """clamp(rne(F(v * 2^-shift))) of float32 values; the shift is clamped to -126..126."""
    return to_integer(v * POWERS[126 - min(max(shift, -126), 126)], low, high)


def requantize_zero_point_first(
    acc: Array, bias: ArrayLike, m: ArrayLike, zero_point: int, low: int, high: int
) -> Int:
    """F32Z: as `requantize`, but the zero point is added in float32 before rounding."""
    return to_integer(f32(add_wrapping(acc, bias)) * f32(m) + F32(zero_point), low, high)


def shift_right_rounding(value: Array, shift: int) -> NDArray[np.int64]:
    """rsh(v, n): v / 2^n rounded half to even; a negative n shifts left, saturating to int32."""
    wide = value.astype(np.int64)
    if shift <= 0:
        return np.clip(wide << min(-shift, 31), INT32_MIN, INT32_MAX)
    shift = min(shift, 40)
    floor = wide >> shift
    rest = wide - (floor << shift)
    half = np.int64(1) << np.int64(shift - 1)
    return floor + ((rest > half) | ((rest == half) & ((floor & 1) == 1)))


def convolution_multiplier(x_scale: ArrayLike, w_scale: ArrayLike, y_scale: ArrayLike) -> Float:
    """m = (sx * sw) / sy, rounded twice in this order: QLinearConv and QLinearMatMul."""
    return (f32(x_scale) * f32(w_scale)) / f32(y_scale)


def gemm_multiplier(alpha: float, a_scale: ArrayLike, b_scale: ArrayLike, y_scale: ArrayLike) -> Float:
    """m = ((alpha * sa) * sb) / sy: QGemm."""
    return ((F32(alpha) * f32(a_scale)) * f32(b_scale)) / f32(y_scale)


def quantize(x: Array, scale: ArrayLike, zero_point: int, low: int, high: int) -> Int:
    """QuantizeLinear: true division, clamp, round, then the zero point."""
    with np.errstate(over="ignore"):  # a quotient beyond float32 is infinite, and clamped
        v = np.atleast_1d(f32(x) / f32(scale))
    return _clamped_then_rounded(v, zero_point, low, high).reshape(x.shape)


def dequantize(q: Array, scale: ArrayLike, zero_point: int) -> Float:
    """DequantizeLinear: F(q - zp) * s."""
    return f32(q.astype(np.int32) - np.int32(zero_point)) * f32(scale)


# --- two operands --------------------------------------------------------------------------------


def fma(a: Array, b: ArrayLike, c: ArrayLike) -> Float:
    """F(a*b + c) with one rounding, for integers a of at most 29 bits and float32 b, c.

    The product is exact in float64. The float64 sum is rounded to odd (its last bit records that
    something was lost), which makes the second rounding, to float32, the only one that counts.
    """
    product = a.astype(np.float64) * np.asarray(b, np.float32).astype(np.float64)
    addend = np.asarray(c, np.float32).astype(np.float64)
    total = np.asarray(product + addend)
    recovered = total - product
    lost = (product - (total - recovered)) + (addend - recovered)
    bits = total.view(np.int64)
    outward = (lost > 0) == (total > 0)
    to_odd = np.where(outward, bits + 1, bits - 1)
    inexact = (lost != 0) & (bits & 1 == 0) & np.isfinite(total)
    return np.where(inexact, to_odd, bits).view(np.float64).astype(np.float32)


def add_constants(
    a_scale: float, a_zero: int, b_scale: float, b_zero: int, c_scale: float, c_zero: int
) -> tuple[np.float32, np.float32, np.float32]:
    """p0, p1, p2 of `add`: sa/sc, sb/sc, and F(zc) - fma(p0, F(za), p1 * F(zb))."""
    ra, rb = F32(a_scale) / F32(c_scale), F32(b_scale) / F32(c_scale)
    offset = fma(np.asarray([a_zero], np.int32), ra, rb * F32(b_zero))[0]
    return ra, rb, F32(c_zero) - offset


def add(a: Array, b: Array, p0: Real, p1: Real, p2: Real, low: int, high: int) -> Int:
    """QLinearAdd: rne(fma(a, p0, fma(b, p1, p2))), saturated."""
    return to_integer(fma(a, p0, fma(b, p1, p2)), low, high)


def multiply(
    a: Array, a_zero: int, b: Array, b_zero: int, ratio: Real, zero_point: int, low: int, high: int
) -> Int:
    """QLinearMul: the zero point is added in float32 before rounding; ratio = (sa*sb)/sc."""
    product = (a.astype(np.int32) - a_zero) * (b.astype(np.int32) - b_zero)
    return to_integer(f32(product) * F32(ratio) + F32(zero_point), low, high)


def quantize_real(v: Array, scale: ArrayLike, zero_point: int, low: int, high: int) -> Int:
    """The Q of DQ, operator, Q: rne(clamp(v / s)) + zp."""
    return quantize(v, scale, zero_point, low, high)


def affine(v: Float, gain: Float, offset: Float) -> Float:
    """v*g + h in two roundings: BatchNormalization that cannot be folded."""
    return v * gain + offset


# --- windows -------------------------------------------------------------------------------------


def sequential_sum(terms: Iterable[Float], shape: tuple[int, ...]) -> Float:
    """float32 terms of one shape, added one after another: each addition is rounded."""
    total = np.zeros(shape, np.float32)
    for term in terms:
        total = total + term
    return total


def average(taps: Iterable[Float], count: Array, scale: Real, zero_point: int, low: int, high: int) -> Int:
    """QLinearAveragePool: float32 sum in the order of the taps, / count, / sy, zero point, then round.

    Args:
        taps: float32 each, F(x-zx)*sx, 0 where a tap lies in the padding.
        count: how many taps divide the sum, of the shape of a tap.
        scale: of the output.
        zero_point: of the output.
        low: the least output value.
        high: the greatest output value.
    """
    total = sequential_sum(taps, count.shape)
    return to_integer((total / f32(count)) / F32(scale) + F32(zero_point), low, high)


def mean_real(entries: Float, scale: Real, zero_point: int, low: int, high: int) -> Int:
    """DQ, ReduceMean, Q over axis 0: float32 sum in ascending index, / n, then quantized.

    Args:
        entries: (n, ...) float32, F(x-zx)*sx.
        scale: of the output.
        zero_point: of the output.
        low: the least output value.
        high: the greatest output value.
    """
    mean = sequential_sum(entries, entries.shape[1:]) / F32(len(entries))
    return quantize_real(mean, scale, zero_point, low, high)


def softmax(x: Array, table: Float, divisor: Real, zero_point: int, low: int, high: int) -> Int:
    """QLinearSoftmax over the last axis of 8-bit codes.

    The codes are shifted so that the row's maximum reads entry 255; the float32 sum is sequential in
    ascending index. The quotient alone is wider: (e * p0) / s is rounded to float64, then to an
    integer, half to even.

    Args:
        x: integers from 0 to 255, the code minus the least code of its type.
        table: float32[256].
        divisor: p0 = floor(1 / sy).
        zero_point: of the output.
        low: the least output value.
        high: the greatest output value.
    """
    codes = x.astype(np.int32)
    entries, total = exponentials(codes - codes.max(axis=-1, keepdims=True), table)
    quotient = (entries.astype(np.float64) * np.float64(divisor)) / total[..., None].astype(np.float64)
    return np.clip(np.rint(quotient) + zero_point, low, high).astype(np.int32)


def loss_unit(factor: Real, exponent: int) -> Float:
    """F(factor * 2^exponent), the exponent clamped to -126..127: what a sum of 1 is in steps of the table."""
    return f32(factor) * power_of_two(np.asarray(exponent))


def loss_steps(sums: Array, factor: Real, exponent: int) -> Int:
    """Differences of a row's sums to its greatest, in steps of the softmax table: -255..0.

    clamp(rne(F(F(A_j - max A) * unit))), with a unit that is finite.
    """
    below = sums.astype(np.int64) - sums.max(axis=-1, keepdims=True)
    steps = f32(below)
    steps *= loss_unit(factor, exponent)
    return to_integer(steps, -255, 0)


def exponentials(differences: Array, table: Float) -> tuple[Float, Float]:
    """The entries t of a softmax table for differences of -255..0, and their sums in ascending index."""
    entries = table[255 + differences]
    columns = (entries[..., j] for j in range(entries.shape[-1]))
    return entries, sequential_sum(columns, entries.shape[:-1])


def mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """lowbias32 (Wellons): a permutation of the 32-bit numbers that looks random."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


# --- integer matrix product ----------------------------------------------------------------------


def exact_depth(a_magnitude: int, b_magnitude: int) -> int:
    """How many products of such magnitudes a float32 sum holds exactly in any order."""
    return max(1, EXACT_INTEGERS // max(1, a_magnitude * b_magnitude))


def matmul(a: Float, b: Float, depth: int) -> NDArray[np.int32] | NDArray[np.int64]:
    """The exact integer product of integer-valued float32 matrices (..., k) and (k, n).

    float32 holds sums of up to `depth` products exactly, in whatever order BLAS adds them;
    longer sums are added up in integers. The result is int32 where one float32 product was
    enough, else int64.
    """
    k = a.shape[-1]
    if k <= depth:
        return (a @ b).astype(np.int32)
    total = np.zeros((*a.shape[:-1], b.shape[-1]), np.int64)
    for start in range(0, k, depth):
        total += (a[..., start : start + depth] @ b[start : start + depth]).astype(np.int64)
    return total
