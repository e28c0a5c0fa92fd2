"""Verify: float network, ONNX Runtime, evaluator and binary, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from compiler.ir.evaluate import Sample, evaluate, source_tensors
from compiler.ir.graph import Graph, Node
from compiler.ir.types import DType
from compiler.ops.activation import QTable
from compiler.ops.quantize_linear import is_given
from isa import arithmetic
from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.locations import NodeLoc, leaves
from isa.support.records import Struct, field
from isa.support.tables import html_table
from isa.target import Target
from x1 import api, data
from x1.api import Binary, Model, Quantization
from x1.binary import as_binary
from x1.lab.evaluation import quantized_as
from x1.lab.import_check import ImportCheck, ImportJudge
from x1.lab.onnx_runtime import OracleFailure
from x1.lab.oracle import X86, ExportOracle, Oracle, SourceOracle, cpu_features, multiplies_uint8_exactly
from x1.model import Loadable, Shapes, as_model
from x1.session import Session

SATURATING_SOFTMAX = (1, 32)
"""ONNX Runtime before this version wraps a probability of 1 in int8 QLinearSoftmax."""


class Noise(Struct):
    """Signal and quantization noise of a tensor over all samples."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, real: NDArray[Any], got: NDArray[Any]) -> None:
        """Count a sample."""
        finite = np.isfinite(real)  # padding that a maximum never takes is infinite
        r, g = real[finite].astype(np.float64), got[finite].astype(np.float64)
        self.signal += float(r @ r)
        self.noise += float((r - g) @ (r - g))

    @property
    def decibels(self) -> float | None:
        """Signal to noise; infinite without noise, None without signal."""
        if self.signal == 0:
            return None
        if not math.isfinite(self.noise):
            return -math.inf
        return 10 * math.log10(self.signal / self.noise) if self.noise > 0 else math.inf


class TensorComparison(Struct):
    """One tensor over all samples: the binary against ONNX Runtime, the evaluator and the float network."""

    name: str
    node: str
    op: str
    comparable: bool
    elements: int = 0
    mismatches: int = 0
    """Elements in which the binary differs from ONNX Runtime."""
    evaluator_mismatches: int = 0
    """Elements in which the binary differs from the evaluator."""
    max_lsb: int = 0
    _noise: Noise = field(default_factory=Noise)
    _dot: float = 0.0
    _power: float = 0.0

    def add(self, got: NDArray[Any], evaluated: NDArray[Any], expected: NDArray[Any] | None) -> None:
        """Count what differs from the evaluator, and from the oracle where it has the tensor."""
        self.elements += int(got.size)
        self.evaluator_mismatches += int(np.count_nonzero(got != evaluated))
        if expected is None:
            self.comparable = False
            return
        difference = np.abs(got.astype(np.int64) - expected.astype(np.int64))
        self.mismatches += int(np.count_nonzero(difference))
        self.max_lsb = max(self.max_lsb, int(difference.max(initial=0)))

    def add_given(self, got: NDArray[Any], given: NDArray[Any]) -> None:
        """Count what differs from an input, or from a constant, which the import check judges."""
        self.elements += int(given.size)
        same = got.shape == given.shape and got.tobytes() == given.tobytes()
        self.mismatches += 0 if same else max(int(np.count_nonzero(got != given)), 1)

    @property
    def differs(self) -> bool:
        """Whether it shows that something is wrong."""
        return bool(self.evaluator_mismatches or (self.comparable and self.mismatches))

    def add_real(self, real: NDArray[Any], got: NDArray[Any]) -> None:
        """Count the noise of quantization."""
        finite = np.isfinite(real)
        r, g = real[finite].astype(np.float64), got[finite].astype(np.float64)
        self._noise.add(real, got)
        self._dot += float(r @ g)
        self._power += float(g @ g)

    @property
    def sqnr_db(self) -> float | None:
        """Signal to quantization noise in dB; infinite without noise, None where nothing was compared."""
        return self._noise.decibels

    def as_json(self) -> dict[str, object]:
        """The row of `x1 verify --json`."""
        sqnr = self.sqnr_db
        size = math.sqrt(self._noise.signal * self._power)
        return {
            "name": self.name,
            "node": self.node,
            "op": self.op,
            "elements": self.elements,
            "mismatches": self.mismatches,
            "evaluator_mismatches": self.evaluator_mismatches,
            "max_lsb": self.max_lsb,
            "sqnr_db": None if sqnr is None or math.isinf(sqnr) else round(sqnr, 2),
            "cosine": round(self._dot / size, 6) if size > 0 else None,
            "comparable": self.comparable,
        }


