"""From what was seen of a tensor to its scale and zero point.

Every method chooses a range that contains zero; what lies outside is clipped.

* minmax: all that was seen.
* percentile: all but a given share of the values at each end.
* mse: the range of least mean squared error, clipping and rounding together, under the usual model that
  rounding errors are uniform within a step (Widrow and Kollar, Quantization Noise, 2008). Samples do not
  show the extremes of what comes later: a few more values count at either end.
* entropy: the range whose 256 levels lose least information: the least Kullback-Leibler divergence
  between the values' distribution and its quantized form (Migacz, 8-bit Inference with TensorRT, 2017).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.types import DType, Quant
from compiler.quantize.histogram import Histogram
from isa.support.records import Frozen, Struct, field

MANTISSA_BITS: Final = 10
LEVELS: Final = 256
DEFAULT_METHOD: Final = "mse"
DEFAULT_PERCENTILE: Final = 99.99
SHARES: Final = np.arange(64, 0, -1) / 64
"""The fractions of a range's ends that are tried."""
UNSEEN: Final = 2
"""Values that count at either end of a range besides those that were seen."""
PARTS: Final = 4
"""Parts of a level in the distributions that are compared."""
LEAST_SHARE: Final = 0.25
"""A smaller part of a range has too few bins for that."""
Range = tuple[float, float]
Floats = NDArray[np.float64]


class Recipe(Frozen):
    """How a float network is quantized.

    `percentile` is the share of values in percent that lie below the high end, and above the low one.
    `granularity` says whether weights have a scale per output channel or one per tensor.
    """

    method: str = DEFAULT_METHOD
    percentile: float = DEFAULT_PERCENTILE
    symmetric: bool = False
    granularity: str = "channel"
    bias_correction: bool = True
    equalize: bool = False

    def __str__(self) -> str:
        words = [self.method]
        if self.method == "percentile":
            words[0] += f" {self.percentile:g}"
        words += [w for w, said in (("symmetric", self.symmetric), ("equalized", self.equalize)) if said]
        if self.granularity != "channel":
            words.append(f"weights per {self.granularity}")
        if not self.bias_correction:
            words.append("bias not corrected")
        return ", ".join(words)


class Observed(Struct):
    """What samples showed of a tensor; zero always lies within its range."""

    low: float = 0.0
    high: float = 0.0
    histogram: Histogram | None = None
    total: NDArray[np.float64] | None = None
    """The sum over samples, where a mean is wanted."""
    samples: int = field(default=0)

    def include(self, values: NDArray[Any], *, sums: bool = False) -> None:
        """Take in a sample; NaN and infinity make the range infinite."""
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            self.low, self.high = -math.inf, math.inf
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        if self.histogram is not None:
            self.histogram.include(values, max(-low, high))
        if sums:
            self.total = values.astype(np.float64) if self.total is None else self.total + values
        self.samples += 1

    @property
    def is_finite(self) -> bool:
        """Whether all values were."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def mean(self) -> NDArray[np.float32]:
        """The mean over samples, in the tensor's shape."""
        assert self.total is not None
        return (self.total / self.samples).astype(np.float32)


def minmax(seen: Observed, recipe: Recipe) -> Range:
    """All that was seen."""
    del recipe
    return seen.low, seen.high


def percentile(seen: Observed, recipe: Recipe) -> Range:
    """The least range of whole bins beyond which lies at most the share that may be cut at either end."""
    centres, counts = _occupied(seen)
    if not len(centres):
        return seen.low, seen.high
    allowed = (1 - recipe.percentile / 100) * float(counts.sum())
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    low = centres[int(np.searchsorted(below, allowed, side="right"))] if allowed < below[-1] else 0.0
    high = centres[::-1][int(np.searchsorted(above, allowed, side="right"))] if allowed < above[-1] else 0.0
    return min(float(low), 0.0), max(float(high), 0.0)


def mse(seen: Observed, recipe: Recipe) -> Range:
    """The range of least mean squared error."""
    centres, counts = _occupied(seen)
    if not len(centres):
        return seen.low, seen.high
    lows = seen.low * SHARES if seen.low < 0 else np.zeros(1)
    highs = seen.high * SHARES if seen.high > 0 else np.zeros(1)
    lows, highs = np.meshgrid(np.append(lows, 0.0), np.append(highs, 0.0), indexing="ij")
    if recipe.symmetric:
        highs = np.maximum(highs, -lows)
        lows = -highs
    steps = (highs - lows) / (LEVELS - 1)
    sums = _Sums(centres, counts)
    error = sums.beyond(lows, highs) + sums.rounding(lows, highs, steps)
    error += UNSEEN * (np.maximum(seen.high - highs, 0) ** 2 + np.maximum(lows - seen.low, 0) ** 2)
    best = int(np.argmin(np.where(steps > 0, error, np.inf)))
    return max(float(lows.flat[best]), seen.low), min(float(highs.flat[best]), seen.high)


