"""Where float tensors become integers and back: ONNX QuantizeLinear and DequantizeLinear.

In a graph of integers they stand at its edges, and the host computes them. In a prequantized
graph (stage qdq) they stand around every operation, and say how it is quantized.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Final

import numpy as np

from compiler.ir.graph import Graph, Input, Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, Quant, TensorType
from compiler.rules.exporting import OnnxWriter, written_as_onnx
from compiler.rules.importing import (
    MICROSOFT_DOMAIN,
    ONNX_OPERATORS,
    OnnxNode,
    is_parameter,
    known_values,
    onnx_operator,
)
from isa import arithmetic
from isa.support.locations import Loc
from isa.support.records import Frozen, replace


@op("q.quantize", "x:f32|i8|u8")
class Quantize(Op):
    """QuantizeLinear to 8 bits; codes that the host gives are taken as they are."""

    interface: ClassVar[bool] = True

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.I8, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        if types[0].dtype.is_code:
            return args[0]
        assert out.quant is not None
        scales = out.quant.along(args[0].ndim)
        return arithmetic.quantize(args[0], scales, out.quant.zero_point, *out.dtype.bounds)


@op("q.dequantize", "x:i8|u8|i32")
class Dequantize(Op):
    """DequantizeLinear to float32."""

    foldable: ClassVar[bool] = False

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.F32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        quant = types[0].quant
        assert quant is not None
        return arithmetic.dequantize(args[0], quant.along(args[0].ndim), quant.zero_point)


@op("q.returned", "x:i8|u8|i32|i64")
class Returned(Op):
    """Integers that the host gets as they are."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return types[0]

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return args[0]


def is_given(node: Node) -> bool:
    """Whether no layer computes a graph output: a constant or a graph input, which the host has as it is."""
    return node.is_constant or isinstance(node.op, Input)


def returned_value(node: Node) -> Node:
    """What a graph output of a layer gives, before the host dequantizes and permutes it."""
    while not isinstance(node.op, (Dequantize, Returned)):
        (node,) = node.inputs
    return node.inputs[0]


def returned(graph: Graph, value: Node, name: str, codes: Callable[[Node], Node]) -> Node:
    """The output of an integer graph for a value of the graph that it is made from.

    What is known and what is an input the host has as it is. Of anything else it gets the `codes`, in real
    numbers where the value is real.
    """
    if is_parameter(value):
        return _constant(graph, known_values(value), name, value.loc)
    if isinstance(value.op, Input):
        return next(i for i in graph.inputs if i.name == value.name)
    operation = Dequantize() if value.type.dtype is DType.F32 else Returned()
    return graph.add(operation, (codes(value),), name=name, loc=value.loc)


def _constant(graph: Graph, value: Array, name: str, loc: Loc) -> Node:
    """A graph output that is known; codes in it are numbers as they are."""
    dtype = DType.of(value.dtype)
    assert dtype is not None
    return graph.const(value, name, loc, Quant((1.0,), 0, None, dtype) if dtype.is_code else None)


def host_nodes(graph: Graph) -> set[int]:
    """The nodes of an integer graph outside of the device: what comes before Quantize and what ends it."""
    found: set[int] = set()
    for node in graph.nodes():
        edge = isinstance(node.op, (Input, Dequantize, Returned)) or any(i.id in found for i in node.inputs)
        if edge and not isinstance(node.op, Quantize):
            found.add(node.id)
    return found


def device_values(graph: Graph) -> list[Node]:
    """The values of an integer graph that the device is given or computes, in order; no constants."""
    host = host_nodes(graph)
    return [n for n in graph.nodes() if not n.is_constant and n.id not in host]


@onnx_operator("QuantizeLinear", domains=("", MICROSOFT_DOMAIN))
def import_quantize(n: OnnxNode) -> Node:
    """Constant scale and zero point; one for all of a tensor that the network computes."""
    x = n.operand(0)
    if x.type.dtype is not DType.F32:
        n.fail(f"QuantizeLinear of {x.type.dtype.host_name} is not supported", "float32")
    quant = _quantization(n, x, 1, 2)
    if quant.dtype is DType.I32:
        n.fail("the zero point is int32", "int8, uint8")
    return n.add(Quantize(), x, quant=quant)


@onnx_operator("DequantizeLinear", domains=("", MICROSOFT_DOMAIN))
def import_dequantize(n: OnnxNode) -> Node:
    """Constant scale and zero point; one scale per channel for constants alone."""
    x = n.operand(0)
    if not x.type.dtype.is_code and not (x.is_constant and x.type.dtype is DType.I32):
        n.fail(
            f"DequantizeLinear of {x.type.dtype.host_name} is not supported", "int8, uint8; int32 constants"
        )
    quant = _quantization(n, x, 1, 2, x.type.dtype)
    return n.add(Dequantize(), n.coded(x, quant))


