"""Operators whose result is known when the model is read: shapes, constants, arithmetic on them.

Exporters compute shapes with operators; with fixed input shapes every value of such a computation is
known, and none of it reaches the device. They are evaluated on numpy arrays as they are imported.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compiler.ir.graph import Node
from compiler.ir.op import Array
from compiler.ir.types import MAX_ELEMENTS, DType
from compiler.ops.activation import Unary
from compiler.ops.real import Real
from compiler.ops.shapes import Identity
from compiler.rules.importing import OTHER_FLOATS, OnnxNode, is_parameter, onnx_operator

MAX_RANK: Final = 8


@onnx_operator("Shape")
def import_shape(n: OnnxNode) -> Node:
    """The extents, from start to end."""
    shape = n.operand(0).shape
    start, end = n.integer("start", 0), n.integer("end", len(shape))
    return known(n, np.array(shape[start:end], np.int64))


@onnx_operator("Size")
def import_size(n: OnnxNode) -> Node:
    """The number of elements."""
    return known(n, np.array(n.operand(0).type.elements, np.int64))


@onnx_operator("ConstantOfShape")
def import_constant_of_shape(n: OnnxNode) -> Node:
    """One value, as often as the shape says."""
    shape = extents(n, n.constant(0, "the shape"))
    tensor = n.attributes.get("value")
    value: Array = np.zeros(1, np.float32)
    if isinstance(tensor, onnx.TensorProto):
        try:
            value = numpy_helper.to_array(tensor)
        except (TypeError, ValueError):
            n.fail("the attribute 'value' does not hold what it declares")
    if value.size != 1:
        n.fail(f"the value has the shape {list(value.shape)}", "one element")
    return known(n, np.full(shape, value.item(), value.dtype))


@onnx_operator("Range")
def import_range(n: OnnxNode) -> Node:
    """start, start + delta, ... below limit."""
    start, limit, delta = (n.scalar(i, what) for i, what in enumerate(("start", "limit", "delta")))
    if delta == 0 or not math.isfinite((limit - start) / delta) or (limit - start) / delta > MAX_ELEMENTS:
        n.fail(
            f"the range from {start} to {limit} by {delta} is not allowed", f"at most {MAX_ELEMENTS} elements"
        )
    values: Array = np.arange(float(start), float(limit), float(delta))
    return known(n, values.astype(n.operand(0).type.dtype.numpy))


@onnx_operator("Cast")
def import_cast(n: OnnxNode) -> Node:
    """Of constants to a number type; of real numbers to real or bool, of int8 and uint8 to real."""
    return _cast(n, n.operand(0), n.integer("to", 0))


@onnx_operator("CastLike")
def import_cast_like(n: OnnxNode) -> Node:
    """As Cast, to the type of the second operand."""
    return _cast(n, n.operand(0), helper.np_dtype_to_tensor_dtype(n.operand(1).type.dtype.numpy))


def _cast(n: OnnxNode, x: Node, to: int) -> Node:
    try:
        wanted = np.dtype(helper.tensor_dtype_to_np_dtype(to))
    except (KeyError, TypeError, ValueError):
        n.fail(f"to={to} is no type")
    if to in OTHER_FLOATS:
        wanted = np.dtype(np.float32)
    if x.is_constant:
        with np.errstate(all="ignore"):
            return known(n, x.constant.astype(wanted))
    if wanted == np.bool_ and x.type.dtype is DType.F32:
        return n.add(Unary("differs", (0.0,)), x)
    if wanted == np.float32 and x.type.dtype.is_code and x.type.quant is None:
        return n.add(Real(), x)
    if DType.of(wanted) is not x.type.dtype:
        n.fail(f"a cast from {x.type.dtype.host_name} to {wanted} is not supported", x.type.dtype.host_name)
    return n.add(Identity(), x)


def _where(condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition != 0, a, b)


COMPARISONS: Final[dict[str, Callable[..., Any]]] = {
    "Equal": np.equal,
    "Less": np.less,
    "Greater": np.greater,
    "LessOrEqual": np.less_equal,
    "GreaterOrEqual": np.greater_equal,
    "And": np.logical_and,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    "Not": np.logical_not,
    "Where": _where,
}


def constant_comparison(n: OnnxNode) -> Node | None:
    """The result of a comparison on constants; None where an operand is computed."""
    return on_constants(n, COMPARISONS[n.op_type])


def on_constants(n: OnnxNode, function: Callable[..., Any]) -> Node | None:
    """The result of a function on constants; None where an operand is computed."""
    if not all(o is not None and is_parameter(o) for o in n.operands):
        return None
    values = [n.constant(i, f"operand {i}") for i in range(len(n.operands))]
    try:
        if math.prod(np.broadcast_shapes(*(v.shape for v in values))) > MAX_ELEMENTS:
            n.fail("the result is too large", f"{MAX_ELEMENTS} elements")
        with np.errstate(all="ignore"):
            return known(n, np.asarray(function(*values)))
    except (TypeError, ValueError):
        n.fail(f"the operands {[list(v.shape) for v in values]} do not go together")


SIGNS: Final[dict[str, Callable[..., Any]]] = {"Neg": np.negative, "Abs": np.abs, "Sign": np.sign}
ARITHMETIC: Final[dict[str, Callable[..., Any]]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Max": np.maximum,
    "Min": np.minimum,
}


def integer_arithmetic(n: OnnxNode) -> Node | None:
    """The result on integer constants, as shapes are computed with; None for anything else."""
    operands = [o for o in n.operands if o is not None]
    if not operands or not all(o.is_constant and o.type.dtype.is_integer for o in operands):
        return None
    if n.op_type in SIGNS:
        return known(n, SIGNS[n.op_type](operands[0].constant))
    if len(operands) != 2:
        return None
    a, b = (o.constant for o in operands)
    try:
        if n.op_type == "Div":
            if (b == 0).any():
                n.fail("a division of integers by 0")
            return known(n, (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype))
        return known(n, ARITHMETIC[n.op_type](a, b))
    except ValueError:
        n.fail(f"the shapes {list(a.shape)} and {list(b.shape)} do not broadcast to one another")


def known(n: OnnxNode, value: Any) -> Node:
    """The result as a constant."""
    array = np.asarray(value)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if DType.of(array.dtype) is None or array.ndim > MAX_RANK or array.size > MAX_ELEMENTS:
        n.fail(f"the result is {array.dtype}{list(array.shape)}", ", ".join(d.host_name for d in DType))
    return n.graph.const(np.ascontiguousarray(array).reshape(array.shape), n.output, n.loc)


def extents(n: OnnxNode, shape: Array) -> tuple[int, ...]:
    """A shape that a constant gives."""
    found = tuple(int(v) for v in shape.ravel())
    if any(e < 0 for e in found) or len(found) > MAX_RANK or math.prod(found) > MAX_ELEMENTS:
        n.fail(f"the shape {list(found[:MAX_RANK])} is not allowed", f"{MAX_ELEMENTS} elements")
    return found
