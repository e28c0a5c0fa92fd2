"""Graphs and programs as other tools draw them: DOT, and ONNX for Netron."""

from __future__ import annotations

import json
from typing import Any, Final

from onnx import TensorProto, helper, numpy_helper

from compiler.export.qoperator import ELEMENT_TYPES
from compiler.ir.graph import Const, Graph, Input
from isa.program import Program
from isa.support.records import asdict

DOMAIN: Final = "x1.ir"


def graph_as_dot(graph: Graph) -> str:
    """A graph in DOT: constants are left out, edges carry types."""
    lines = [f"digraph {json.dumps(graph.name)} {{", "  node [shape=box, fontname=monospace];"]
    for node in graph.nodes():
        if node.is_constant:
            continue
        lines.append(f"  n{node.id} [label={_label(node.op.name, node.name)}];")
        lines += [
            f"  n{i.id} -> n{node.id} [label={json.dumps(str(i.type))}];"
            for i in node.inputs
            if not i.is_constant
        ]
    lines += [
        f"  out{k} [shape=ellipse, label={json.dumps(name)}]; n{n.id} -> out{k};"
        for k, (n, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True))
    ]
    return "\n".join([*lines, "}"]) + "\n"


def graph_as_onnx(graph: Graph) -> bytes:
    """A graph as an ONNX model whose operators are the IR's, in a domain of their own."""
    names = {n.id: f"{n.name}#{n.id}" if not isinstance(n.op, Input) else n.name for n in graph.nodes()}
    nodes: list[Any] = []
    initializers: list[Any] = []
    for node in graph.nodes():
        if isinstance(node.op, Const):
            initializers.append(numpy_helper.from_array(node.constant, names[node.id]))
        elif not isinstance(node.op, Input):
            attributes = {name: _attribute(value) for name, value in asdict(node.op).items()}
            kept = {k: v for k, v in attributes.items() if v is not None and v != []}
            nodes.append(
                helper.make_node(
                    node.op.name.rpartition(".")[2],
                    [names[i.id] for i in node.inputs],
                    [names[node.id]],
                    name=node.name,
                    domain=DOMAIN,
                    **kept,
                )
            )
    inputs = [
        helper.make_tensor_value_info(names[n.id], ELEMENT_TYPES[n.type.dtype], n.shape) for n in graph.inputs
    ]
    outputs = [
        helper.make_tensor_value_info(
            names[n.id], ELEMENT_TYPES.get(n.type.dtype, TensorProto.FLOAT), n.shape
        )
        for n in graph.outputs
    ]
    infos = [
        helper.make_tensor_value_info(names[n.id], ELEMENT_TYPES[n.type.dtype], n.shape)
        for n in graph.nodes()
        if not isinstance(n.op, (Input, Const)) and n not in graph.outputs
    ]
    body = helper.make_graph(nodes, graph.name, inputs, outputs, initializers, value_info=infos)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(body, opset_imports=opsets, ir_version=8, producer_name="x1")
    return model.SerializeToString(deterministic=True)


def program_as_dot(program: Program) -> str:
    """The layers of a binary in order, with their instruction counts."""
    lines = ["digraph program {", "  node [shape=box, fontname=monospace];"]
    previous = ""
    for op in program.operators.ops:
        count = sum(r.count for r in program.debug.rows if r.op == op.id)
        lines.append(f"  op{op.id} [label={_label(op.name, f'{count} instructions')}];")
        if previous:
            lines.append(f"  {previous} -> op{op.id};")
        previous = f"op{op.id}"
    return "\n".join([*lines, "}"]) + "\n"


def _label(*lines: str) -> str:
    return json.dumps("\n".join(lines))


def _attribute(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return [*value] if isinstance(value, tuple) else value
