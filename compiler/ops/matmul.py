"""Matrix product of two computed tensors; QLinearMatMul when quantized."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, ShapeError, op
from compiler.ir.types import DType, Shape, TensorType
from compiler.ir.work import ProductWork, Work
from compiler.ops.gemm import Gemm
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.shapes import Reshape
from compiler.ops.sliding_window import Pair, require_codes, scale_of, write_clamped, zero_of
from compiler.rules.exporting import OnnxWriter, written_as_onnx
from compiler.rules.importing import NO_BIAS, OnnxNode, is_parameter, known_values, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic

MATRIX = 2


def _product(types: Sequence[TensorType]) -> Shape:
    a, b = (t.shape for t in types)
    if len(a) != len(b) or len(a) < MATRIX or a[-1] != b[-2]:
        raise ShapeError(
            f"a product of {list(a)} and {list(b)} has no meaning", "[..., m, k] and [..., k, n]"
        )
    if any(x != y and 1 not in (x, y) for x, y in zip(a[:-2], b[:-2], strict=True)):
        raise ShapeError(f"the batches of {list(a)} and {list(b)} differ", "equal, or 1")
    return (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])


@op("nn.matmul", "a:f32", "b:f32")
class MatMul(Op):
    """a (..., m, k) times b (..., k, n), batches broadcast."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.F32, _product(types))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return np.matmul(args[0], args[1])


@op("q.matmul", "a:i8|u8", "b:i8|u8")
class QMatMul(Op):
    """QLinearMatMul with one scale each, clamp to codes."""

    bounds: Pair = (-128, 127)

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_codes(self.bounds)
        return TensorType(DType.I8, _product(types))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        a, b = (v.astype(np.float64) - zero_of(t) for v, t in zip(args, types, strict=True))
        acc = arithmetic.wrap32(np.matmul(a, b))
        return arithmetic.requantize(acc, 0, self.constants(types, out), zero_of(out), *self.bounds)

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """A product on the array for every index of the batch."""
        columns = out.shape[-1]
        return ProductWork(out.elements, 0, out.elements // columns, columns, types[0].shape[-1])

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """m = (sa * sb) / sy."""
        a, b = (np.float32(scale_of(t)) for t in types)
        return np.atleast_1d(arithmetic.convolution_multiplier(a, b, scale_of(out)))


@onnx_operator("MatMul")
def import_matmul(n: OnnxNode) -> Node:
    """Of vectors, matrices and batches of matrices; by a constant matrix it is a Gemm on rows."""
    a, b = n.operand(0), n.operand(1)
    if a.type.dtype is not DType.F32 or b.type.dtype is not DType.F32:
        n.fail(f"MatMul of {a.type.dtype.host_name} and {b.type.dtype.host_name} is not supported", "float32")
    if not a.shape or not b.shape or a.shape[-1] != b.shape[max(len(b.shape) - MATRIX, 0)]:
        n.fail(
            f"a product of {list(a.shape)} and {list(b.shape)} has no meaning", "[..., m, k] and [..., k, n]"
        )
    try:
        result = _result_shape(a.shape, b.shape)
    except ValueError:
        n.fail(f"the batches of {list(a.shape)} and {list(b.shape)} differ", "equal, or 1")
    if a.is_constant and is_parameter(b):
        with np.errstate(all="ignore"):
            return n.graph.const(np.matmul(a.constant, known_values(b)), n.output, n.loc)
    if is_parameter(b) and len(b.shape) == MATRIX:
        bias = n.const(np.zeros(b.shape[1], np.float32), NO_BIAS)
        if len(a.shape) == MATRIX:
            return n.add(Gemm(), a, b, bias)
        rows = n.before(Reshape((a.type.elements // a.shape[-1], a.shape[-1])), a, suffix="rows")
        return n.add(Reshape(result), n.before(Gemm(), rows, b, bias, suffix="product"))
    rank = max(len(a.shape), len(b.shape), MATRIX)
    left = (1,) * (rank - max(len(a.shape), MATRIX)) + (a.shape if len(a.shape) > 1 else (1, *a.shape))
    right = (1,) * (rank - max(len(b.shape), MATRIX)) + (b.shape if len(b.shape) > 1 else (*b.shape, 1))
    operands = [_reshaped(n, x, shape, i) for i, (x, shape) in enumerate(((a, left), (b, right)))]
    full = _product([o.type for o in operands])
    if full == result:
        return n.add(MatMul(), *operands)
    return n.add(Reshape(result), n.before(MatMul(), *operands, suffix="product"))


def _result_shape(a: Shape, b: Shape) -> Shape:
    batch = np.broadcast_shapes(a[:-2], b[:-2])
    return (*batch, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


def _reshaped(n: OnnxNode, x: Node, shape: Shape, index: int) -> Node:
    if x.shape == shape:
        return x
    if is_parameter(x):
        return n.mapped(x, lambda v, _: v.reshape(shape), len(shape) - 1, f"operand{index}.matrix")
    return n.before(Reshape(shape), x, suffix=f"operand{index}.matrix")


qlinear("QLinearMatMul", QLinear("MatMul", [(0, 1, 2), (3, 4, 5)], (6, 7)))


@quantization_rule(MatMul)
def quantize_matmul(q: Quantizer, node: Node, operation: MatMul, inputs: list[Node]) -> Node:
    """Operands that are constant are quantized as activations are."""
    del operation
    quant = q.chosen(node)
    return q.add(QMatMul(quant.dtype.bounds), q.operands(node, inputs), node, quant)


@written_as_onnx(QMatMul)
def write_matmul(w: OnnxWriter, node: Node, operation: QMatMul) -> None:
    """QLinearMatMul."""
    write = w.pair("QLinearMatMul", node)
    write_clamped(w, w.tensor(node), operation.bounds, node.type.dtype.numpy, write)
