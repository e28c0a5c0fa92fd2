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
from compiler.rules.importing import OTHER_FLOATS
from isa.support.diagnostics import Findings
from isa.support.locations import Loc
from isa.support.numerals import whole_number
from isa.support.paths import is_file, resolved

MAX_RANK: Final = 8


def read_tensor(
    tensor: onnx.TensorProto, what: str, loc: Loc, folder: Path | None, findings: Findings
) -> NDArray[Any] | None:
    """The values of a tensor; None where it is not sound, with the finding recorded.

    Args:
        tensor: from a model that is not trusted.
        what: how messages call it.
        loc: where it stands.
        folder: the only place from which external data is read; a model in memory has none.
        findings: the collector.
    """
    dtype = _dtype(tensor.data_type)
    if dtype is None:
        findings.add("model.dtype", f"{what} has the undefined data_type {tensor.data_type}", loc)
        return None
    if DType.of(dtype) is None and dtype != np.bool_ and tensor.data_type not in OTHER_FLOATS:
        findings.add(
            "model.dtype",
            f"{what} has the dtype {dtype}, which is not supported",
            loc,
            allowed=", ".join([*(d.host_name for d in DType), "bool", "float16, bfloat16, float64"]),
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
    return None if values is None else readable(values, tensor.data_type)


def read_sparse_tensor(
    sparse: onnx.SparseTensorProto, what: str, loc: Loc, folder: Path | None, findings: Findings
) -> NDArray[Any] | None:
    """The whole of a sparse tensor, zero where it says nothing; as `read_tensor` where it is not sound."""
    shape = tuple(sparse.dims)
    values = read_tensor(sparse.values, f"{what}, its values", loc, folder, findings)
    indices = read_tensor(sparse.indices, f"{what}, its indices", loc, folder, findings)
    if values is None or indices is None:
        return None
    sound = 0 < len(shape) <= MAX_RANK and min(shape) >= 0 and math.prod(shape) <= MAX_ELEMENTS
    many = indices.ndim == 2
    wanted = (values.size, len(shape)) if many else (values.size,)
    if not sound or values.ndim != 1 or indices.dtype != np.int64 or indices.shape != wanted:
        findings.add("model.sparse", f"{what} of shape {list(shape)} does not hold what it declares", loc)
        return None
    most = np.array(shape if many else math.prod(shape))
    if ((indices < 0) | (indices >= most)).any():
        findings.add("model.sparse", f"{what} of shape {list(shape)} has an index outside of it", loc)
        return None
    whole = np.zeros(shape, values.dtype)
    whole[tuple(indices.T) if many else np.unravel_index(indices, shape)] = values
    return whole


def readable(values: NDArray[Any], data_type: int) -> NDArray[Any]:
    """Values in a type of the IR: other floats as float32, truth values as uint8."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    if data_type == onnx.TensorProto.BFLOAT16 and values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    if data_type in OTHER_FLOATS:
        with np.errstate(over="ignore"):  # what becomes infinite is refused as such
            return values.astype(np.float32)
    return values


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
    """An array of bytes as ONNX stores them, the lowest first; bfloat16 as what its bits are."""
    kind = "<u2" if dtype.kind not in "biuf" or dtype.name == "bfloat16" else f"<{dtype.str[1:]}"
    return np.frombuffer(content, kind).reshape(shape)


def _dtype(data_type: int) -> np.dtype[Any] | None:
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(data_type))
    except (KeyError, TypeError, ValueError):
        return None


def _external(
    tensor: onnx.TensorProto,
    what: str,
    loc: Loc,
    folder: Path | None,
    findings: Findings,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
) -> NDArray[Any] | None:
    """Data beside the model: only a plain file inside its folder."""
    entries = {e.key: e.value for e in tensor.external_data}
    name = entries.get("location", "")
    if folder is None:
        text = f"{what} is external data at '{name}', and a model in memory has no folder"
        findings.add("model.external", text, loc, remedy="give the path of the file, or load the data first")
        return None
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
