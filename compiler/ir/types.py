"""Tensor types: element type, static shape, quantization."""

from __future__ import annotations

import math
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.program import Box, box_shape
from isa.support.records import Frozen, replace

Shape = tuple[int, ...]
MAX_ELEMENTS: Final = 1 << 28
"""More elements than this no tensor may have: 1 GiB in float32."""


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of a number that is at most so large."""
    return next(d for d in range(min(number, most), 0, -1) if number % d == 0)


class DType(StrEnum):
    """Element types of the IR, by their short names."""

    F32 = "f32"
    I8 = "i8"
    U8 = "u8"
    I32 = "i32"
    I64 = "i64"

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type."""
        return _NUMPY[self]

    @property
    def host_name(self) -> str:
        """The name that numpy and the binary's interface use."""
        return self.numpy.name

    @staticmethod
    def of(dtype: np.dtype[Any]) -> DType | None:
        """The IR's type of a numpy type, if it has one."""
        return next((d for d in DType if d.numpy == dtype.newbyteorder("<")), None)

    @property
    def is_integer(self) -> bool:
        """Whether the type is one of integers."""
        return self is not DType.F32

    @property
    def is_code(self) -> bool:
        """Whether activations and weights of the device may be of the type."""
        return self in (DType.I8, DType.U8)

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest value of an integer type."""
        return _BOUNDS[self]


_NUMPY: Final[dict[DType, np.dtype[Any]]] = {
    DType.F32: np.dtype("<f4"),
    DType.I8: np.dtype("<i1"),
    DType.U8: np.dtype("<u1"),
    DType.I32: np.dtype("<i4"),
    DType.I64: np.dtype("<i8"),
}
_BOUNDS: Final = {d: (int(np.iinfo(n).min), int(np.iinfo(n).max)) for d, n in _NUMPY.items() if d.is_integer}


class Quant(Frozen, dict=True):
    """real = (code - zero_point) * scale; float32 scales, one, or one per index of `axis`.

    `dtype` is the type of the codes, as that of the tensor that is quantized so.
    """

    scales: tuple[float, ...]
    zero_point: int
    axis: int | None = None
    dtype: DType = DType.I8

    @property
    def scale(self) -> float:
        """The scale of a tensor that has one."""
        assert self.axis is None
        return self.scales[0]

    @cached_property
    def array(self) -> NDArray[np.float32]:
        """The scales; not to be written."""
        found = np.asarray(self.scales, np.float32)
        found.flags.writeable = False
        return found

    @cached_property
    def fault(self) -> str:
        """What the scales are that they must not be; empty where all are positive, finite float32."""
        wide = np.asarray(self.scales, np.float64)
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float32)
        if not (np.isfinite(narrow) & (narrow == wide)).all():
            return "no finite float32"
        return "" if (wide > 0).all() else "not positive"

    def part(self, box: Box) -> Quant:
        """That of a box of the tensor."""
        return self if self.axis is None else replace(self, scales=self.scales[slice(*box[self.axis])])

    def along(self, rank: int) -> NDArray[np.float32]:
        """The scales, to be broadcast over a tensor of that rank."""
        return self.array.reshape(
            () if self.axis is None else [-1 if i == self.axis else 1 for i in range(rank)]
        )


class TensorType(Frozen):
    """What is known of a tensor before it has values."""

    dtype: DType
    shape: Shape
    quant: Quant | None = None

    @property
    def elements(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def part(self, box: Box) -> TensorType:
        """The type of a box of the tensor."""
        return TensorType(self.dtype, box_shape(box), self.quant and self.quant.part(box))

    def __str__(self) -> str:
        return f"{self.dtype.value}[{','.join(map(str, self.shape))}]"
