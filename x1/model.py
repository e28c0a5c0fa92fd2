"""Networks as the API hands them around: read, simplified, and, once quantized, on integers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from onnx import ModelProto

from compiler import driver
from compiler.errors import CompileError
from compiler.export.qdq import to_qdq
from compiler.export.qoperator import to_qoperator
from compiler.frontend.load import load_model
from compiler.frontend.onnx_file import IN_MEMORY, OnnxModel
from compiler.ir.graph import Graph
from compiler.ir.stage import Stage
from compiler.ir.types import TensorType
from compiler.passes.base import PassLog
from compiler.quantize.scheme import Scheme
from compiler.rules.quantizing import NO_SCALE
from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.locations import FileLoc
from isa.support.records import Frozen, Struct
from x1.files import write_atomic

ONNX_FORMS: Final = ("qoperator", "qdq")
ONNX_SUFFIX: Final = ".onnx"
Loadable = str | Path | bytes | ModelProto
"""A file, or an ONNX model in memory."""
Shapes = Mapping[str, Sequence[int]]
"""Fixed shapes for inputs with open dimensions."""


class Source(Frozen):
    """The ONNX model of a network, a file or its content, and the shapes that the user has given."""

    model: OnnxModel
    shapes: Shapes


class Model(Struct):
    """A network: as it was read and simplified, and, once quantized, on integers."""

    name: str
    float_graph: Graph | None
    quantized: Graph | None = None
    scheme: Scheme | None = None
    """What a float network was quantized by."""
    source: Source | None = None
    """The ONNX model: what ONNX Runtime executes to judge us; a .net and a dump have none."""
    partial: Graph | None = None
    """A prequantized network that leaves some results open."""
    refusal: CompileError | None = None
    """What it lacks."""
    remarks: tuple[Diagnostic, ...] = ()
    """What was left out of the file, as warnings."""

    def __repr__(self) -> str:
        forms = {"float32": self.float_graph, "int8": self.quantized or self.partial}
        form = " and ".join(name for name, graph in forms.items() if graph is not None)
        given = ", ".join(f"{name} {kind}" for name, kind in self.input_types.items())
        return f"<Model {self.name!r}: {form}, inputs {given or 'none'}>"

    @property
    def is_prequantized(self) -> bool:
        """Whether its file is quantized already."""
        return self.float_graph is None and self.source is not None

    @property
    def calibration(self) -> str:
        """How the scales came to be."""
        return "" if self.quantized is None else self.quantized.provenance

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the graph inputs."""
        return {name: kind.shape for name, kind in self.input_types.items()}

    @property
    def input_types(self) -> dict[str, TensorType]:
        """Element types and shapes of the graph inputs."""
        graph = self.float_graph or self.quantized or self.partial
        assert graph is not None
        return {n.name: n.type for n in graph.inputs}

    def save_onnx(self, path: str | Path, format: str = "qoperator") -> None:  # noqa: A002
        """Write the quantized network as ONNX, of operators on integers or in QDQ form.

        Raises:
            UsageError: a format that is not known, or a network that is not quantized.
        """
        if format not in ONNX_FORMS:
            message = f"the format '{format}' is not supported"
            raise UsageError(not_among("usage.format", message, format, ONNX_FORMS))
        write = {"qoperator": to_qoperator, "qdq": to_qdq}[format]
        write_atomic(path, write(self.source_form()).SerializeToString(deterministic=True))

    def source_form(self) -> Graph:
        """The quantized graph in the layout of its source, as it can be written to ONNX.

        Raises:
            UsageError: the network is not quantized, or is in the device's layout already.
        """
        graph = self.integers()
        if graph.stage is not Stage.Q:
            raise UsageError(
                Diagnostic(
                    "usage.stage",
                    f"'{self.name}' is a graph of stage {graph.stage}, which has no ONNX form",
                    allowed="stage q",
                    remedy="dump it earlier: --stop-after quantize",
                )
            )
        return graph

    def integers(self) -> Graph:
        """The quantized graph, which must be there.

        Raises:
            UsageError: the network is not quantized.
        """
        if self.refusal is not None:
            raise self.refusal
        if self.quantized is None:
            raise self.not_quantized()
        return self.quantized

    def not_quantized(self) -> UsageError:
        """What a float network is refused with where integers are needed."""
        return UsageError(
            Diagnostic(
                "usage.calibrate",
                f"the network '{self.name}' is float32 and is not quantized yet",
                remedy="give --calibrate D.npz with samples as the network takes them, or "
                "--calibrate random:4 to look at cycles only",
            )
        )


def load_network(model: Loadable, shapes: Shapes | None = None, log: PassLog | None = None) -> Model:
    """A network from an .onnx, .net or .x1ir file, or from an ONNX model in memory, simplified.

    Raises:
        UsageError: no such file, or of no known kind.
        CompileError: the file is not a valid or not a supported model.
        TypeError: what is given is no model.
    """
    given = _loadable(model)
    graph = load_model(given, shapes)
    is_onnx = isinstance(given, bytes) or given.suffix == ONNX_SUFFIX
    source = Source(given, dict(shapes or {})) if is_onnx else None
    place = IN_MEMORY if isinstance(given, bytes) else str(given)
    remarks = tuple(_left_out(name, place) for name in graph.unused_inputs)
    match graph.stage:
        case Stage.NN:
            return Model(graph.name, driver.prepare(graph, log), source=source, remarks=remarks)
        case Stage.QDQ:
            return _prequantized(driver.prepare_prequantized(graph, log), source, log, remarks)
        case Stage.Q | Stage.DEVICE:
            return Model(graph.name, None, graph)
        case Stage.STEP:
            text = f"'{place}' is a step of training, which no command takes"
            raise UsageError(Diagnostic("usage.stage", text, allowed="stage nn, qdq, q or device"))


def as_model(model: Loadable | Model, shapes: Shapes | None = None, log: PassLog | None = None) -> Model:
    """The network itself, or that of a file or of an ONNX model in memory: see `load_network`."""
    return model if isinstance(model, Model) else load_network(model, shapes, log)


def _loadable(model: object) -> Path | bytes:
    """A path, or the content of an ONNX file.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(model, (str, Path)):
        return Path(model)
    if isinstance(model, (bytes, bytearray)):
        return bytes(model)
    if isinstance(model, ModelProto):
        return model.SerializeToString(deterministic=True)
    raise TypeError(
        f"a model is a path, an onnx.ModelProto, its bytes or an x1.Model, not {type(model).__name__}"
    )


def _left_out(name: str, place: str) -> Diagnostic:
    message = f"the input '{name}' is left out: nothing reads it"
    return Diagnostic("model.unused", message, FileLoc(place), severity="warning")


def _prequantized(
    graph: Graph, source: Source | None, log: PassLog | None, remarks: tuple[Diagnostic, ...]
) -> Model:
    """The integers of such a network; where only scales are missing, calibration can find them."""
    try:
        integers = driver.fuse_prequantized(graph.copy(), log=log)
        return Model(graph.name, None, integers, source=source, remarks=remarks)
    except CompileError as error:
        if any(d.code != NO_SCALE for d in error.diagnostics):
            raise
        return Model(graph.name, None, source=source, partial=graph, refusal=error, remarks=remarks)
