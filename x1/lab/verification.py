"""Verify: float network, ONNX Runtime, evaluator and binary, tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.ir.evaluate import Sample, evaluate, source_tensors
from compiler.ir.graph import Graph, Node
from compiler.ir.types import DType
from compiler.ops.activation import QTable
from isa import arithmetic
from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.locations import NodeLoc, leaves
from isa.support.records import Struct, field
from x1.api import Binary, Model
from x1.lab.oracle import ExportOracle, Oracle, SourceOracle, cpu_features
from x1.session import Session

SATURATING_SOFTMAX = (1, 32)
"""ONNX Runtime before this version wraps a probability of 1 in int8 QLinearSoftmax."""
X86 = ("x86_64", "AMD64")
"""Processors on which uint8 activations are exact with VNNI only, and additions with fma only."""


class Noise(Struct):
    """Signal and quantization noise of a tensor over all samples."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, real: NDArray[Any], got: NDArray[Any]) -> None:
        """Count a sample."""
        r, g = real.astype(np.float64).ravel(), got.astype(np.float64).ravel()
        self.signal += float(r @ r)
        self.noise += float((r - g) @ (r - g))

    @property
    def decibels(self) -> float | None:
        """Signal to noise; infinite without noise, None without signal."""
        if self.signal == 0:
            return None
        return 10 * math.log10(self.signal / self.noise) if self.noise > 0 else math.inf


class TensorComparison(Struct):
    """One tensor over all samples: the binary against ONNX Runtime, and against the float network."""

    name: str
    node: str
    op: str
    comparable: bool
    elements: int = 0
    mismatches: int = 0
    evaluator_mismatches: int = 0
    max_lsb: int = 0
    _noise: Noise = field(default_factory=Noise)
    _dot: float = 0.0
    _power: float = 0.0

    def add(self, expected: NDArray[Any], got: NDArray[Any], evaluated: NDArray[Any]) -> None:
        """Count what differs from the oracle."""
        difference = np.abs(got.astype(np.int64) - expected.astype(np.int64))
        self.elements += int(got.size)
        self.mismatches += int(np.count_nonzero(difference))
        self.evaluator_mismatches += int(np.count_nonzero(evaluated != expected))
        self.max_lsb = max(self.max_lsb, int(difference.max(initial=0)))

    def add_real(self, real: NDArray[Any], got: NDArray[Any]) -> None:
        """Count the noise of quantization."""
        r, g = real.astype(np.float64).ravel(), got.astype(np.float64).ravel()
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

    @property
    def mismatches(self) -> int:
        """Elements of comparable tensors in which the binary or the evaluator differs."""
        return sum(t.mismatches + t.evaluator_mismatches for t in self.tensors if t.comparable)

    @property
    def first_divergence(self) -> str | None:
        """The first tensor, in order of computation, that differs."""
        return next(
            (t.name for t in self.tensors if t.comparable and t.mismatches + t.evaluator_mismatches), None
        )

    def as_json(self) -> dict[str, object]:
        """The body of `x1 verify --json`."""
        return {
            "oracle": self.oracle,
            "samples": self.samples,
            "tensors": [t.as_json() for t in self.tensors],
            "first_divergence": self.first_divergence,
            "mismatches": self.mismatches,
        }


def verify(model: Model, binary: Binary, samples: Iterable[Sample]) -> Verification:
    """Compare every tensor of every sample; the tensors come from the binary as it is shipped.

    Raises:
        UsageError: ONNX Runtime is not installed, or there is no sample.
    """
    graph = model.source_form()
    names = [v.name for node in graph.nodes() for v in node.views]
    oracle = ExportOracle(graph) if model.source is None else SourceOracle(model.source.path, names)
    session = Session(binary)
    promised = _promised(graph, oracle)
    rows = {v.name: _row(v.name, node, node.id in promised) for node in graph.nodes() for v in node.views}
    result = Verification(oracle.describe(), 0, list(rows.values()))
    quants = {v.name: node.quant for node in graph.nodes() if node.type.quant for v in node.views}
    for sample in samples:
        result.samples += 1
        got = session.execute(sample, tensors=True)  # first: it checks names, dtypes and shapes
        expected = oracle.run(sample)
        evaluated = source_tensors(graph, evaluate(graph, sample))
        real = real_tensors(model.float_graph, sample)
        assert not got.incomplete, f"the binary does not show the whole of {got.incomplete}"
        for name, row in rows.items():
            if name not in expected:
                row.comparable = False
                continue
            row.add(expected[name], got.tensors[name], evaluated[name])
            if name in real and name in quants:
                quant = quants[name]
                row.add_real(
                    real[name], arithmetic.dequantize(got.tensors[name], quant.scale, quant.zero_point)
                )
    if result.samples == 0:
        raise UsageError(Diagnostic("verify.empty", "there are no samples to verify on"))
    return result


def _row(name: str, node: Node, comparable: bool) -> TensorComparison:
    nodes = [leaf for leaf in leaves(node.loc) if isinstance(leaf, NodeLoc)]
    label = " + ".join(n.node for n in nodes) or node.name
    return TensorComparison(name, label, node.op.name, comparable)


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
    if machine in X86 and product:
        return any("vnni" in f for f in features)
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
