"""Ranges of activations from samples, and scales from ranges."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.evaluate import walk
from compiler.ir.graph import Graph, Node
from compiler.ir.types import DType, Quant
from isa.diagnostics import Diagnostic, UsageError

MANTISSA_BITS: Final = 10
METHODS: Final = ("minmax",)


@dataclass(slots=True)
class Range:
    """The least and the greatest value seen; zero always lies within."""

    low: float = 0.0
    high: float = 0.0

    def include(self, values: NDArray[Any]) -> None:
        """Widen to the values; NaN and infinity make the range infinite."""
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            low, high = -math.inf, math.inf
        self.low, self.high = min(self.low, low), max(self.high, high)


def calibrate(graph: Graph, samples: Iterable[Mapping[str, NDArray[Any]]]) -> tuple[dict[str, Quant], int]:
    """The scheme (the quantization of every float tensor by name, min-max) and the number of samples.

    Raises:
        UsageError: there is no sample, or a tensor was not finite.
    """
    ranges: dict[str, Range] = {}
    count = 0
    for sample in samples:
        count += 1
        for node, value in walk(graph, sample):
            if _is_activation(node):
                ranges.setdefault(node.name, Range()).include(value)
    if count == 0:
        raise UsageError(Diagnostic("calibrate.empty", "there are no calibration samples"))
    for name, found in ranges.items():
        if not (math.isfinite(found.low) and math.isfinite(found.high)):
            raise UsageError(
                Diagnostic(
                    "calibrate.range",
                    f"the tensor '{name}' is not finite on the calibration data",
                    allowed="finite values",
                    remedy="check the preprocessing of the samples",
                )
            )
    return {name: parameters(r.low, r.high) for name, r in ranges.items()}, count


def made_up(graph: Graph) -> dict[str, Quant]:
    """A scheme that no sample has been looked at for: enough to see what the compiler makes of a network."""
    return {n.name: parameters(-4.0, 4.0) for n in graph.nodes() if _is_activation(n)}


def _is_activation(node: Node) -> bool:
    return node.type.dtype is DType.F32 and not node.is_constant


def constant_parameters(values: NDArray[Any]) -> Quant:
    """The quantization of a constant that is used as activations are; it depends on it alone."""
    span = Range()
    span.include(values)
    return parameters(span.low, span.high)


def parameters(low: float, high: float) -> Quant:
    """Asymmetric int8: scale and zero point of a range that contains zero.

    The range is first rounded outward to 10 mantissa bits, so that the order in which BLAS adds
    cannot reach a scale.
    """
    low, high = -round_outward(-low), round_outward(high)
    scale = np.float32((high - low) / 255)
    if scale <= np.finfo(np.float32).tiny:
        scale = np.float32(1)
    least, greatest = DType.I8.bounds
    zero = round(least - low / float(scale))
    return Quant((float(scale),), max(least, min(greatest, zero)))


def round_outward(value: float) -> float:
    """The next value of at most 10 mantissa bits that is not smaller; value >= 0."""
    if value <= 0:
        return 0.0
    mantissa, exponent = math.frexp(value)
    return math.ldexp(math.ceil(math.ldexp(mantissa, MANTISSA_BITS)), exponent - MANTISSA_BITS)
