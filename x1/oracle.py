"""The outside oracle: ONNX Runtime on the QOperator form of a quantized graph."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from compiler.export.qoperator import quantized_names, to_qoperator
from compiler.ir.graph import Graph
from isa.diagnostics import Diagnostic, UsageError

MODE: Final = "qoperator, int8 activations and weights, ORT_DISABLE_ALL"
CPU_FEATURES: Final = ("avx2", "fma", "avx_vnni", "avx512_vnni", "asimd", "asimddp")


class Oracle:
    """One quantized graph in ONNX Runtime, every source tensor given out.

    Raises:
        UsageError: ONNX Runtime is not installed.
    """

    def __init__(self, graph: Graph) -> None:
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
        runtime: Any = onnxruntime
        runtime.set_default_logger_severity(3)
        self.version: str = runtime.__version__
        self.names = quantized_names(graph)
        options = runtime.SessionOptions()
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = to_qoperator(graph, self.names)
        self._session = runtime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._outputs: list[str] = [o.name for o in self._session.get_outputs()]
        self._float_outputs = list(graph.output_names)

    def run(
        self, inputs: Mapping[str, NDArray[Any]]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """(every source tensor in quantized form, the graph outputs)."""
        given: dict[str, NDArray[Any]] = dict(
            zip(self._outputs, self._session.run(None, dict(inputs)), strict=True)
        )
        return (
            {name: given[quantized] for name, quantized in self.names.items()},
            {name: given[name] for name in self._float_outputs},
        )

    def describe(self) -> dict[str, object]:
        """Version, mode and processor, as `verify` reports them."""
        return {"version": self.version, "mode": MODE, "cpu": cpu_description()}


def cpu_description() -> str:
    """The machine, and which of the features that matter it has."""
    try:
        words = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").lower().split())
    except OSError:
        words = set[str]()
    features = [f for f in CPU_FEATURES if f in words]
    return " ".join([platform.machine(), *features])
