"""The Python API: quantize, compile, check. The command line calls only this."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack

from numpy.typing import NDArray

from compiler import driver
from compiler.errors import CompileError
from compiler.export.qdq import to_qdq
from compiler.export.qoperator import to_qoperator
from compiler.frontend.load import load_model
from compiler.ir.graph import Graph
from compiler.passes.base import PassLog
from compiler.passes.calibrate import completed, made_up, observe, scheme_of
from compiler.passes.fuse_qdq import open_results
from compiler.quantize.methods import METHODS, Recipe, chosen
from compiler.quantize.scheme import GRANULARITIES, Scheme
from compiler.rules.quantizing import NO_SCALE
from compiler.schedule.options import NAMES as TECHNIQUES
from compiler.schedule.options import Techniques, techniques
from compiler.schedule.tile_graph import Memory
from compiler.search import MAX_SEARCH, Searching, choose
from isa.checker import CheckReport
from isa.checker import check as check_program
from isa.container import load, save
from isa.program import Note, Program
from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.paths import read_file
from isa.support.progress import untracked
from isa.support.records import Frozen, Struct, field, names_of, replace
from isa.target import Target, load_target
from isa.timing.profile import Profile
from isa.timing.profile import profile as profile_of
from x1 import data
from x1.files import write_atomic
from x1.version import __version__

Sample = Mapping[str, NDArray[Any]]
Calibration = str | Path | Iterable[Sample]
Progress = Callable[[Iterable[Sample], int | None], Iterable[Sample]]
ONNX_FORMS: Final = ("qoperator", "qdq")
OPT_LEVELS: Final = (0, 1, 2, 3)
LEAST_PERCENTILE: Final = 50.0


class Source(Frozen):
    """A quantized ONNX file, and the shapes that the user has given."""

    path: Path
    shapes: Mapping[str, Sequence[int]]


class Model(Struct):
    """A network: as it was read and simplified, and, once quantized, on integers."""

    name: str
    float_graph: Graph | None
    quantized: Graph | None = None
    scheme: Scheme | None = None
    """What a float network was quantized by."""
    source: Source | None = None
    """The file of a network that was quantized elsewhere: what ONNX Runtime executes to judge us."""
    partial: Graph | None = None
    """A network that was quantized elsewhere, but for some results."""
    refusal: CompileError | None = None
    """What it lacks."""

    @property
    def calibration(self) -> str:
        """How the scales came to be."""
        return "" if self.quantized is None else self.quantized.provenance

    @property
    def input_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the graph inputs."""
        graph = self.float_graph or self.quantized or self.partial
        assert graph is not None
        return {n.name: n.shape for n in graph.inputs}

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


