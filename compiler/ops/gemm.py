"""Matrix product with constant weights: ONNX Gemm, Keras Dense; QGemm when quantized."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, Product, ShapeError, op
from compiler.ir.types import DType, TensorType
from compiler.ir.work import ProductWork, Work
from compiler.ops.activation import ACTIVATIONS, apply_activation, through_clamp
from compiler.ops.add import Add
from compiler.ops.binary import BinaryFunction
from compiler.ops.broadcasting import same_rank
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.ops.reduce import Spread, channel_sums
from compiler.ops.shapes import Identity, Transpose
from compiler.ops.sliding_window import Pair, require_codes, scale_of, scales_of, write_clamped, zero_of
from compiler.rules.differentiating import Differentiator, Errors, gradient_rule
from compiler.rules.exporting import MICROSOFT, OnnxWriter, written_as_onnx
from compiler.rules.importing import (
    NO_BIAS,
    ONNX_OPERATORS,
    LayerCall,
    OnnxNode,
    is_parameter,
    known_values,
    layer,
    onnx_operator,
)
from compiler.rules.partitioning import Part, part_rule
from compiler.rules.quantizing import Quantizer, quantization_rule
from isa import arithmetic
from isa.memory_map import GRANULE_BYTES
from isa.program import Box
from isa.support.records import replace

RANK = 2


def _product(types: Sequence[TensorType]) -> tuple[int, int]:
    a, b, bias = types
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[1] != b.shape[0]:
        raise ShapeError(
            f"a product of {list(a.shape)} and {list(b.shape)} has no meaning", "[m,k] and [k,n]"
        )
    if min(b.shape) < 1:
        raise ShapeError(f"the matrix has the shape {list(b.shape)}", "dimensions of at least 1")
    if bias.shape != (b.shape[1],):
        raise ShapeError(f"the bias has the shape {list(bias.shape)}", f"[{b.shape[1]}]")
    return a.shape[0], b.shape[1]


@op("nn.gemm", "a:f32", "b:f32", "bias:f32")
class Gemm(Product):
    """alpha times a (m, k) times b (k, n), plus bias (n), then an optional clamp to real bounds."""

    weight_axis: ClassVar[int] = 1
    alpha: float = 1.0
    clamp: tuple[float, float] | None = None

    @property
    def channel_axis(self) -> int:
        return 1

    def linear(self) -> Op:
        return replace(self, clamp=None)

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.F32, _product(types))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        a, b, bias = args
        y = a @ b if self.alpha == 1 else np.float32(self.alpha) * (a @ b)
        y = y + bias
        return y if self.clamp is None else np.clip(y, *np.asarray(self.clamp, np.float32))


@gradient_rule(Gemm)
def gemm_gradient(d: Differentiator, node: Node, operation: Gemm, error: Node) -> Errors:
    """Of both matrices and the bias: products with the other matrix, turned."""
    a, b, _ = node.inputs
    g = through_clamp(d, node, operation.clamp, error)
    scaled = g if operation.alpha == 1 else d.add(Spread(g.shape, operation.alpha), (g,), node, "scaled")
    turned_a, turned_b = (d.add(Transpose((1, 0)), (side,), node, "turned") for side in (a, b))

    def product(left: Node, right: Node, suffix: str) -> Node:
        nothing = d.graph.const(np.zeros(right.shape[1], np.float32), "nothing", node.loc)
        return d.add(Gemm(), (left, right, nothing), node, suffix)

    return (
        product(scaled, turned_b, "error"),
        product(turned_a, scaled, "weight_gradient"),
        channel_sums(d, node, g, 1),
    )


@op("q.gemm", "a:i8|u8", "b:i8|u8", "bias:i32")
class QGemm(Op):
    """QGemm: 8-bit weights (k, n) per column, int32 bias, clamp to codes."""

    bounds: Pair = (-128, 127)
    alpha: float = 1.0

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_codes(self.bounds)
        return TensorType(DType.I8, _product(types))

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        a, b, bias = args
        left, right = a.astype(np.float64) - zero_of(types[0]), b.astype(np.float64) - zero_of(types[1])
        acc = arithmetic.wrap32((left @ right).astype(np.int64))
        return arithmetic.requantize(acc, bias, self.constants(types, out), zero_of(out), *self.bounds)

    def work(self, types: Sequence[TensorType], out: TensorType) -> Work:
        """A product on the array."""
        depth, columns = types[1].shape
        constants = types[1].elements + GRANULE_BYTES * columns
        return ProductWork(out.elements, constants, out.elements // columns, columns, depth)

    def constants(self, types: Sequence[TensorType], out: TensorType) -> Array:
        """The multiplier of every column, or one for all."""
        return arithmetic.gemm_multiplier(self.alpha, scale_of(types[0]), scales_of(types[1]), scale_of(out))


@part_rule(QGemm)
def part_of_gemm(node: Node, operation: QGemm, box: Box) -> Part:
    """Some rows, some columns."""
    a, b, _ = node.inputs
    return Part(operation, ((*box[:-1], (0, a.shape[-1])), ((0, b.shape[0]), box[-1]), (box[-1],)))


@onnx_operator("Gemm")
def import_gemm(n: OnnxNode) -> Node:
    """alpha * A * B + beta * C; of float constants alpha and beta become part.

    A constant C with one value per column is the bias of a constant B, any other is added afterwards.
    """
    if not is_parameter(n.operand(1)) or (n.maybe(2) is not None and not is_parameter(n.operand(2))):
        return _of_computed(n)
    a, b, alpha = n.operand(0), n.parameter(1, "B"), n.real("alpha", 1.0)
    if n.integer("transA", 0) and len(a.shape) == RANK:
        a = n.before(Transpose((1, 0)), a, suffix="turned")
    if len(b.shape) != RANK or b.type.dtype is not DType.F32:
        n.fail(f"B is {b.type.dtype.host_name}{list(b.shape)}", "a float32 matrix")
    if len(a.shape) != RANK:
        n.fail(f"A has the shape {list(a.shape)}", "a matrix")
    if n.integer("transB", 0):
        b = n.transposed(b, (1, 0), "weight")
    if b.is_constant and alpha != 1:
        with np.errstate(all="ignore"):  # constants that are not finite are refused later, all at once
            b, alpha = n.const(b.constant * np.float32(alpha), "weight"), 1.0
    if alpha < 0:
        b, alpha = _negated(n, b), -alpha
    return _with_bias(n, a, b, alpha)


def _with_bias(n: OnnxNode, a: Node, b: Node, alpha: float) -> Node:
    """alpha * a * b + beta * C with constant b and C."""
    rows, columns = a.shape[0], b.shape[1]
    c, beta = n.maybe(2), n.real("beta", 1.0)
    if c is None:
        return n.add(Gemm(alpha), a, b, n.const(np.zeros(columns, np.float32), NO_BIAS))
    if is_parameter(c) and not c.is_constant and c.type.elements == columns and beta == 1:
        return n.add(Gemm(alpha), a, b, _row_of_codes(n, c, columns))
    spread = _spread_bias(n, known_values(n.parameter(2, "C")), beta, rows, columns)
    if (spread == spread[0]).all() or not np.isfinite(spread).all():
        return n.add(Gemm(alpha), a, b, n.const(np.array(spread[0]), "bias"))
    zero = n.const(np.zeros(columns, np.float32), NO_BIAS)
    product = n.before(Gemm(alpha), a, b, zero, suffix="product")
    return n.add(Add(), product, n.const(np.array(spread), "c"))


def _of_computed(n: OnnxNode) -> Node:
    """A product of matrices that the network computes, and what is added to it."""
    a, b = (
        n.before(Transpose((1, 0)), n.operand(i), suffix=f"turned{i}") if n.integer(name, 0) else n.operand(i)
        for i, name in enumerate(("transA", "transB"))
    )
    if len(a.shape) != RANK or len(b.shape) != RANK:
        n.fail(f"A and B have the shapes {list(a.shape)} and {list(b.shape)}", "matrices")
    product = _times(n, _matrix_product(n, a, b), n.real("alpha", 1.0), "scaled")
    if (c := n.maybe(2)) is None:
        return n.add(Identity(), product)
    return n.add(Add(), *same_rank(n, [product, _times(n, c, n.real("beta", 1.0), "more")]))


def _matrix_product(n: OnnxNode, a: Node, b: Node) -> Node:
    inner = replace(n, op_type="MatMul", operands=[a, b], attributes={}, output=n.unused("product"))
    made = ONNX_OPERATORS["", "MatMul"](inner)
    assert not isinstance(made, list)
    return made


def _times(n: OnnxNode, x: Node, factor: float, suffix: str) -> Node:
    """A value times a number."""
    if factor == 1:
        return x
    number = n.const(np.full((1,) * len(x.shape), factor, np.float32), f"{suffix}.factor")
    return n.before(BinaryFunction("mul"), x, number, suffix=suffix)


def _negated(n: OnnxNode, parameter: Node) -> Node:
    """-B for dequantized codes: mirrored under the mirrored zero point, so that no code is lost."""
    (codes,) = parameter.inputs
    quant = codes.type.quant
    assert quant is not None
    both = sum(quant.dtype.bounds)
    values = (both - codes.constant.astype(np.int32)).astype(codes.constant.dtype)
    mirrored = replace(quant, zero_point=both - quant.zero_point)
    return n.before(parameter.op, n.graph.const(values, codes.name, codes.loc, mirrored), suffix="negated")


def _row_of_codes(n: OnnxNode, c: Node, columns: int) -> Node:
    """A dequantized bias as one row."""
    (codes,) = c.inputs
    quant = codes.type.quant
    assert quant is not None
    flat = replace(quant, axis=None if quant.axis is None else 0)
    return n.before(
        c.op, n.graph.const(codes.constant.reshape(columns), codes.name, codes.loc, flat), suffix="bias"
    )


def _spread_bias(n: OnnxNode, c: Array, beta: float, rows: int, columns: int) -> Array:
    """beta * C, broadcast to the result."""
    if c.dtype != np.float32:
        n.fail(f"C is {c.dtype}", "float32")
    try:
        with np.errstate(all="ignore"):
            return np.multiply(np.broadcast_to(c, (rows, columns)), np.float32(beta))
    except ValueError:
        n.fail(f"C of shape {list(c.shape)} does not broadcast to {[rows, columns]}")


qlinear("QGemm", QLinear("Gemm", [(0, 1, 2), (3, 4, 5)], (7, 8), bias=6), MICROSOFT)


@layer("Dense", "units")
def dense_layer(call: LayerCall) -> Node:
    """Dense(units, activation=None, use_bias=true)."""
    x, units = call.input(2), call.count("units")
    activation = call.choice("activation", None, ACTIVATIONS)
    has_bias = call.flag("use_bias", default=True)
    call.done()
    weights = call.const(call.weights("kernel", (x.shape[1], units)), "kernel")
    bias = call.weights("bias", (units,)) if has_bias else np.zeros(units, np.float32)
    return apply_activation(
        call, activation, Gemm(), (x, weights, call.const(bias, "bias" if has_bias else NO_BIAS))
    )


@quantization_rule(Gemm)
def quantize_gemm(q: Quantizer, node: Node, operation: Gemm, inputs: list[Node]) -> Node:
    """int8 weights per column, int32 bias."""
    quant = q.chosen(node)
    made = QGemm(q.clamp_codes(quant, operation.clamp), operation.alpha)
    return q.add(made, q.weights_and_bias(node, inputs[0], operation.alpha), node, quant)


@written_as_onnx(QGemm)
def write_gemm(w: OnnxWriter, node: Node, operation: QGemm) -> None:
    """QGemm of com.microsoft."""
    a, b, bias = node.inputs
    inputs = [*w.quantized(a), *w.quantized(b), w.tensor(bias), w.scale(node), w.zero_point(node)]
    write_clamped(
        w,
        w.tensor(node),
        operation.bounds,
        node.type.dtype.numpy,
        lambda name: w.add("QGemm", inputs, name, domain=MICROSOFT, alpha=operation.alpha, transB=0),
    )
