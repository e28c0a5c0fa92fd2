"""The text form of a graph: one node per line, exact floats, constants by digest.

    %2 = nn.conv2d %0, %1 {pads=[1,1,1,1], strides=[2,2]} : f32[1,8,4,4] name "y" loc(node "m" "c" "Conv")

With blobs, the scheme and the constants' bytes follow the graph, and the parser gives the same graph back.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, cast

from numpy.typing import NDArray

from compiler.ir.graph import Graph, Node
from compiler.ir.types import Quant, TensorType
from isa.support.locations import FileLoc, FusedLoc, Loc, NodeLoc
from isa.support.records import asdict


def print_graph(graph: Graph, *, blobs: bool = False) -> str:
    """The canonical text of a graph."""
    nodes = graph.nodes()
    number = {node.id: index for index, node in enumerate(nodes)}
    scales = f" scales {_quote(graph.provenance)}" if graph.provenance else ""
    lines = [f"graph {_quote(graph.name)} stage {graph.stage}{scales} {{"]
    lines += [f"  {_node(node, number)}" for node in nodes]
    results = (
        f"%{number[n.id]} as {_quote(name)}"
        for n, name in zip(graph.outputs, graph.output_names, strict=True)
    )
    lines += [f"  return {', '.join(results)}", "}"]
    if blobs:
        lines += [f"scheme {_quote(graph.scheme)}"] if graph.scheme else []
        constants = {digest(n.constant): n.constant for n in nodes if n.is_constant}
        lines += [
            f'blob {d} "{base64.b64encode(v.tobytes()).decode()}"' for d, v in sorted(constants.items())
        ]
    return "\n".join(lines) + "\n"


def digest(value: NDArray[Any]) -> str:
    """The name of a constant's bytes."""
    return f"sha256:{hashlib.sha256(value.tobytes()).hexdigest()}"


def print_value(value: object) -> str:
    """An attribute's value: exact, and readable by the parser."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return re.sub(r"\.?0+p", lambda m: ".0p" if m[0][0] == "." else "p", value.hex())
    if isinstance(value, str):
        return _quote(value)
    return f"[{','.join(print_value(v) for v in cast('Sequence[object]', value))}]"


def _node(node: Node, number: dict[int, int]) -> str:
    parts = [f"%{number[node.id]} = {node.op.name}"]
    if node.inputs:
        parts.append(", ".join(f"%{number[i.id]}" for i in node.inputs))
    fields = asdict(node.op)
    if fields:
        parts.append("{" + ", ".join(f"{name}={print_value(value)}" for name, value in fields.items()) + "}")
    parts.append(f": {', '.join(_type(t) for t in node.types)}")
    if node.is_constant:
        parts.append(f"blob({digest(node.constant)})")
    parts.append(f"name {_quote(node.name)}")
    parts += [f"view({_quote(v.name)},{print_value(v.steps)},{print_value(v.shape)})" for v in node.views]
    parts.append(f"loc({print_loc(node.loc)})")
    return " ".join(parts)


def _type(kind: TensorType) -> str:
    return str(kind) if kind.quant is None else f"{kind} {_quant(kind.quant)}"


def _quant(quant: Quant) -> str:
    return f"q({print_value(quant.scales)},{quant.zero_point},{print_value(quant.axis)})"


def print_loc(loc: Loc) -> str:
    """A location as the grammar has it."""
    match loc:
        case FileLoc(path, line, column, end):
            return f"file {_quote(path)} {line} {column} {end}"
        case NodeLoc(model, node, op_type):
            return f"node {_quote(model)} {_quote(node)} {_quote(op_type)}"
        case FusedLoc(parts):
            return f"fused [{', '.join(print_loc(p) for p in parts)}]"
        case _:
            return ""


def _quote(text: str) -> str:
    return json.dumps(text)
