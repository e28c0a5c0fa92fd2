"""Quantized graphs as ONNX models of QOperator nodes: what the oracle runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import onnx
from onnx import TensorProto, helper, numpy_helper

import compiler.ops  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.ir.graph import Graph, Input, Node
from compiler.ir.stage import Stage
from compiler.ir.types import DType
from compiler.rules.exporting import MICROSOFT, WRITERS, OnnxWriter

OPSETS: Final = {"": 17, MICROSOFT: 1}
IR_VERSION: Final = 8
ELEMENT_TYPES: Final = {
    DType.F32: TensorProto.FLOAT,
    DType.I8: TensorProto.INT8,
    DType.U8: TensorProto.UINT8,
    DType.I32: TensorProto.INT32,
    DType.I64: TensorProto.INT64,
}


def to_qoperator(graph: Graph, extra_outputs: Iterable[str] = ()) -> onnx.ModelProto:
    """The ONNX model of a graph of stage q; `extra_outputs` are source tensors to give out too."""
    return as_model(graph, written(graph), OPSETS, extra_outputs)


def written(graph: Graph) -> OnnxWriter:
    """The nodes and initializers of a graph of stage q."""
    assert graph.stage is Stage.Q
    writer = OnnxWriter(_names(graph))
    for node in graph.nodes():
        if not node.is_constant and not isinstance(node.op, Input):
            WRITERS[type(node.op)](writer, node, node.op)
    for name, node in zip(graph.output_names, graph.outputs, strict=True):
        writer.outputs.append(_write_output(writer, name, node))
    return writer


def _write_output(w: OnnxWriter, name: str, node: Node) -> str:
    """Write what no operator gives out; the name of the output."""
    if isinstance(node.op, Input):
        return name if name == node.name else w.add("Identity", [node.name], name)
    if node.is_constant:
        w.add("Constant", [], w.names[node.id], value=numpy_helper.from_array(node.constant))
    return w.names[node.id]


def as_model(
    graph: Graph, writer: OnnxWriter, opsets: Mapping[str, int], extra_outputs: Iterable[str] = ()
) -> onnx.ModelProto:
    """The ONNX model of what was written of a graph."""
    outputs = [
        helper.make_tensor_value_info(name, ELEMENT_TYPES[node.type.dtype], node.shape)
        for name, node in zip(writer.outputs, graph.outputs, strict=True)
    ]
    wanted = set(extra_outputs)
    outputs += [
        helper.make_tensor_value_info(writer.names[n.id], ELEMENT_TYPES[n.type.dtype], n.shape)
        for n in graph.nodes()
        for v in n.views
        if v.name in wanted
    ]
    inputs = [
        helper.make_tensor_value_info(n.name, ELEMENT_TYPES[n.type.dtype], n.shape) for n in graph.inputs
    ]
    nodes = [
        helper.make_node(op_type, ins, outs, name=f"{op_type}_{i}", domain=domain or None, **attributes)
        for i, (op_type, domain, ins, outs, attributes) in enumerate(writer.nodes)
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in writer.initializers.items()]
    body = helper.make_graph(nodes, graph.name, inputs, outputs, initializers)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(body, opset_imports=imports, ir_version=IR_VERSION, producer_name="x1")


def quantized_names(graph: Graph) -> dict[str, str]:
    """The ONNX name of the quantized form of every source tensor."""
    names = _names(graph)
    return {view.name: names[node.id] for node in graph.nodes() for view in node.views}


def _names(graph: Graph) -> dict[int, str]:
    """A unique ONNX name for every value: inputs and outputs keep theirs, where they have others."""
    names: dict[int, str] = {n.id: n.name for n in graph.inputs}
    given = set(names.values())
    for name, node in zip(graph.output_names, graph.outputs, strict=True):
        if not isinstance(node.op, Input):
            names[node.id] = f"{name}_returned" if name in given else name
    taken = set(names.values())
    for node in graph.nodes():
        if node.id in names:
            continue
        candidate, number = f"{node.name}_quantized", 0
        while candidate in taken:
            number += 1
            candidate = f"{node.name}_quantized_{number}"
        names[node.id] = candidate
        taken.add(candidate)
    return names