def entropy(seen: Observed, recipe: Recipe) -> Range:
    """The range of least divergence among fractions of the range that was seen."""
    centres, counts = _occupied(seen)
    if not len(centres):
        return seen.low, seen.high
    away = centres != centres[np.argmin(np.abs(centres))]  # zero is a code of its own in every range
    centres, counts = centres[away], counts[away]
    found = [
        (_divergence(centres, counts, *_spread(seen.low * s, seen.high * s, recipe)), -s)
        for s in SHARES[SHARES >= LEAST_SHARE]
    ]
    share = -min(found)[1]
    return float(seen.low * share), float(seen.high * share)


Method = Callable[[Observed, Recipe], Range]
METHODS: Final[dict[str, Method]] = {f.__name__: f for f in (minmax, percentile, entropy, mse)}


def chosen(seen: Observed, recipe: Recipe) -> Quant:
    """The quantization of a tensor of which samples were seen."""
    return parameters(*METHODS[recipe.method](seen, recipe), symmetric=recipe.symmetric)


def _occupied(seen: Observed) -> tuple[Floats, NDArray[np.int64]]:
    assert seen.histogram is not None
    centres, counts = seen.histogram.occupied(seen.low, seen.high)
    return (centres, counts) if seen.high > seen.low else (centres[:0], counts[:0])


class _Sums:
    """Sums of 1, x and x^2 over the values below a bound."""

    def __init__(self, centres: Floats, counts: NDArray[np.int64]) -> None:
        self.centres = centres
        self.powers = [np.append(0.0, np.cumsum(counts * centres**p)) for p in range(3)]

    def _between(self, low: Floats, high: Floats) -> list[Floats]:
        first, last = np.searchsorted(self.centres, low), np.searchsorted(self.centres, high, side="right")
        last = np.maximum(first, last)
        return [p[last] - p[first] for p in self.powers]

    def beyond(self, low: Floats, high: Floats) -> Floats:
        """The squared distances of what lies outside of a range to its ends."""
        total: Floats = np.zeros_like(low)
        infinite = np.full_like(low, np.inf)
        for start, end, bound in ((-infinite, low, low), (high, infinite, high)):
            zeroth, first, second = self._between(start, end)
            total = total + np.maximum(second - 2 * bound * first + bound * bound * zeroth, 0)
        return total

    def rounding(self, low: Floats, high: Floats, step: Floats) -> Floats:
        """step^2 / 12 a value; values that round to zero err by themselves, at most by that."""
        inside = self._between(low, high)[0]
        half = np.minimum(step / 2, np.maximum(high, -low))
        small = self._between(np.maximum(low, -half), np.minimum(high, half))
        return (inside - small[0]) * step * step / 12 + small[2]


def _divergence(centres: Floats, counts: NDArray[np.int64], low: float, high: float) -> float:
    """Kullback-Leibler divergence of the clipped values from their form in 256 levels.

    Each level is looked at in as many parts whatever the range, so that ranges can be compared.
    """
    inside = (centres >= low) & (centres <= high)
    if high <= low or not inside.any():
        return math.inf
    step = (high - low) / (LEVELS - 1)
    part = np.floor((centres[inside] - low) / step * PARTS + PARTS / 2).astype(np.int64)
    kept = np.bincount(part, counts[inside], LEVELS * PARTS).reshape(LEVELS, PARTS)
    held = kept > 0
    even = kept.sum(axis=1, keepdims=True) / np.maximum(held.sum(axis=1, keepdims=True), 1)
    clipped, at = kept.ravel().copy(), np.flatnonzero(held)
    clipped[at[0]] += counts[centres < low].sum()
    clipped[at[-1]] += counts[centres > high].sum()
    p = clipped[at] / clipped.sum()
    q = np.broadcast_to(even, held.shape)[held] / kept.sum()
    return float((p * np.log(p / q)).sum())


def _spread(low: float, high: float, recipe: Recipe) -> Range:
    """The range that the scale will span."""
    largest = max(-low, high)
    return (-largest, largest) if recipe.symmetric else (low, high)


def parameters(low: float, high: float, *, symmetric: bool = False) -> Quant:
    """int8: scale and zero point of a range that contains zero; the zero point is 0 where symmetric.

    The range is first rounded outward to 10 mantissa bits, so that the order in which BLAS adds
    cannot reach a scale.
    """
    low, high = -round_outward(-low), round_outward(high)
    least, greatest = DType.I8.bounds
    scale = np.float32(max(-low, high) / greatest if symmetric else (high - low) / (LEVELS - 1))
    if scale <= np.finfo(np.float32).tiny:
        scale = np.float32(1)
    zero = 0 if symmetric else round(least - low / float(scale))
    return Quant((float(scale),), max(least, min(greatest, zero)))


def constant_parameters(values: NDArray[Any]) -> Quant:
    """The quantization of a constant that is used as activations are; it depends on it alone."""
    seen = Observed()
    seen.include(values)
    return parameters(seen.low, seen.high)


def round_outward(value: float) -> float:
    """The next value of at most 10 mantissa bits that is not smaller; value >= 0."""
    if value <= 0:
        return 0.0
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(math.ldexp(mantissa, MANTISSA_BITS)), exponent - MANTISSA_BITS)
