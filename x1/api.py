"""The Python API: quantize, compile, check. The command line calls only this."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from compiler import driver
from compiler.export.qoperator import to_qoperator
from compiler.frontend.load import load_model
from compiler.ir.graph import Graph
from compiler.ir.types import Quant
from compiler.passes.base import PassLog
from compiler.quantize.calibrate import METHODS, made_up
from compiler.schedule.tiles import Memory
from isa.checker import CheckReport
from isa.checker import check as check_program
from isa.container import load, save
from isa.diagnostics import Diagnostic, UsageError, did_you_mean
from isa.paths import read_file
from isa.program import Note, Program
from isa.target import Target, load_target
from x1 import data
from x1.files import write_atomic
from x1.version import __version__

Sample = Mapping[str, NDArray[Any]]
Calibration = str | Path | Iterable[Sample]
OPT_LEVELS: Final = (0, 1, 2, 3)


@dataclass(frozen=True)
class Source:
    """A quantized ONNX file, and the shapes that the user has given."""

    path: Path
    shapes: Mapping[str, Sequence[int]]


@dataclass
class Model:
    """A network: as it was read and simplified, and, once quantized, on integers."""

    name: str
    float_graph: Graph | None
    quantized: Graph | None = None
    source: Source | None = None
    """The file of a network that was quantized elsewhere: what ONNX Runtime executes to judge us."""

    @property
    def calibration(self) -> str:
        """How the scales came to be."""
        return "" if self.quantized is None else self.quantized.provenance

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the graph inputs."""
        graph = self.float_graph or self.quantized
        assert graph is not None
        return {n.name: n.shape for n in graph.inputs}

    def save_onnx(self, path: str | Path, format: str = "qoperator") -> None:  # noqa: A002
        """Write the quantized network as ONNX.

        Raises:
            UsageError: a format that is not known, or a network that is not quantized.
        """
        if format != "qoperator":
            raise UsageError(
                Diagnostic("usage.format", f"the format '{format}' is not supported", allowed="qoperator")
            )
        write_atomic(path, to_qoperator(self.source_form()).SerializeToString(deterministic=True))

    def source_form(self) -> Graph:
        """The quantized graph in the layout of its source, as it can be written to ONNX.

        Raises:
            UsageError: the network is not quantized, or is in the device's layout already.
        """
        graph = self.integers()
        if graph.stage != "q":
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
        if self.quantized is None:
            raise UsageError(
                Diagnostic(
                    "usage.calibrate",
                    f"the network '{self.name}' is float32 and is not quantized yet",
                    remedy="give --calibrate D.npz with samples as the network takes them, or "
                    "--calibrate random:4 to look at cycles only",
                )
            )
        return self.quantized


@dataclass(frozen=True)
class Binary:
    """A compiled program and its file."""

    program: Program
    data: bytes
    opt_level: int = 3
    stage_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    spm_peak_bytes: int = 0

    @staticmethod
    def load(path: str | Path) -> Binary:
        """The binary of a file.

        Raises:
            UsageError: no such file.
            BinaryError: the file is no sound X1 binary.
        """
        content = read_file(path)
        return Binary(load(content, str(path)), content)

    @property
    def sha256(self) -> str:
        """The digest of the file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations of one run."""
        return sum(i.macs() for i in self.program.instructions)

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        write_atomic(path, self.data)

    def summary(self) -> dict[str, object]:
        """The figures that `x1 compile --json` gives."""
        p = self.program
        return {
            "sha256": self.sha256,
            "target": p.target.name,
            "opt_level": self.opt_level,
            "instructions": len(p.instructions),
            "macs": self.macs,
            "text_bytes": 32 * len(p.instructions),
            "weight_bytes": len(p.weights) + len(p.params),
            "arena_bytes": p.arena_bytes,
            "spm_peak_bytes": self.spm_peak_bytes,
            "stage_seconds": {k: round(v, 6) for k, v in self.stage_seconds.items()},
        }


def load_network(
    path: str | Path, shapes: Mapping[str, Sequence[int]] | None = None, log: PassLog | None = None
) -> Model:
    """A network from an .onnx, .net or .x1ir file, simplified.

    Raises:
        UsageError: no such file, or of no known kind.
        CompileError: the file is not a valid or not a supported model.
    """
    graph = load_model(path, shapes)
    if graph.stage == "nn":
        return Model(graph.name, driver.prepare(graph, log))
    if graph.stage == "qdq":
        return Model(
            graph.name, None, driver.ingest(graph, log), source=Source(Path(path), dict(shapes or {}))
        )
    return Model(graph.name, None, graph)


