"""`x1 inspect`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import click

from compiler.errors import FitError
from compiler.frontend.load import load_model
from compiler.ir.graph import Graph
from compiler.ir.printer import print_graph
from isa.memory_map import Region
from isa.program import Abi, Interface, Program
from isa.support.diagnostics import Diagnostic, UsageError, one_line
from isa.support.records import to_builtins
from x1 import api
from x1.cli.options import parse_shapes, shape_option
from x1.cli.result import Result, envelope, json_option, reported
from x1.files import require_another, write_atomic
from x1.graph_export import graph_as_dot, graph_as_onnx, program_as_dot

FORMS: Final = ("text", "json", "dot", "onnx")
EPILOG: Final = """\b
Examples:
  x1 inspect net.onnx
  x1 inspect net.onnx --supported
  x1 inspect net.x1 --format json
  x1 inspect 05-fuse-activation.x1ir --format dot | dot -Tsvg -o graph.svg
"""


@click.command(epilog=EPILOG)
@click.argument("file")
@click.option(
    "--format", "form", type=click.Choice(FORMS), help="The form to print; text, or json with --json."
)
@click.option(
    "--supported", is_flag=True, help="Say whether x1 can compile the network, before any calibration."
)
@shape_option
@click.option("-o", "--output", metavar="FILE", help="The file to write instead of stdout.")
@json_option
@reported("inspect")
def command(
    file: str,
    form: str | None,
    supported: bool,
    shapes: tuple[str, ...],
    output: str | None,
    as_json: bool,
) -> Result:
    """Show FILE: a network (.onnx, .net), an IR dump (.x1ir) or a binary (.x1)."""
    require_another(output, file)
    form = form or ("json" if as_json else "text")
    network = Path(file).suffix in (".onnx", ".net", ".x1ir")
    if supported:
        if not network:
            raise UsageError(
                Diagnostic("usage.supported", "--supported is for networks", allowed=".onnx, .net, .x1ir")
            )
        return _shown(_supported(file, shapes), form, output)
    if not network:
        return _shown(_binary(api.Binary.load(file), form), form, output)
    graph = load_model(file, parse_shapes(shapes))
    if form == "onnx":
        return _as_onnx(graph, output, as_json=as_json)
    return _shown(_graph(graph, form), form, output)


def _supported(file: str, shapes: tuple[str, ...]) -> Result:
    """Compile with made-up ranges for the default machine: whatever is refused is refused here."""
    network = api.load_network(file, parse_shapes(shapes))
    nodes = len((network.float_graph or network.partial or network.integers()).nodes())
    fits = True
    try:
        api.compile(network if network.quantized is not None else api.with_made_up_ranges(network))
    except FitError:
        fits = False  # the operators are supported; another machine may be large enough
    text = f"{file}: supported, {nodes} nodes" + ("" if fits else "; it does not fit the default target")
    return Result({"supported": True, "fits": fits, "nodes": nodes}, text=text)


def _graph(graph: Graph, form: str) -> Result:
    match form:
        case "json":
            return Result(
                {
                    "kind": "graph",
                    "name": graph.name,
                    "stage": graph.stage,
                    "nodes": [
                        {
                            "name": n.name,
                            "op": n.op.name,
                            "inputs": [i.name for i in n.inputs],
                            "dtype": n.type.dtype.value,
                            "shape": list(n.shape),
                            "where": n.loc.describe(),
                        }
                        for n in graph.nodes()
                    ],
                }
            )
        case "dot":
            return Result({}, text=graph_as_dot(graph))
        case _:
            return Result({}, text=print_graph(graph))


def _as_onnx(graph: Graph, output: str | None, *, as_json: bool) -> Result:
    """ONNX is not text: it goes to a file, or as it is to stdout."""
    content = graph_as_onnx(graph)
    if output is None and as_json:
        raise UsageError(
            Diagnostic("usage.format", "ONNX is no text that JSON could hold", remedy="give a file with -o")
        )
    if output is None:
        sys.stdout.buffer.write(content)
        return Result()
    write_atomic(output, content)
    return Result({"output": output})


def _binary(binary: api.Binary, form: str) -> Result:
    program = binary.program
    match form:
        case "json":
            return Result(
                {
                    "kind": "binary",
                    **binary.summary(),
                    "abi": to_builtins(program.abi),
                    "ops": to_builtins(program.operators.ops),
                    "note": to_builtins(program.note),
                }
            )
        case "dot":
            return Result({}, text=program_as_dot(program))
        case "onnx":
            raise UsageError(
                Diagnostic("usage.format", "a binary has no ONNX form", allowed="text, json, dot")
            )
        case _:
            return Result({}, text=_summary(binary, program))


def _summary(binary: api.Binary, program: Program) -> str:
    lines = [
        f"X1 binary for {program.target.name}, {len(binary.data):,} bytes, sha256 {binary.sha256}",
        f"made by {program.note.compiler}"
        + (f", {program.note.calibration}" if program.note.calibration else ""),
    ]
    lines += [f"input  {t.name}: {t.dtype}{list(t.shape)}, {_on_device(t)}" for t in program.abi.inputs]
    lines += [
        f"output {t.name}: {t.dtype}{list(t.shape)}, {_whence(program.abi, t)}" for t in program.abi.outputs
    ]
    lines += [f"region {r.region} {r.section}: {r.bytes:,} bytes, {r.access}" for r in program.region_rows()]
    counts = {o.id: sum(r.count for r in program.debug.rows if r.op == o.id) for o in program.operators.ops}
    lines += [
        f"layer {o.id} {o.name}: {counts[o.id]} instructions, from {', '.join(o.source) or 'assembly'}"
        for o in program.operators.ops
    ]
    lines.append(f"{len(program.instructions)} instructions, {binary.macs:,} MACs")
    return "\n".join(map(one_line, lines))


def _on_device(tensor: Interface) -> str:
    codes = "" if tensor.scale is None else f", scale {tensor.scale:.7g}, zero point {tensor.zero_point}"
    return f"on the device {tensor.device_dtype}{list(tensor.device_shape)}{codes}"


def _whence(interface: Abi, output: Interface) -> str:
    """Where the host has an output from."""
    given = interface.returned_input(output)
    if given is not None:
        return f"the input {given.name} as it came"
    return "a constant" if output.region == Region.WEIGHTS else _on_device(output)


def _shown(outcome: Result, form: str, output: str | None) -> Result:
    """The outcome with its text: to stdout, or into a file; as JSON it is the envelope itself."""
    text = outcome.text
    if form == "json":
        text = json.dumps(envelope("inspect", outcome), indent=1) + "\n"
    if output is None:
        body = outcome.body if form in ("json", "text") else {**outcome.body, "text": text}
        return Result(body, outcome.exit_code, text)
    write_atomic(output, text)
    return Result({**outcome.body, "output": output}, outcome.exit_code)
