"""A model file to a graph, by its kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from compiler.frontend.onnx_reader import read_onnx
from compiler.frontend.texts import read_text
from compiler.ir.graph import Graph
from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.locations import FileLoc
from isa.support.paths import require_file

Weights = Callable[[str, tuple[int, ...]], Any]
"""(name of a weight, its shape) to the weight."""
KINDS: Final = (".onnx", ".net", ".x1ir")
MAX_DUMP: Final = 1 << 31


def load_model(
    model: str | Path | bytes,
    shapes: Mapping[str, Sequence[int]] | None = None,
    fresh: Weights | None = None,
) -> Graph:
    """The graph of an .onnx, .net or .x1ir file, or of an ONNX model in memory.

    `fresh` gives the weights of a .net in the place of its file.

    Raises:
        UsageError: no such file, or a file of no known kind.
        CompileError: the file is not a valid model.
    """
    if isinstance(model, bytes):
        return read_onnx(model, shapes)
    path, place = model, Path(model)
    require_file(place)
    match place.suffix:
        case ".onnx":
            return read_onnx(place, shapes)
        case ".net" | ".x1ir" if shapes:
            raise UsageError(
                Diagnostic(
                    "usage.shape", "--shape is for ONNX models with open dimensions", FileLoc(str(path))
                )
            )
        case ".net":
            from compiler.frontend.dsl_reader import read_dsl  # noqa: PLC0415  (ONNX needs no parser)

            return read_dsl(place, fresh)
        case ".x1ir":
            from compiler.frontend.ir_reader import parse_graph  # noqa: PLC0415

            return parse_graph(read_text(place, MAX_DUMP, "ir"), str(place))
        case _:
            remedy = "x1.keras.load reads the binaries of training" if place.suffix == ".x1" else ""
            text = f"'{path}' is no kind of model"
            raise UsageError(Diagnostic("file.kind", text, allowed=", ".join(KINDS), remedy=remedy))
