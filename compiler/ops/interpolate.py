"""Interpolation along one axis as a matrix: linear and cubic Resize, antialiased or not.

Resizing is linear and separable: along every axis it is a product with a matrix that shapes and attributes
give. The definitions are those of ONNX Resize 19.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isa.support.records import Frozen

MODES: Final = ("linear", "cubic")
CROP: Final = "tf_crop_and_resize"
Floats = NDArray[np.float64]


class Interpolation(Frozen):
    """How values between elements are made up."""

    mode: str
    transform: str
    cubic: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False

    def matrix(self, extent: int, size: int, scale: float, roi: tuple[float, float] = (0, 1)) -> Floats:
        """(size, extent): row i gives element i of the result; rows outside of a crop are 0."""
        made = np.zeros((size, extent))
        for i in range(size):
            at = self._coordinate(i, extent, size, scale, roi)
            if self.transform == CROP and not 0 <= at <= extent - 1:
                continue
            whole = math.floor(at)
            first, weights = self._weights(at - whole, scale)
            places = np.arange(whole + first, whole + first + len(weights))
            if self.exclude_outside:
                weights = np.where((places < 0) | (places >= extent), 0, weights)
                weights = weights / weights.sum()
            np.add.at(made[i], np.clip(places, 0, extent - 1), weights)
        return made

    def _coordinate(self, i: int, extent: int, size: int, scale: float, roi: tuple[float, float]) -> float:
        match self.transform:
            case "align_corners":  # of the whole length, as ONNX Runtime and torch have it
                return i * (extent - 1) / (size - 1) if size > 1 else 0.0
            case "asymmetric":
                return i / scale
            case "pytorch_half_pixel" if size == 1:
                return 0.0
            case "half_pixel_symmetric":
                adjustment = size / (scale * extent)
                return extent / 2 * (1 - adjustment) + (i + 0.5) / scale - 0.5
            case "tf_crop_and_resize":
                start, end = roi
                if size == 1:
                    return (start + end) * (extent - 1) / 2
                return start * (extent - 1) + i * (end - start) * (extent - 1) / (size - 1)
            case _:
                return (i + 0.5) / scale - 0.5

    def _weights(self, rest: float, scale: float) -> tuple[int, Floats]:
        """The first place, counted from the element at or before, and the weights from there on."""
        reach = 1 if self.mode == "linear" else 2
        stretch = min(scale, 1.0) if self.antialias else 1.0
        first = math.floor(-reach / stretch) + 1
        distances = np.abs((np.arange(first, 2 - first) - rest) * stretch)
        weights = self._linear(distances) if self.mode == "linear" else self._cubic(distances)
        return first, weights / weights.sum() if self.antialias else weights

    @staticmethod
    def _linear(distance: Floats) -> Floats:
        return np.clip(1 - distance, 0, 1)

    def _cubic(self, d: Floats) -> Floats:
        a = self.cubic
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((d - 5) * d + 8) * d * a - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))
