"""ONNX's backend tests through `x1.onnx_backend`: what becomes of each, and why what is refused may be.

A test is a model with inputs and expected outputs. What runs is measured against the expected outputs in
decibels; the reasons for refusals are read from the model, not from our messages.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

from compiler.frontend.onnx_functions import subgraphs
from isa.support.diagnostics import X1Error
from x1.onnx_backend import X1Backend

KINDS: Final = ("simple", "pytorch-converted", "pytorch-operator", "node")
LEAST_DECIBELS: Final = 30.0
REAL: Final = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
PARAMETERS: Final = frozenset({TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL})
"""Types of shapes, indices and flags."""
CONTROL_FLOW: Final = ("If", "Loop", "Scan", "SequenceMap")
OPERATORS: Final = Path(__file__).resolve().parents[2] / "docs" / "operators.md"
Array = NDArray[Any]


def backend_tests(kind: str) -> list[TestCase]:
    """The tests of a kind by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # their generators divide by zero and cast infinities
        return sorted(load_model_tests(kind=kind), key=lambda test: test.name)


def model_of(test: TestCase) -> onnx.ModelProto:
    """The model of a test."""
    return test.model or cast("Any", onnx).load(str(Path(test.model_dir or "") / "model.onnx"))


def data_sets(test: TestCase, model: onnx.ModelProto) -> Iterator[tuple[list[Any], list[Any]]]:
    """Inputs and expected outputs, as often as the test has them."""
    if test.data_sets is not None:
        for inputs, outputs in test.data_sets:
            yield [_array(v) for v in inputs], [_array(v) for v in outputs]
        return
    for folder in sorted(Path(test.model_dir or "").glob("test_data_set_*")):
        yield _read(folder, "input", model.graph.input), _read(folder, "output", model.graph.output)


def _array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def _read(folder: Path, what: str, values: Sequence[onnx.ValueInfoProto]) -> list[Any]:
    """The values of the files of a data set; None for what is no tensor."""
    found: list[Any] = []
    for index, value in enumerate(values):
        path = folder / f"{what}_{index}.pb"
        if not path.exists():
            continue
        tensor = TensorProto()
        if value.type.HasField("tensor_type"):
            tensor.ParseFromString(path.read_bytes())
        found.append(numpy_helper.to_array(tensor) if value.type.HasField("tensor_type") else None)
    return found


def outcome(test: TestCase) -> tuple[str, str]:
    """`runs`, `below` the least decibels, `refused` with an allowed reason, or `barred` without; and why."""
    model = model_of(test)
    try:
        worst = np.inf
        for inputs, outputs in data_sets(test, model):
            if any(v is None or isinstance(v, list) for v in inputs):
                return "refused", "dtype"
            for expected, got in zip(outputs, X1Backend.prepare(model).run(inputs), strict=True):
                worst = min(worst, decibels(np.asarray(expected), got))
    except X1Error as error:
        allowed = reason(model)
        return ("refused", allowed) if allowed else ("barred", error.diagnostics[0].message)
    return ("runs" if worst >= LEAST_DECIBELS else "below"), f"{worst:.1f} dB"


def decibels(expected: Array, got: Array) -> float:
    """Signal to noise; minus infinity where type, shape, NaN or infinities differ."""
    if (expected.dtype, expected.shape) != (got.dtype, got.shape):
        return -np.inf
    e, g = expected.astype(np.float64), got.astype(np.float64)
    finite = np.isfinite(e) & np.isfinite(g)
    if not np.array_equal(e[~finite], g[~finite], equal_nan=True):
        return -np.inf
    signal, noise = float((e[finite] ** 2).sum()), float(((e - g)[finite] ** 2).sum())
    if noise == 0:
        return np.inf
    return 10 * np.log10(signal / noise) if signal > 0 else -np.inf


def reason(model: onnx.ModelProto) -> str:
    """Why a model may be refused: control flow, an operator that is not ours, a type; empty for none."""
    nodes = list(_nodes(model.graph))
    if any(n.op_type in CONTROL_FLOW for n in nodes):
        return "control flow"
    own = {f.name for f in model.functions}
    if any(not is_listed(n) and n.op_type not in own for n in nodes):
        return "operator"
    return "" if _computes_on_reals(model.graph) else "dtype"


def is_listed(node: NodeProto) -> bool:
    """Whether docs/operators.md lists the operator."""
    return node.domain in ("", "ai.onnx", "com.microsoft") and node.op_type in _listed()


@cache
def _listed() -> frozenset[str]:
    names = re.findall(
        r"^\| (\w+)(?: \(com\.microsoft\))? \|", OPERATORS.read_text(encoding="utf-8"), re.MULTILINE
    )
    return frozenset(names) - {"operator"}


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def _computes_on_reals(graph: GraphProto) -> bool:
    """Whether the data of a model are real numbers: its first input, its outputs, and what casts give.

    Further inputs may be shapes, indices and flags.
    """
    given, *others = [_type(value) for value in graph.input] or [TensorProto.FLOAT]
    casts = [a.i for n in _nodes(graph) for a in n.attribute if a.name in ("to", "output_dtype") and a.i]
    return {given, *map(_type, graph.output), *casts} <= REAL and set(others) <= REAL | PARAMETERS


def _type(value: onnx.ValueInfoProto) -> int:
    return value.type.tensor_type.elem_type if value.type.HasField("tensor_type") else TensorProto.UNDEFINED
