"""The importer judged: ONNX Runtime runs the float model's own file, and its tensors are those of the graph.

The graph is the one that the importer gives, before any pass. Both compute in float32, in orders of their
own. A node is given the operands that ONNX Runtime gives it, so that no small difference becomes a large one
in a rounding or a comparison, and a wrong node is named alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.frontend.onnx_reader import import_onnx
from compiler.ir.evaluate import Sample, walk
from compiler.ir.graph import Node
from compiler.ops.activation import Unary
from compiler.ops.functions import FUNCTIONS
from isa.support.locations import NodeLoc, leaves
from isa.support.records import Frozen, Struct, field
from x1.lab.onnx_runtime import Arrays, OracleFailure
from x1.lab.source_model import ToleratedModel, in_float32, load_model
from x1.model import Source

TOLERANCE: Final = 1e-4
"""Of the largest magnitude of a tensor. Right imports stay below 2e-5, wrong ones differ by half and more."""
APPROXIMATION: Final = 2.0**-20
"""The absolute error that ONNX Runtime's exp and erf may have, some units in the last place of 1."""
NUDGE: Final = 2.0**-20
NUDGES: Final = 4.0
"""A difference of up to so many times what a nudge of the operands does is rounding: sums that cancel."""


class ImportDifference(Frozen):
    """A tensor of the file that the imported graph does not compute."""

    name: str
    node: str
    op: str
    max_abs: float
    largest: float
    """The largest magnitude that ONNX Runtime gives."""

    def as_json(self) -> dict[str, object]:
        """The row of `x1 verify --json`; what is not finite is null."""
        numbers = {"max_abs": self.max_abs, "largest": self.largest}
        finite = {k: v if np.isfinite(v) else None for k, v in numbers.items()}
        return {"name": self.name, "node": self.node, "op": self.op, **finite}


class ImportCheck(Struct):
    """The float tensors of a file, compared with those of the imported graph."""

    tensors: int = 0
    """The float tensors that the file's nodes give."""
    compared: int = 0
    differences: list[ImportDifference] = field(default_factory=list[ImportDifference])
    """In order of computation."""
    failures: list[str] = field(default_factory=list[str])
    """What ONNX Runtime failed on."""

    def as_json(self) -> dict[str, object]:
        """The object `import` of `x1 verify --json`."""
        return {
            "tensors": self.tensors,
            "compared": self.compared,
            "differences": [d.as_json() for d in self.differences],
            "failures": self.failures,
        }


class ImportJudge:
    """Compares a float model's file with what the importer makes of it, sample by sample.

    Args:
        source: the file, and the shapes that its graph was imported with.

    Raises:
        UsageError: ONNX Runtime is not installed.
    """

    def __init__(self, source: Source) -> None:
        self._imported = import_onnx(source.model, source.shapes)
        model = in_float32(load_model(source.model))
        given = {o for node in model.graph.node for o in node.output if o}
        self._model = ToleratedModel(model, given)
        self._compared: set[str] = set()
        self._floats: set[str] = set()
        self._differences: dict[str, ImportDifference] = {}
        self._failure = ""

    def compare(self, sample: Sample) -> None:
        """Compare every float tensor of a sample."""
        if self._failure:
            return
        try:
            expected = self._model.run(sample)
        except OracleFailure as failure:
            self._failure = str(failure)
            return
        expected = {name: v for name, v in expected.items() if v.dtype == np.float32}
        self._floats |= expected.keys()
        held: dict[int, list[str]] = {}
        for name in expected.keys() & self._imported.tensors.keys():
            held.setdefault(self._imported.tensors[name].id, []).append(name)
        differing: Arrays = {}
        for node, value in self._evaluated(sample, expected):
            for name in held.get(node.id, ()):
                self._compared.add(name)
                if difference(expected[name], value, _own_error(node)) is not None:
                    differing[name] = value
        if differing.keys() - self._differences.keys():
            self._judge(sample, expected, differing)

    def _judge(self, sample: Sample, expected: Arrays, differing: Arrays) -> None:
        """Note the differences that are no rounding: those that a nudge of the operands does not make too."""
        nudged = {name: _nudged(value) for name, value in sample.items()}
        operands = {name: _nudged(value) for name, value in expected.items()}
        names = {self._imported.tensors[name].id: name for name in differing}
        for node, value in self._evaluated(nudged, operands):
            name = names.get(node.id)
            if name is None or name in self._differences:
                continue
            given = differing[name]
            found = difference(expected[name], given, _own_error(node))
            moved = NUDGES * np.abs(value.astype(np.float64) - given).max(initial=0)
            if found is not None and not found[0] <= moved:
                at = next((leaf for leaf in leaves(node.loc) if isinstance(leaf, NodeLoc)), None)
                where, op_type = (at.node, at.op_type) if at else (name, node.op.name)
                self._differences[name] = ImportDifference(name, where, op_type, *found)

    def _evaluated(self, sample: Sample, expected: Arrays) -> Iterator[tuple[Node, NDArray[Any]]]:
        """Every node of the imported graph on the operands that ONNX Runtime gives, as far as it does."""

        def seen_as(node: Node, value: NDArray[Any]) -> NDArray[Any]:
            right = expected.get(node.name)
            same = right is not None and (right.shape, right.dtype) == (value.shape, value.dtype)
            return right if right is not None and same else value

        return walk(self._imported.graph, sample, seen_as)

    def verdict(self) -> ImportCheck:
        """What the samples showed."""
        order = {name: i for i, name in enumerate(self._imported.tensors)}
        failures = [f"{node}: {why}" for node, why in self._model.failures.items()]
        return ImportCheck(
            tensors=len(self._floats),
            compared=len(self._compared),
            differences=sorted(self._differences.values(), key=lambda d: order[d.name]),
            failures=[*failures, *([self._failure] if self._failure else [])],
        )


def difference(
    expected: NDArray[Any], got: NDArray[Any], tolerated: float = 0.0
) -> tuple[float, float] | None:
    """The largest difference and the largest magnitude expected; None where they agree.

    Infinities and NaN agree with themselves alone.
    """
    if expected.shape != got.shape:
        return np.inf, float(np.abs(expected).max(initial=0))
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(got)) or not np.array_equal(
        expected[~finite], got[~finite], equal_nan=True
    ):
        return np.inf, np.inf
    wide = expected[finite].astype(np.float64)
    largest = float(np.abs(wide).max(initial=0))
    distance = float(np.abs(got[finite].astype(np.float64) - wide).max(initial=0))
    return (distance, largest) if distance > max(TOLERANCE * largest, tolerated) else None


def _own_error(node: Node) -> float:
    """How far ONNX Runtime itself may be off a function that it approximates."""
    approximated = isinstance(node.op, Unary) and FUNCTIONS[node.op.function].steps is None
    return APPROXIMATION if approximated else 0.0


def _nudged(value: NDArray[Any]) -> NDArray[Any]:
    """A real tensor, every element a millionth larger or smaller."""
    if value.dtype != np.float32:
        return value
    signs = np.random.default_rng(value.size).choice(np.array([-NUDGE, NUDGE]), value.shape)
    return (value * (1 + signs)).astype(np.float32)
