"""Where float tensors become integers and back: QuantizeLinear and DequantizeLinear of the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from compiler.export.writing import OnnxWriter, written_as_onnx
from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from isa import arithmetic


@op("q.quantize", "x:f32")
class Quantize(Op):
    """QuantizeLinear to 8 bits."""

    interface: ClassVar[bool] = True

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.I8, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        assert out.quant is not None
        return arithmetic.quantize(args[0], out.quant.scale, out.quant.zero_point, *out.dtype.bounds)


@op("q.dequantize", "x:i8|u8")
class Dequantize(Op):
    """DequantizeLinear to float32."""

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        return TensorType(DType.F32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        assert types[0].quant is not None
        return arithmetic.dequantize(args[0], types[0].quant.scale, types[0].quant.zero_point)


@written_as_onnx(Quantize)
def write_quantize(w: OnnxWriter, node: Node) -> None:
    """QuantizeLinear."""
    w.add("QuantizeLinear", [w.tensor(node.inputs[0]), w.scale(node), w.zero_point(node)], w.tensor(node))


@written_as_onnx(Dequantize)
def write_dequantize(w: OnnxWriter, node: Node) -> None:
    """DequantizeLinear."""
    w.add("DequantizeLinear", w.quantized(node.inputs[0]), w.tensor(node))
