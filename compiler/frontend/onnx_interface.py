"""Inputs and outputs of an ONNX model: what it declares of them, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import onnx
from onnx import helper

from compiler.ir.graph import Node
from compiler.ir.types import MAX_ELEMENTS, DType, TensorType
from compiler.rules.importing import OTHER_FLOATS
from isa.support.diagnostics import Diagnostic, Findings, UsageError
from isa.support.locations import FileLoc

MAX_VALUE_RANK: Final = 8


def input_type(
    value: onnx.ValueInfoProto, given: Sequence[int] | None, file: FileLoc, findings: Findings
) -> TensorType | None:
    """The type of a graph input, `given` fixing the dimensions that it leaves open; None with a finding.

    Raises:
        UsageError: a dimension stays open, or the given shape does not fit.
    """
    dtype = _input_dtype(value, file, findings)
    if dtype is None:
        return None
    shape = _input_shape(value, given, file)
    if len(shape) > MAX_VALUE_RANK or min(shape, default=1) < 1 or math.prod(shape) > MAX_ELEMENTS:
        findings.add(
            "model.shape",
            f"input '{value.name}' has the shape {list(shape)}",
            file,
            allowed=f"at most {MAX_VALUE_RANK} dimensions of at least 1, {MAX_ELEMENTS} elements in all",
        )
        return None
    return TensorType(dtype, shape)


def _input_dtype(value: onnx.ValueInfoProto, file: FileLoc, findings: Findings) -> DType | None:
    """The element type that the device gives an input; None with a finding."""
    kind = value.type.tensor_type.elem_type
    try:
        dtype = DType.of(np.dtype(helper.tensor_dtype_to_np_dtype(kind)))
    except (KeyError, TypeError, ValueError):
        dtype = None
    if kind in OTHER_FLOATS:
        dtype = DType.F32
    if dtype is not None and (dtype is DType.F32 or dtype.is_code):
        return dtype
    allowed = "float32, float16, bfloat16, float64; int8 and uint8"
    findings.add("model.dtype", f"input '{value.name}' has data_type {kind}", file, allowed=allowed)
    return None


def _input_shape(value: onnx.ValueInfoProto, given: Sequence[int] | None, file: FileLoc) -> tuple[int, ...]:
    """The shape that a model declares, or that the user gives.

    Raises:
        UsageError: a dimension stays open, or the given shape does not fit.
    """
    tensor = value.type.tensor_type
    declared = tensor.HasField("shape")
    dims: list[int | str] = [d.dim_value if d.dim_value > 0 else d.dim_param or "?" for d in tensor.shape.dim]
    if given is not None:
        if declared and not _fits(given, dims):
            message = f"--shape {value.name}={','.join(map(str, given))} does not fit"
            raise UsageError(Diagnostic("usage.shape", message, file, allowed=str(dims)))
        return tuple(given)
    if not declared:
        dims = ["?"]
    if any(isinstance(d, str) for d in dims):
        example = ",".join("1" if isinstance(d, str) else str(d) for d in dims)
        raise UsageError(
            Diagnostic(
                "usage.shape",
                f"input '{value.name}' has open dimensions: {dims}",
                file,
                remedy=f"give them: --shape {value.name}={example}",
            )
        )
    return tuple(int(d) for d in dims)


def _fits(given: Sequence[int], dims: Sequence[int | str]) -> bool:
    """Whether a shape is one of those that a model leaves open."""
    return len(given) == len(dims) and all(
        isinstance(d, str) or d == g for d, g in zip(dims, given, strict=True)
    )


def check_output(value: onnx.ValueInfoProto, node: Node, file: FileLoc, findings: Findings) -> None:
    """Find what a model declares of an output that is not what it computes."""
    returnable = node.type.dtype in (DType.F32, DType.I32, DType.I64) or node.type.dtype.is_code
    if not returnable or len(node.shape) > MAX_VALUE_RANK:
        findings.add(
            "model.output",
            f"the graph output '{value.name}' is {node.type}",
            file,
            allowed=f"float32, int8, uint8, int32 or int64, {MAX_VALUE_RANK} dimensions",
        )
    tensor = value.type.tensor_type
    computed = helper.np_dtype_to_tensor_dtype(node.type.dtype.numpy)
    as_float32 = node.type.dtype is DType.F32 and tensor.elem_type in OTHER_FLOATS
    if tensor.elem_type not in (onnx.TensorProto.UNDEFINED, computed) and not as_float32:
        findings.add(
            "model.dtype",
            f"the output '{value.name}' is declared with data_type {tensor.elem_type}",
            file,
            allowed=node.type.dtype.host_name,
        )
    dims = tensor.shape.dim
    declared = [d.dim_value if d.dim_value > 0 else None for d in dims]
    if tensor.HasField("shape") and (
        len(declared) != len(node.shape)
        or any(d is not None and d != s for d, s in zip(declared, node.shape, strict=True))
    ):
        findings.add(
            "model.shape",
            f"the output '{value.name}' is declared as {declared}; the network computes {list(node.shape)}",
            file,
        )