def quantize(
    model: str | Path | Model,
    calibrate: Calibration,
    *,
    method: str = "minmax",
    shapes: Mapping[str, Sequence[int]] | None = None,
    log: PassLog | None = None,
) -> Model:
    """A quantized network: int8 activations, int8 weights per output channel.

    Args:
        model: a file, or a network that `load_network` gave.
        calibrate: `D.npz`, a folder, `random:N`, or samples as mappings from input names to arrays.
        method: how ranges become scales.
        shapes: fixed shapes for inputs with open dimensions.
        log: an observer of the passes.

    Raises:
        UsageError: calibration data that does not fit the network.
        CompileError: the network is not valid or not supported.
    """
    network = model if isinstance(model, Model) else load_network(model, shapes, log)
    if method not in METHODS:
        raise UsageError(
            Diagnostic(
                "usage.method",
                f"there is no method '{method}'",
                allowed=", ".join(METHODS),
                remedy=did_you_mean(method, METHODS),
            )
        )
    if network.float_graph is None:
        raise UsageError(
            Diagnostic(
                "usage.calibrate",
                f"'{network.name}' is quantized already",
                remedy="compile it without --calibrate",
            )
        )
    samples, described = _samples(calibrate, network.input_shapes)
    scheme, count = driver.calibrate(network.float_graph, samples)
    return with_scheme(network, scheme, f"{method} on {described or f'{count} samples'}", log)


def with_made_up_ranges(network: Model) -> Model:
    """The network quantized with ranges that come from nowhere, to see what the compiler makes of it."""
    assert network.float_graph is not None
    return with_scheme(network, made_up(network.float_graph), "made-up ranges")


def with_scheme(
    network: Model, scheme: Mapping[str, Quant], described: str, log: PassLog | None = None
) -> Model:
    """The network quantized with given scales."""
    assert network.float_graph is not None
    integers = driver.quantize_with(network.float_graph, scheme, described, log)
    return Model(network.name, network.float_graph, integers)


def compile(
    model: str | Path | Model,
    target: str | Target = "edge32",
    *,
    calibrate: Calibration | None = None,
    method: str = "minmax",
    opt_level: int = 3,
    overrides: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    log: PassLog | None = None,
) -> Binary:
    """The binary of a network for a target; the checker has passed it.

    Raises:
        UsageError: options that do not fit the network, or a float network without calibration.
        CompileError: the network is not valid or not supported.
        FitError: the network does not fit the target.
    """
    if opt_level not in OPT_LEVELS:
        raise UsageError(Diagnostic("usage.level", f"there is no level {opt_level}", allowed="0 to 3"))
    machine = target if isinstance(target, Target) else load_target(target, overrides)
    times = driver.StageTimes()
    network = model if isinstance(model, Model) else load_network(model, shapes, log)
    times.done("import")
    if network.float_graph is not None:
        driver.require_dram(network.float_graph, machine)
    if calibrate is not None:
        network = quantize(network, calibrate, method=method, log=log)
    times.done("quantize")
    graph = network.integers()
    device = driver.lower(graph, log) if graph.stage == "q" else graph
    times.done("lower")
    scheduled = driver.schedule(device, machine)
    times.done("schedule")
    options = (("opt_level", str(opt_level)),)
    program = driver.generate(
        device, scheduled, machine, Note(f"x1 {__version__}", options, network.calibration)
    )
    times.done("generate")
    content = save(program)
    times.done("write")
    return Binary(program, content, opt_level, times.seconds, scheduled.allocation.used[Memory.SPM])


def check(binary: str | Path | Binary) -> CheckReport:
    """Races, deadlocks, bounds and definedness of a binary, from its decoded form alone."""
    loaded = binary if isinstance(binary, Binary) else Binary.load(binary)
    return check_program(loaded.program)


def _samples(calibrate: Calibration, shapes: Mapping[str, Sequence[int]]) -> tuple[Iterable[Sample], str]:
    """The samples, and how the binary describes them where that is not their number.

    A binary says nothing of files: what they are called must not change its bytes.
    """
    if isinstance(calibrate, (str, Path)):
        text = str(calibrate)
        return data.calibration(text, shapes), text if text.startswith("random:") else ""
    return calibrate, ""
