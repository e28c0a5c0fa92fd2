"""The outside oracle: ONNX Runtime on the QOperator form of a quantized graph, or on the user's own file.

A file of QOperator nodes runs with optimizations off. A QDQ file runs with all of them and int8 allowed:
then ONNX Runtime fuses it to operators on integers. Its tensors are those of the fused graph, which is
written out and run as it is; what that graph still computes in real numbers is not comparable.
"""

from __future__ import annotations

import platform
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from compiler.export.qoperator import quantized_names, to_qoperator
from compiler.frontend.onnx_file import OnnxModel
from compiler.ir.graph import Graph
from x1.lab.onnx_runtime import (
    ENABLE_ALL,
    ENABLE_EXTENDED,
    INT8_QDQ,
    Arrays,
    OracleFailure,
    OracleSession,
    onnx_runtime,
)
from x1.lab.source_model import ToleratedModel, load_model

CPU_FEATURES: Final = ("avx2", "fma", "avx_vnni", "avx512_vnni", "asimd", "asimddp")
ORDERED: Final = frozenset(
    {
        "AveragePool",
        "Conv",
        "ConvTranspose",
        "Gemm",
        "GlobalAveragePool",
        "LRN",
        "MatMul",
        "ReduceMean",
        "ReduceSum",
    }
    | {"InstanceNormalization", "LayerNormalization", "LogSoftmax", "Resize", "Softmax", "Upsample"}
)
"""Operators on real numbers whose result depends on the order of additions."""
MOVING: Final = frozenset(
    {"Flatten", "Identity", "MaxPool", "QuantizeLinear", "Relu", "Clip", "Reshape", "Squeeze", "Transpose"}
    | {"Unsqueeze"}
)
"""Operators on real numbers that give the same codes whether they are fused or not."""
X86: Final = ("x86_64", "AMD64")
"""Processors on which uint8 activations are exact with VNNI only, and additions with fma only."""


class Oracle(ABC):
    """A quantized network in ONNX Runtime, its tensors given out."""

    mode: str

    def __init__(self) -> None:
        self.version = onnx_runtime().version
        self.broken = ""
        """Why it gave nothing of some sample."""

    @abstractmethod
    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Every source tensor that ONNX Runtime has in quantized form.

        Raises:
            OracleFailure: ONNX Runtime refuses the model, or dies of it.
        """

    @property
    @abstractmethod
    def failures(self) -> Mapping[str, str]:
        """The nodes that ONNX Runtime refused or died of on what it was run on, and why."""

    @property
    def inexact(self) -> frozenset[str]:
        """Tensors for which ONNX Runtime computes in real numbers, and what follows from them."""
        return frozenset()

    def describe(self) -> dict[str, object]:
        """Version, mode and processor, as `verify` reports them, and what it failed on."""
        failures = [f"{node}: {why}" for node, why in self.failures.items()]
        failures += [self.broken] if self.broken else []
        return {
            "version": self.version,
            "mode": self.mode,
            "cpu": " ".join(cpu_features()),
            "failures": failures,
        }


class ExportOracle(Oracle):
    """A quantized graph of ours, written as QOperator nodes.

    Args:
        graph: of stage q.
        instead: why the user's own file is not run.

    Raises:
        UsageError: ONNX Runtime is not installed.
    """

    def __init__(self, graph: Graph, instead: str = "") -> None:
        super().__init__()
        self.mode = "qoperator written by x1, ORT_DISABLE_ALL"
        self._names = quantized_names(graph)
        self._model = ToleratedModel(to_qoperator(graph, self._names), self._names.values())
        self._instead = {"the model itself": instead} if instead else {}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Every source tensor that ONNX Runtime has in quantized form."""
        given = self._model.run(inputs)
        return {name: given[quantized] for name, quantized in self._names.items() if quantized in given}

    @property
    def failures(self) -> Mapping[str, str]:
        """The nodes that ONNX Runtime refused or died of."""
        return {**self._instead, **self._model.failures}


