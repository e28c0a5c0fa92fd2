"""A quantized network in every form that is written of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import onnx
from numpy.typing import NDArray

import x1
from compiler.frontend.ir_reader import parse_graph
from compiler.ir.printer import print_graph

FORMS: Final = ("qoperator", "qdq", "dump")


def saved(model: onnx.ModelProto, sample: dict[str, NDArray[Any]], form: str, folder: Path) -> Path:
    """The file of one of the forms, calibrated on a sample; a dump is read again and printed the same."""
    network = x1.quantize(model, [sample])
    if form != "dump":
        network.save_onnx(folder / "q.onnx", form)
        return folder / "q.onnx"
    text = print_graph(network.integers(), blobs=True)
    assert print_graph(parse_graph(text), blobs=True) == text
    (folder / "q.x1ir").write_text(text, encoding="utf-8")
    return folder / "q.x1ir"
