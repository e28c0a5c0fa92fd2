"""What the host does at the edges of a program: a closed list of conversions.

Quantize, dequantize, permute, int32 to int64; nothing else is computed outside the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa import arithmetic
from isa.program import Interface, box_slices
from isa.spec import ElementType
from isa.support.diagnostics import Diagnostic, UsageError

ELEMENT = {"int8": ElementType.S8, "uint8": ElementType.U8, "int32": ElementType.S32}


def device_values(tensor: Interface, array: NDArray[Any]) -> NDArray[Any]:
    """The quantized, permuted device tensor of a host array.

    Raises:
        UsageError: the array has another dtype or shape than the input, or holds NaN.
    """
    require_form(tensor, array.dtype, array.shape)
    scale = tensor.scale
    if scale is None:
        values = array
    else:
        if not np.isfinite(array).all():
            raise UsageError(
                Diagnostic(
                    "run.value", f"input '{tensor.name}' holds NaN or infinity", allowed="finite numbers"
                )
            )
        low, high = ELEMENT[tensor.device_dtype].bounds
        values = arithmetic.quantize(array, scale, tensor.zero_point, low, high)
    permuted = np.ascontiguousarray(values.astype(tensor.device_dtype).transpose(tensor.perm))
    return permuted.reshape(tensor.device_shape)


def to_bytes(tensor: Interface, values: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of a device tensor in its region, pixel stride included."""
    channels = np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.shape[-1] * values.itemsize)
    placed = np.zeros((channels.shape[0], tensor.pixel_stride), np.uint8)
    placed[:, : channels.shape[1]] = channels
    return placed.ravel()


def held_values(tensor: Interface, content: NDArray[np.uint8]) -> NDArray[Any]:
    """What a device holds of a device tensor."""
    dtype = np.dtype(tensor.device_dtype)
    if not content.size:
        return np.zeros(tensor.held_shape, dtype)
    width = tensor.held_shape[3] * tensor.element_bytes
    pixels = content.reshape(-1, tensor.pixel_stride)[:, :width]
    return np.ascontiguousarray(pixels).view(dtype).reshape(tensor.held_shape)


def gathered(rows: Sequence[Interface], held: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The device tensor, in the host's order of dimensions, of what every device holds of it."""
    tensor = rows[0]
    if tensor.box is None:
        values = held[0]
    else:
        values = np.zeros(tensor.device_shape, held[0].dtype)
        for row, part in zip(rows, held, strict=True):
            assert row.box is not None, "the loader has checked it"
            values[box_slices(row.box)] = part
    permuted = values.reshape(tuple(tensor.shape[p] for p in tensor.perm))
    return np.ascontiguousarray(permuted.transpose(np.argsort(tensor.perm))).reshape(tensor.shape)


def host_values(tensor: Interface, values: NDArray[Any]) -> NDArray[Any]:
    """The host's array of an output tensor."""
    scale = tensor.scale
    if scale is not None:
        return arithmetic.dequantize(values, scale, tensor.zero_point)
    return values.astype(tensor.dtype)


def require_form(tensor: Interface, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    """An input has the dtype and the shape that the program takes.

    Raises:
        UsageError: it has others.
    """
    found: list[Diagnostic] = []
    if dtype != np.dtype(tensor.dtype):
        found.append(
            Diagnostic(
                "run.dtype",
                f"input '{tensor.name}' is {dtype}",
                allowed=tensor.dtype,
                remedy=f"convert it: x.astype('{tensor.dtype}')",
            )
        )
    if shape != tensor.shape:
        found.append(
            Diagnostic(
                "run.shape",
                f"input '{tensor.name}' has the shape {list(shape)}",
                allowed=str(list(tensor.shape)),
                remedy="--samples loops over the first axis in steps of the model's batch",
            )
        )
    if found:
        raise UsageError(found)
