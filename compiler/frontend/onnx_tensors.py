"""Constant tensors of ONNX models: what they declare is checked against what they hold."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from compiler.ir.types import MAX_ELEMENTS, DType
from isa.support.diagnostics import Findings
from isa.support.locations import Loc
from isa.support.numerals import whole_number
from isa.support.paths import is_file, resolved

MAX_RANK: Final = 8


def read_tensor(
    tensor: onnx.TensorProto, what: str, loc: Loc, folder: Path, findings: Findings
) -> NDArray[Any] | None:
    """The values of a tensor; None where it is not sound, with the finding recorded.

    Args:
        tensor: from a model that is not trusted.
        what: how messages call it.
        loc: where it stands.
        folder: the only place from which external data is read.
        findings: the collector.
    """
    dtype = _dtype(tensor.data_type)
    if dtype is None:
        findings.add("model.dtype", f"{what} has the undefined data_type {tensor.data_type}", loc)
        return None
    if DType.of(dtype) is None and dtype != np.bool_:
        findings.add(
            "model.dtype",
            f"{what} has the dtype {dtype}, which is not supported",
            loc,
            allowed=", ".join(d.host_name for d in DType),
        )
        return None
    shape = tuple(tensor.dims)
    if len(shape) > MAX_RANK or any(d < 0 for d in shape) or math.prod(shape) > MAX_ELEMENTS:
        findings.add(
            "model.shape",
            f"{what} has the shape {list(shape)}",
            loc,
            allowed=f"at most {MAX_RANK} dimensions and {MAX_ELEMENTS} elements",
        )
        return None
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        values = _external(tensor, what, loc, folder, findings, dtype, shape)
    else:
        values = _held(tensor, what, loc, findings, dtype, shape)
    return values.astype(np.uint8) if values is not None and values.dtype == np.bool_ else values


def _held(
    tensor: onnx.TensorProto,
    what: str,
    loc: Loc,
    findings: Findings,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> NDArray[Any] | None:
    """Data in the model itself."""
    if tensor.HasField("raw_data") and not tensor.HasField("segment"):
        content = tensor.raw_data
        size = math.prod(shape) * dtype.itemsize
        if len(content) == size:
            return _of_bytes(content, dtype, shape)
        text = f"{what} of shape {list(shape)} holds {len(content)} bytes"
        findings.add("model.data", text, loc, allowed=f"{size}")
        return None
    try:
        return np.ascontiguousarray(numpy_helper.to_array(tensor)).reshape(shape)
    except (ValueError, TypeError, OverflowError):
        findings.add("model.data", f"{what} of shape {list(shape)} holds another number of values", loc)
        return None


def _of_bytes(content: bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of bytes as ONNX stores them, the lowest first."""
    return np.frombuffer(content, f"<{dtype.str[1:]}").astype(dtype, copy=False).reshape(shape)


def _dtype(data_type: int) -> np.dtype[Any] | None:
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    except (KeyError, TypeError, ValueError):
        return None


def _external(
    tensor: onnx.TensorProto,
    what: str,
    loc: Loc,
    folder: Path,
    findings: Findings,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> NDArray[Any] | None:
    """Data beside the model: only a plain file inside its folder."""
    entries = {e.key: e.value for e in tensor.external_data}
    name = entries.get("location", "")
    place = resolved(folder / name)
    if not name or place is None or not place.is_relative_to(folder):
        findings.add(
            "model.external",
            f"{what} is external data at '{name}', outside the model's folder",
            loc,
            allowed="files in the folder of the model",
        )
        return None
    size = math.prod(shape) * dtype.itemsize
    offset, length = (whole_number(entries.get(k, d)) for k, d in (("offset", "0"), ("length", str(size))))
    if length != size:
        findings.add(
            "model.external",
            f"{what} of shape {list(shape)} has {entries['length']!r} bytes of external data",
            loc,
            allowed=f"{size}",
        )
        return None
    if offset is None or not is_file(place) or place.stat().st_size < offset + size:
        findings.add(
            "model.external",
            f"{what}: '{name}' does not hold {size} bytes at {entries.get('offset', '0')}",
            loc,
        )
        return None
    with place.open("rb") as file:
        file.seek(offset)
        return _of_bytes(file.read(size), dtype, shape)