class Verification(Struct):
    """The comparison of a network's tensors over some samples."""

    oracle: dict[str, object]
    samples: int
    tensors: list[TensorComparison] = field(default_factory=list[TensorComparison])
    imported: ImportCheck | None = None
    """The float tensors of the file; None without one, and of a quantized one, whose codes are compared."""

    def __repr__(self) -> str:
        verdict = "" if self.succeeded else f", first in {self.first_divergence!r}"
        return (
            f"<Verification: {self.mismatches} mismatches in {len(self.tensors)} tensors "
            f"of {self.samples} samples{verdict}>"
        )

    def _repr_html_(self) -> str:
        """The table of tensors, for notebooks."""
        shown = ("name", "node", "op", "elements", "mismatches", "max_lsb", "sqnr_db", "comparable")
        rows = [[tensor.as_json()[name] for name in shown] for tensor in self.tensors]
        return html_table(repr(self).strip("<>"), shown, rows)

    @property
    def mismatches(self) -> int:
        """Elements of comparable tensors in which the binary differs from ONNX Runtime."""
        return sum(t.mismatches for t in self.tensors if t.comparable)

    @property
    def evaluator_mismatches(self) -> int:
        """Elements in which the binary differs from the evaluator."""
        return sum(t.evaluator_mismatches for t in self.tensors)

    @property
    def succeeded(self) -> bool:
        """Whether nothing differs: no code of the binary, and no float tensor of the import."""
        return not any(t.differs for t in self.tensors) and not (self.imported and self.imported.differences)

    @property
    def first_divergence(self) -> str | None:
        """The first tensor, in order of computation, that differs; those of the import come first."""
        if self.imported and self.imported.differences:
            return self.imported.differences[0].name
        return next((t.name for t in self.tensors if t.differs), None)

    def as_json(self) -> dict[str, object]:
        """The body of `x1 verify --json`."""
        return {
            "oracle": self.oracle,
            "samples": self.samples,
            "import": None if self.imported is None else self.imported.as_json(),
            "tensors": [t.as_json() for t in self.tensors],
            "first_divergence": self.first_divergence,
            "mismatches": self.mismatches,
            "evaluator_mismatches": self.evaluator_mismatches,
        }


def verify(
    model: Loadable | Model,
    binary: str | Path | bytes | Binary | None = None,
    samples: data.Samples | None = None,
    *,
    calibrate: data.Samples | None = None,
    inputs: data.Samples | None = None,
    target: str | Path | Target = "edge32",
    overrides: Sequence[str] = (),
    shapes: Shapes | None = None,
    **options: Unpack[Quantization],
) -> Verification:
    """Compare every tensor of every sample; the tensors come from the binary as it is shipped.

    Of a float ONNX file, ONNX Runtime also runs the file itself, which judges the importer.

    Args:
        model: a file, an ONNX model in memory, or a network that `load_network` or `quantize` gave.
        binary: what was compiled from it; it is compiled for `target` where there is none.
        samples: what it is run on: a file, an array or arrays by name, axis 0 counting samples, or an
            iterable of these; `inputs` is another name for it.
        calibrate: how a float network is quantized, with `options`: see `quantize`; without them it is as
            `binary` says.
        inputs: see samples.
        target: a machine, changed by `overrides`.
        overrides: `section.key=value`.
        shapes: fixed shapes for inputs with open dimensions.
        options: see `Quantization`.

    Raises:
        UsageError: options that do not go together, ONNX Runtime is not installed, or there is no sample.
        CompileError: the network is not valid or not supported.
    """
    api.require_known(options, ("binary", "samples", "calibrate", "inputs", "target", "overrides", "shapes"))
    network = as_model(model, shapes)
    if calibrate is not None or options.get("scheme") is not None:
        network = api.quantize(network, calibrate, **options)
    elif network.quantized is None and network.float_graph is not None and binary is not None:
        network = quantized_as(network, as_binary(binary).program)
    network.integers()
    made = as_binary(api.compile(network, target, overrides=overrides).data if binary is None else binary)
    given = samples if samples is not None else inputs
    if given is None:
        raise UsageError(
            Diagnostic("verify.empty", "there are no samples to verify on", remedy="give inputs=")
        )
    return compare(network, made, data.all_samples(given, network.input_types))