def _quantization(
    n: OnnxNode, x: Node, scale: int, zero: int, codes: DType | None = None, axis: int | None = None
) -> Quant:
    """The quantization of an operand; one scale per channel is for constants alone."""
    quant = n.quantization(scale, zero, x.shape, codes, axis)
    if quant.axis is not None and not x.is_constant:
        n.fail("one scale per channel of a computed tensor is not supported", "one scale")
    return quant


Triple = tuple[int, int, int]
"""Indices of a tensor, its scale and its zero point among the operands of a node."""


class QLinear(Frozen):
    """An operator on integers as what it is: dequantized operands, the operator `of`, the result quantized.

    `bias` is the index of an int32 operand at the scale of the product of the first two; `weight_axis` is
    where the scales of a constant operand lie, if it has several and is not stored transposed. An operator
    of any number of operands has no `operands`: their triples follow `result`.
    """

    of: str
    operands: Sequence[Triple]
    result: tuple[int, int]
    bias: int = -1
    weight_axis: int = -1

    def triples(self, count: int) -> Sequence[Triple]:
        """The triples among `count` operands."""
        return self.operands or [(i, i + 1, i + 2) for i in range(2, count, 3)]


QLINEAR: Final[dict[tuple[str, str], QLinear]] = {}
"""Operators on integers, by domain and name."""


def qlinear(op_type: str, meaning: QLinear, domain: str = "") -> None:
    """Declare an operator on integers: it is imported as what it means, and written so in QDQ form."""
    QLINEAR[domain, op_type] = meaning

    @onnx_operator(op_type, domains=(domain,))
    def rule(n: OnnxNode) -> Node:
        return _import_qlinear(n, meaning)

    rule.__doc__ = f"{meaning.of} of codes: every operand dequantized, the result quantized."


def _import_qlinear(n: OnnxNode, meaning: QLinear) -> Node:
    """The nodes that an operator on integers stands for."""
    if n.integer("channels_last", 0):
        n.fail("channels_last=1 is not supported", "0")
    axis = -2 if n.integer("transB", 0) else meaning.weight_axis
    triples = meaning.triples(len(n.operands))
    reals: list[Node | None] = [_real_operand(n, triple, axis) for triple in triples]
    if meaning.bias >= 0 and n.maybe(meaning.bias) is not None:
        codes = n.graph.const(n.constant(meaning.bias, "the bias"), f"{n.output}.bias", n.loc)
        if codes.type.dtype is not DType.I32:
            n.fail(f"the bias is {codes.type.dtype.host_name}", "int32")
        reals.append(n.before(Dequantize(), _bias_codes(n, codes, reals), suffix="bias.real"))
    quant = n.quantization(*meaning.result, (), reals[0].inputs[0].type.dtype if reals[0] else None)
    inner = replace(
        n,
        op_type=meaning.of,
        operands=reals,
        output=n.unused("real"),
        opset=n.integer("opset", n.opset),
        outputs=1,
    )
    real = ONNX_OPERATORS["", meaning.of](inner)
    assert not isinstance(real, list)
    return n.add(Quantize(), real, quant=quant)


def _real_operand(n: OnnxNode, triple: Triple, axis: int) -> Node:
    tensor, scale, zero = triple
    x = n.operand(tensor)
    if not x.type.dtype.is_code:
        n.fail(f"operand {tensor} is {x.type.dtype.host_name}", "int8, uint8")
    quant = _quantization(n, x, scale, zero, x.type.dtype, axis)
    return n.before(Dequantize(), n.coded(x, quant), suffix=f"operand{tensor}")


def _bias_codes(n: OnnxNode, codes: Node, reals: Sequence[Node | None]) -> Node:
    quants = [r.inputs[0].type.quant for r in reals if r is not None][:2]
    x, w = (q.array for q in quants if q is not None)
    alpha = np.float32(n.real("alpha", 1.0))
    scales = np.abs(alpha) * x * w
    values = tuple(np.broadcast_to(scales, codes.shape).tolist())
    signed = -codes.constant if alpha < 0 else codes.constant  # scales are positive
    return n.graph.const(signed, codes.name, codes.loc, Quant(values, 0, 0, DType.I32))


@written_as_onnx(Quantize)
def write_quantize(w: OnnxWriter, node: Node, operation: Quantize) -> None:
    """QuantizeLinear."""
    del operation
    x = node.inputs[0]
    if x.type.dtype.is_code:
        w.add("Identity", [w.tensor(x)], w.tensor(node))
        return
    w.add("QuantizeLinear", [w.tensor(x), w.scale(node), w.zero_point(node)], w.tensor(node))


@written_as_onnx(Dequantize)
def write_dequantize(w: OnnxWriter, node: Node, operation: Dequantize) -> None:
    """DequantizeLinear."""
    del operation
    w.add("DequantizeLinear", w.quantized(node.inputs[0]), w.tensor(node))


@written_as_onnx(Returned)
def write_returned(w: OnnxWriter, node: Node, operation: Returned) -> None:
    """Identity."""
    del operation
    w.add("Identity", [w.tensor(node.inputs[0])], w.tensor(node))
