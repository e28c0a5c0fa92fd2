"""Quantized graphs as ONNX models of operators between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx

from compiler.export.qoperator import OPSETS, as_model, written
from compiler.ir.graph import Graph
from compiler.ops.quantize_linear import QLINEAR, QLinear
from compiler.rules.exporting import OnnxNodeText, OnnxWriter

ON_CODES_ALONE: Final = ("opset", "channels_last")
"""Attributes that the operators on integers have and those on real numbers do not."""


def to_qdq(graph: Graph) -> onnx.ModelProto:
    """The ONNX model of a graph of stage q, every operator in real numbers.

    What only moves codes, as Transpose does, stays an operator on codes.
    """
    writer = written(graph)
    operators, writer.nodes = writer.nodes, []
    for node in operators:
        op_type, domain, inputs, outputs, attributes = node
        meaning = QLINEAR.get((domain, op_type))
        if meaning is None:
            writer.nodes.append(node)
            continue
        reals = _reals(writer, node, meaning)
        kept = {k: v for k, v in attributes.items() if k not in ON_CODES_ALONE}
        real = writer.add(meaning.of, reals, f"{outputs[0]}_real", **kept)
        scale, zero = meaning.result
        writer.add("QuantizeLinear", [real, inputs[scale], inputs[zero]], outputs[0])
    return as_model(graph, writer, OPSETS)


def _reals(w: OnnxWriter, node: OnnxNodeText, meaning: QLinear) -> list[str]:
    """The operands in real numbers, the bias among them."""
    _, _, inputs, (output,), attributes = node
    triples = meaning.triples(len(inputs))
    axis = meaning.weight_axis
    reals = [
        _dequantized(w, [inputs[i] for i in triple], f"{output}_operand_{number}", axis)
        for number, triple in enumerate(triples)
    ]
    if 0 <= meaning.bias < len(inputs):
        x, weights = (w.initializers[inputs[t[1]]] for t in triples[:2])
        scale = w.initializer(
            np.float32(attributes.get("alpha", 1.0)) * x * weights, f"{inputs[meaning.bias]}_scale"
        )
        zero = w.initializer(np.zeros(w.initializers[scale].shape, np.int32), f"{inputs[meaning.bias]}_zero")
        reals.append(_dequantized(w, [inputs[meaning.bias], scale, zero], f"{output}_bias", 0))
    return reals


def _dequantized(w: OnnxWriter, triple: list[str], output: str, axis: int) -> str:
    """DequantizeLinear; where there are several scales they lie along the axis."""
    if w.initializers[triple[1]].ndim == 0:
        return w.add("DequantizeLinear", triple, output)
    return w.add("DequantizeLinear", triple, output, axis=axis)