class SourceOracle(Oracle):
    """A quantized model of the user's, as it is.

    Args:
        given: the file, or its content.
        wanted: the tensors to give out.

    Raises:
        UsageError: ONNX Runtime is not installed.
        OracleFailure: it refuses the model, or dies of it.
    """

    def __init__(self, given: OnnxModel, wanted: Iterable[str]) -> None:
        super().__init__()
        model = load_model(given)
        self._wanted = frozenset(wanted)
        self._sums: frozenset[str] = frozenset()
        self._whole: OracleSession | None = None
        self._failed_whole: dict[str, str] = {}
        if is_qdq(model):
            self.mode = f"the model itself (qdq), ORT_ENABLE_ALL, {INT8_QDQ}=1"
            whole = model.SerializeToString()
            self._whole = OracleSession(whole, ENABLE_ALL)
            model = _fused(whole)
        else:
            self.mode = "the model itself (qoperator), ORT_DISABLE_ALL"
        self._outputs = [o.name for o in model.graph.output]
        self._sums = _inexact(model)
        floats = (i for i in model.graph.input if i.type.tensor_type.elem_type == onnx.TensorProto.FLOAT)
        self._opened = frozenset(i.name for i in floats) & self._wanted
        """Graph inputs that a scheme quantizes, and ONNX Runtime does not."""
        self._model = ToleratedModel(model, {*self._wanted, *self._outputs})

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Every source tensor that ONNX Runtime has in quantized form."""
        given = self._model.run(inputs)
        if self._whole is not None:
            self._compare_whole(self._whole, inputs, given)
        return {name: value for name, value in given.items() if value.dtype != np.float32}

    def _compare_whole(self, whole: OracleSession, inputs: Mapping[str, NDArray[Any]], given: Arrays) -> None:
        try:
            values = whole.run(inputs)
        except OracleFailure as failure:
            self._whole, self._failed_whole = None, {"the model itself": str(failure)}
            return
        for name in values.keys() - self._sums:  # sums of real numbers depend on the layout
            same = name not in given or values[name].tobytes() == given[name].tobytes()
            assert same, "the fused graph computes something else"

    @property
    def failures(self) -> Mapping[str, str]:
        """The nodes that ONNX Runtime refused or died of."""
        return {**self._failed_whole, **self._model.failures}

    @property
    def inexact(self) -> frozenset[str]:
        """Tensors for which ONNX Runtime computes in real numbers, and what follows from them."""
        return self._sums | (self._model.real & self._wanted) | self._opened


def is_qdq(model: onnx.ModelProto) -> bool:
    """Whether real operators stand between Dequantize and Quantize that ONNX Runtime is to fuse."""
    producer = {o: n for n in model.graph.node for o in n.output}
    return any(
        name in producer and producer[name].op_type == "DequantizeLinear" and node.op_type not in MOVING
        for node in model.graph.node
        for name in node.input
    )


@cache
def cpu_features() -> tuple[str, ...]:
    """The machine, and which of the features that matter it has."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").lower().split())
    except OSError:
        words = set[str]()
    return (platform.machine(), *(f for f in CPU_FEATURES if f in words))


def multiplies_uint8_exactly() -> bool:
    """Whether kernels of uint8 and int8 are exact here: without VNNI, x86 saturates sums of two products."""
    machine, *features = cpu_features()
    return machine not in X86 or any("vnni" in f for f in features)


def _fused(model: bytes) -> onnx.ModelProto:
    """The graph to which ONNX Runtime fuses a QDQ model, in the layout of the source."""
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "fused.onnx")
        OracleSession(model, ENABLE_EXTENDED, place)
        return load_model(Path(place))


def _inexact(model: onnx.ModelProto) -> frozenset[str]:
    """Tensors of a fused graph that come from sums of real numbers."""
    found: set[str] = set()
    for node in model.graph.node:  # in order of computation, as ONNX Runtime writes it
        sums = node.op_type.removeprefix("Fused") in ORDERED and not _is_nearest(node)
        if sums or any(name in found for name in node.input):
            found.update(node.output)
    return frozenset(found)


def _is_nearest(node: onnx.NodeProto) -> bool:
    """Whether a Resize only repeats elements."""
    mode = next((a.s for a in node.attribute if a.name == "mode"), b"nearest")
    return node.op_type in ("Resize", "Upsample") and mode == b"nearest"