def compare(model: Model, binary: Binary, samples: Iterable[Sample]) -> Verification:
    """The comparison of a quantized network, its binary and ONNX Runtime on some samples: see `verify`.

    Raises:
        UsageError: ONNX Runtime is not installed, or there is no sample.
    """
    graph = model.source_form()
    oracle = _oracle_for(model, graph)
    judge = None if model.source is None or model.is_prequantized else ImportJudge(model.source)
    session = Session(binary)
    rows = {v.name: _row(v.name, node) for node in graph.nodes() for v in node.views}
    quants = {v.name: node.quant for node in graph.nodes() if node.type.quant for v in node.views}
    given = {name: n for name, n in zip(graph.output_names, graph.outputs, strict=True) if is_given(n)}
    returned = {name: _row(name, node) for name, node in given.items()}
    count = 0
    for sample in samples:
        count += 1
        got = session.execute(sample, tensors=True)  # first: it checks names, dtypes and shapes
        assert not got.incomplete, f"the binary does not show the whole of {got.incomplete}"
        if judge is not None:
            judge.compare(sample)
        expected = expected_of(oracle, sample)
        evaluated = source_tensors(graph, evaluate(graph, sample))
        real = real_tensors(model.float_graph, sample)
        for name, node in given.items():
            value = node.constant if node.is_constant else np.asarray(sample[node.name])
            returned[name].add_given(got.outputs[name], value)
        for name, row in rows.items():
            row.add(got.tensors[name], evaluated[name], expected.get(name))
            if name in real and name in quants:
                quant = quants[name]
                row.add_real(
                    real[name], arithmetic.dequantize(got.tensors[name], quant.scale, quant.zero_point)
                )
    if count == 0:
        raise UsageError(Diagnostic("verify.empty", "there are no samples to verify on"))
    promised = _promised(graph, oracle)
    for node in graph.nodes():
        for view in node.views:
            rows[view.name].comparable &= node.id in promised
    imported = None if judge is None else judge.verdict()
    return Verification(oracle.describe(), count, [*rows.values(), *returned.values()], imported)


def _oracle_for(model: Model, graph: Graph) -> Oracle:
    """The user's own file where it is quantized and ONNX Runtime can load it, else the file that we write."""
    if model.source is None or not model.is_prequantized:
        return ExportOracle(graph)
    try:
        return SourceOracle(model.source.model, [v.name for node in graph.nodes() for v in node.views])
    except OracleFailure as failure:
        return ExportOracle(graph, instead=str(failure))


def expected_of(oracle: Oracle, sample: Sample) -> Mapping[str, NDArray[Any]]:
    """What the oracle gives; nothing where it fails."""
    try:
        return oracle.run(sample)
    except OracleFailure as failure:
        oracle.broken = str(failure)
        return {}


def _row(name: str, node: Node) -> TensorComparison:
    nodes = [leaf for leaf in leaves(node.loc) if isinstance(leaf, NodeLoc)]
    label = " + ".join(n.node for n in nodes) or node.name
    return TensorComparison(name, label, node.op.name, comparable=True)


def _promised(graph: Graph, oracle: Oracle) -> set[int]:
    """The nodes whose bits this oracle promises; what follows from others is not comparable either."""
    found: set[int] = set()
    for node in graph.nodes():
        inexact = any(v.name in oracle.inexact for v in node.views)
        if not inexact and all(i.id in found for i in node.inputs) and _computed_exactly(node, oracle):
            found.add(node.id)
    return found


def _computed_exactly(node: Node, oracle: Oracle) -> bool:
    """Whether ONNX Runtime of this version computes an operation to the bit on this processor."""
    numbers = tuple(int(p) for p in oracle.version.split(".")[:2] if p.isdigit())
    if node.op.name == "q.softmax":
        return numbers >= SATURATING_SOFTMAX or node.type.dtype is not DType.I8
    if isinstance(node.op, QTable) and node.op.is_near_a_tie(node.inputs[0].quant, node.quant):
        return False
    machine, *features = cpu_features()
    product = node.op.name in ("q.conv2d", "q.gemm") and node.inputs[0].type.dtype is DType.U8
    if product:
        return multiplies_uint8_exactly()
    if machine in X86 and node.op.name == "q.add":
        return {"avx2", "fma"} <= set(features)
    return True


def real_tensors(graph: Graph | None, sample: Sample) -> dict[str, NDArray[Any]]:
    """Every tensor of a float graph, by name; none where there is no graph."""
    if graph is None:
        return {}
    values = evaluate(graph, sample)
    nodes = [n for n in graph.nodes() if n.type.dtype is DType.F32 and not n.is_constant]
    named = {v.name: v.of(values[n.id]) for n in nodes for v in n.views}
    return {**named, **{n.name: values[n.id] for n in nodes}}
