"""The outside oracle: ONNX Runtime on the QOperator form of a quantized graph, or on the user's own file.

A file of QOperator nodes runs with optimizations off. A QDQ file runs with all of them and int8 allowed:
then ONNX Runtime fuses it to operators on integers. Its tensors are those of the fused graph, which is
written out and run as it is; what that graph still computes in real numbers is not comparable.
"""

from __future__ import annotations

import platform
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import onnx
from numpy.typing import NDArray

from compiler.export.qoperator import quantized_names, to_qoperator
from compiler.ir.graph import Graph
from isa.support.diagnostics import Diagnostic, UsageError

CPU_FEATURES: Final = ("avx2", "fma", "avx_vnni", "avx512_vnni", "asimd", "asimddp")
INT8_QDQ: Final = "session.qdqisint8allowed"
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
Arrays = dict[str, NDArray[Any]]


class Oracle(ABC):
    """A quantized network in ONNX Runtime, its tensors given out."""

    version: str
    mode: str
    inexact: frozenset[str] = frozenset()
    """Tensors for which ONNX Runtime computes in real numbers, and what follows from them."""

    @abstractmethod
    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Every source tensor that ONNX Runtime has in quantized form."""

    def describe(self) -> dict[str, object]:
        """Version, mode and processor, as `verify` reports them."""
        return {"version": self.version, "mode": self.mode, "cpu": " ".join(cpu_features())}


class ExportOracle(Oracle):
    """A quantized graph of ours, written as QOperator nodes.

    Raises:
        UsageError: ONNX Runtime is not installed.
    """

    def __init__(self, graph: Graph) -> None:
        runtime = _onnxruntime()
        self.version = runtime.__version__
        self.mode = "qoperator written by x1, ORT_DISABLE_ALL"
        self._names = quantized_names(graph)
        model = to_qoperator(graph, self._names)
        self._session = _Session(runtime, model.SerializeToString(), "ORT_DISABLE_ALL")

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Every source tensor that ONNX Runtime has in quantized form."""
        given = self._session.run(inputs)
        return {name: given[quantized] for name, quantized in self._names.items()}


class SourceOracle(Oracle):
    """A quantized model of the user's, as it is.

    Args:
        path: the file.
        wanted: the tensors to give out.

    Raises:
        UsageError: ONNX Runtime is not installed, or refuses the model.
    """

    def __init__(self, path: Path, wanted: Iterable[str]) -> None:
        runtime = _onnxruntime()
        self.version = runtime.__version__
        model = _load(path)
        whole = model.SerializeToString()
        try:
            self._whole: _Session | None = None
            if is_qdq(model):
                self.mode = f"the model itself (qdq), ORT_ENABLE_ALL, {INT8_QDQ}=1"
                self._whole = _Session(runtime, whole, "ORT_ENABLE_ALL")
                model = _fused(runtime, whole)
                self.inexact = _inexact(model)
            else:
                self.mode = "the model itself (qoperator), ORT_DISABLE_ALL"
            wanted = set(wanted)
            computed = {o for node in model.graph.node for o in node.output}
            further = wanted & computed - {o.name for o in model.graph.output}
            model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(further))
            self._session = _Session(runtime, model.SerializeToString(), "ORT_DISABLE_ALL")
            self.inexact |= self._session.real & wanted
        except runtime.OrtError as error:
            raise UsageError(
                Diagnostic("oracle.model", f"ONNX Runtime refuses the model: {str(error).splitlines()[0]}")
            ) from None

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Every source tensor that ONNX Runtime has in quantized form."""
        given = self._session.run(inputs)
        if self._whole is not None:
            for name, value in self._whole.run(inputs).items():
                assert value.tobytes() == given[name].tobytes(), "the fused graph computes something else"
        return {name: value for name, value in given.items() if value.dtype != np.float32}


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


class _Session:
    """A session on one thread, its outputs by name."""

    def __init__(self, runtime: Any, model: bytes, level: str, dump: str = "") -> None:
        options = runtime.SessionOptions()
        options.graph_optimization_level = getattr(runtime.GraphOptimizationLevel, level)
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if level != "ORT_DISABLE_ALL":
            options.add_session_config_entry(INT8_QDQ, "1")
        if dump:
            options.optimized_model_filepath = dump
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        outputs = self._session.get_outputs()
        self._names: list[str] = [o.name for o in outputs]
        self.real = frozenset(o.name for o in outputs if o.type == "tensor(float)")
        """The outputs that are real numbers."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        values: Sequence[NDArray[Any]] = self._session.run(None, dict(inputs))
        return dict(zip(self._names, values, strict=True))


class _Runtime:
    """onnxruntime, and the base of its errors."""

    def __init__(self, module: Any) -> None:
        self.__version__: str = module.__version__
        self.SessionOptions = module.SessionOptions
        self.GraphOptimizationLevel = module.GraphOptimizationLevel
        self.InferenceSession = module.InferenceSession
        state = module.capi.onnxruntime_pybind11_state
        self.OrtError: tuple[type[Exception], ...] = (
            state.Fail,
            state.InvalidArgument,
            state.InvalidGraph,
            state.NotImplemented,
            state.RuntimeException,
        )


def _onnxruntime() -> _Runtime:
    try:
        import onnxruntime  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise UsageError(
            Diagnostic(
                "oracle.missing",
                "ONNX Runtime is not installed",
                remedy="pip install 'x1-compiler[oracle]'",
            )
        ) from None
    module: Any = onnxruntime
    module.set_default_logger_severity(4)
    return _Runtime(module)


def _load(path: str | Path) -> onnx.ModelProto:
    return cast("Any", onnx).load(path)


def _fused(runtime: _Runtime, model: bytes) -> onnx.ModelProto:
    """The graph to which ONNX Runtime fuses a QDQ model, in the layout of the source."""
    with tempfile.TemporaryDirectory() as folder:
        place = str(Path(folder) / "fused.onnx")
        _Session(runtime, model, "ORT_ENABLE_EXTENDED", place)
        return _load(place)


def _inexact(model: onnx.ModelProto) -> frozenset[str]:
    """Tensors of a fused graph that come from sums of real numbers."""
    found: set[str] = set()
    for node in model.graph.node:  # in order of computation, as ONNX Runtime writes it
        sums = node.op_type.removeprefix("Fused") in ORDERED
        if sums or any(name in found for name in node.input):
            found.update(node.output)
    return frozenset(found)