class Binary(Frozen, dict=True):
    """A compiled program and its file."""

    program: Program
    data: bytes
    opt_level: int = 3
    stage_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    spm_peak_bytes: int = 0
    tried: int = 1
    """Schedules that the cycle model compared."""

    @staticmethod
    def load(path: str | Path) -> Binary:
        """The binary of a file.

        Raises:
            UsageError: no such file.
            BinaryError: the file is no sound X1 binary.
        """
        content = read_file(path)
        return Binary(load(content, str(path)), content)

    @cached_property
    def sha256(self) -> str:
        """The digest of the file."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
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
        return _quantized_elsewhere(driver.ready(graph, log), Source(Path(path), dict(shapes or {})), log)
    return Model(graph.name, None, graph)


class Quantization(TypedDict, total=False):
    """How a float network is quantized, beyond the samples; every key may be left out.

    * `method`: how ranges become scales: minmax, percentile, entropy or mse (the default).
    * `percentile`: the share of values, in percent, that each end of a range keeps.
    * `symmetric`: all zero points are 0.
    * `granularity`: weights have one scale per output "channel", or one per "tensor".
    * `bias_correction`: correct biases for the mean error that rounding the weights makes (the default).
    * `equalize`: move scale between neighbouring layers first.
    * `scheme`: a scheme, or its file; it goes before what calibration finds, and does without it if whole.
    * `progress`: called with the samples and their number, if that is known; gives the samples back.
    """

    method: str
    percentile: float
    symmetric: bool
    granularity: str
    bias_correction: bool
    equalize: bool
    scheme: str | Path | Scheme | None
    progress: Progress


def _quantized_elsewhere(graph: Graph, source: Source, log: PassLog | None) -> Model:
    """The integers of such a network; where only scales are missing, calibration can find them."""
    try:
        return Model(graph.name, None, driver.ingest(graph.copy(), log=log), source=source)
    except CompileError as error:
        if any(d.code != NO_SCALE for d in error.diagnostics):
            raise
        return Model(graph.name, None, source=source, partial=graph, refusal=error)


def quantize(
    model: str | Path | Model,
    calibrate: Calibration | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    log: PassLog | None = None,
    **options: Unpack[Quantization],
) -> Model:
    """A quantized network: int8 activations and weights, int32 biases.

    Args:
        model: a file, or a network that `load_network` gave.
        calibrate: `D.npz`, a folder, `random:N`, or samples as mappings from input names to arrays.
        shapes: fixed shapes for inputs with open dimensions.
        log: an observer of the passes.
        options: see `Quantization`.

    Raises:
        UsageError: options, a scheme or calibration data that do not fit the network.
        CompileError: the network is not valid or not supported.
    """
    network = model if isinstance(model, Model) else load_network(model, shapes, log)
    recipe, progress = recipe_of(options), options.get("progress", untracked)
    graph = network.float_graph
    if network.partial is not None:
        return _completed(network, network.partial, calibrate, recipe, options, log)
    if graph is None:
        raise UsageError(
            Diagnostic(
                "usage.calibrate",
                f"'{network.name}' is quantized already",
                remedy="compile it without --calibrate and --scheme",
            )
        )
    given = scheme_given(options)
    equalized = recipe.equalize or (given is not None and given.equalize)
    if equalized:
        graph = driver.equalize(graph, log)
    if given is not None:
        given.require_names(graph)
        given = replace(given, equalize=equalized)
    if calibrate is not None:
        samples, count, described = calibration_samples(calibrate, network.input_shapes)
        seen = observe(graph, progress(samples, count), ranges_alone=recipe.method == "minmax")
        made = scheme_of(graph, seen, recipe, given)
        if described:
            made = replace(made, calibration=f"{recipe} on {described}")
    elif given is not None:
        made = completed(graph, given, None)
    else:
        raise network.not_quantized()
    return _quantized(network, graph, made, log)


def recipe_of(options: Quantization) -> Recipe:
    """The recipe of options.

    Raises:
        UsageError: they have no meaning.
    """
    recipe = Recipe(**{k: v for k, v in options.items() if k in names_of(Recipe)})  # pyright: ignore[reportArgumentType]
    for option, value, known in (
        ("method", recipe.method, tuple(METHODS)),
        ("granularity", recipe.granularity, GRANULARITIES),
    ):
        if value not in known:
            message = f"there is no {option} '{value}'"
            raise UsageError(not_among(f"usage.{option}", message, value, known))
    if not LEAST_PERCENTILE <= recipe.percentile <= 100:
        raise UsageError(
            Diagnostic(
                "usage.percentile",
                f"the percentile {recipe.percentile:g} is not allowed",
                allowed=f"{LEAST_PERCENTILE} to 100",
            )
        )
    return recipe


def scheme_given(options: Quantization) -> Scheme | None:
    """The scheme of options, read if it is a file.

    Raises:
        UsageError: no such file, or no scheme.
    """
    scheme = options.get("scheme")
    if scheme is None or isinstance(scheme, Scheme):
        return scheme
    return Scheme.load(scheme)


def _completed(
    network: Model,
    graph: Graph,
    calibrate: Calibration | None,
    recipe: Recipe,
    options: Quantization,
    log: PassLog | None,
) -> Model:
    """A network that was quantized elsewhere, the scales that it leaves open calibrated or given."""
    if recipe.equalize or recipe.granularity != GRANULARITIES[0]:
        raise UsageError(
            Diagnostic(
                "usage.weights",
                f"the weights of '{network.name}' are quantized already",
                remedy="leave --equalize and --per-tensor out",
            )
        )
    left_open = open_results(graph)
    given = scheme_given(options) or Scheme()
    given.require_names(graph)
    tensors = {name: quant for name, quant in given.tensors.items() if name in left_open}
    if calibrate is not None:
        samples, count, _ = calibration_samples(calibrate, network.input_shapes)
        track = options.get("progress", untracked)
        seen = observe(graph, track(samples, count), ranges_alone=recipe.method == "minmax")
        tensors = {n: chosen(seen.tensors[n], recipe) for n in left_open if n in seen.tensors} | tensors
    if not tensors:
        return network
    scheme = Scheme(tensors, network=network.name, calibration="scales of the model")
    integers = driver.ingest(graph.copy(), scheme, log)
    return Model(network.name, None, integers, scheme, network.source)


def with_made_up_ranges(network: Model) -> Model:
    """The network quantized with ranges that come from nowhere, to see what the compiler makes of it."""
    if network.partial is not None:
        integers = driver.ingest(network.partial.copy(), made_up(network.partial))
        return Model(network.name, None, integers, source=network.source)
    assert network.float_graph is not None
    scheme = replace(made_up(network.float_graph), calibration="made-up ranges")
    return _quantized(network, network.float_graph, scheme, None)


def _quantized(network: Model, graph: Graph, scheme: Scheme, log: PassLog | None) -> Model:
    """The network quantized by a scheme."""
    return Model(network.name, graph, driver.quantize_with(graph, scheme, log), scheme)


def compile(
    model: str | Path | Model,
    target: str | Target = "edge32",
    *,
    calibrate: Calibration | None = None,
    opt_level: int = 3,
    without: Sequence[str] = (),
    search: int | None = None,
    searching: Searching = untracked,
    overrides: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    log: PassLog | None = None,
    **options: Unpack[Quantization],
) -> Binary:
    """The binary of a network for a target; the checker has passed it.

    A float network is quantized by `calibrate` and the options of `Quantization`. `without` names techniques
    of scheduling to leave out (`compiler.schedule.options`). `search` is how many schedules the cycle
    model may compare, and `searching` shows them as they come; without it, a large network gets one and small
    ones get several.

    Raises:
        UsageError: options that do not fit the network, or a float network without calibration.
        CompileError: the network is not valid or not supported.
        FitError: the network does not fit the target.
    """
    allowed = allowed_techniques(opt_level, without)
    if search is not None and not 1 <= search <= MAX_SEARCH:
        message = f"there are no {search} schedules to try"
        raise UsageError(Diagnostic("usage.search", message, allowed=f"1 to {MAX_SEARCH}"))
    machine = target if isinstance(target, Target) else load_target(target, overrides)
    times = driver.StageTimes()
    network = model if isinstance(model, Model) else load_network(model, shapes, log)
    times.done("import")
    if network.float_graph is not None:
        driver.require_dram(network.float_graph, machine)
    if calibrate is not None or options.get("scheme") is not None:
        network = quantize(network, calibrate, log=log, **options)
    times.done("quantize")
    graph = network.integers()
    device = driver.lower(graph, log) if graph.stage == "q" else graph
    times.done("lower")
    note = Note(f"x1 {__version__}", _options(opt_level, without, search), network.calibration)
    chosen = choose(device, machine, allowed, note, search, searching, times.done)
    driver.prove(chosen.program)
    times.done("check")
    content = save(chosen.program)
    times.done("write")
    peak = chosen.schedule.allocation.used[Memory.SPM]
    return Binary(chosen.program, content, opt_level, times.seconds, peak, chosen.tried)


def allowed_techniques(opt_level: int, without: Sequence[str] = ()) -> Techniques:
    """What an optimization level does, some techniques left out.

    Raises:
        UsageError: there is no such level, or no such technique.
    """
    if opt_level not in OPT_LEVELS:
        raise UsageError(Diagnostic("usage.level", f"there is no level {opt_level}", allowed="0 to 3"))
    for name in without:
        if name not in TECHNIQUES:
            message = f"there is no technique '{name}'"
            raise UsageError(not_among("usage.technique", message, name, TECHNIQUES))
    return techniques(opt_level, without)


def _options(opt_level: int, without: Sequence[str], search: int | None) -> tuple[tuple[str, str], ...]:
    """The options that a binary records."""
    left_out = (("without", ",".join(sorted(set(without)))),) if without else ()
    tried = () if search is None else (("search", str(search)),)
    return (("opt_level", str(opt_level)), *left_out, *tried)


def check(binary: str | Path | Binary) -> CheckReport:
    """Races, deadlocks, bounds and definedness of a binary, from its decoded form alone."""
    loaded = binary if isinstance(binary, Binary) else Binary.load(binary)
    return check_program(loaded.program)


def profile(binary: str | Path | Binary) -> Profile:
    """When a binary's instructions execute on its target, by the cycle model; no data is needed.

    Raises:
        BinaryError: the file is not a sound X1 binary.
        MachineTrap: an instruction is not legal, or no engine can go on.
    """
    loaded = binary if isinstance(binary, Binary) else Binary.load(binary)
    return profile_of(loaded.program)


def calibration_samples(
    calibrate: Calibration, shapes: Mapping[str, Sequence[int]]
) -> tuple[Iterable[Sample], int | None, str]:
    """The samples, how many they are if that is known, and how a binary describes them if not by number.

    A binary says nothing of files: what they are called must not change its bytes.
    """
    if isinstance(calibrate, (str, Path)):
        text = str(calibrate)
        samples, count = data.calibration(text, shapes)
        return samples, count, text if text.startswith("random:") else ""
    return calibrate, None, ""
