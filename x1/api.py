"""The Python API: quantize, compile, check, profile. The command line calls only this."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Unpack

from compiler import driver
from compiler.ir.graph import Graph
from compiler.partition.search import SPLITS, Division, Sharing, choose_devices, prove_devices
from compiler.passes.base import PassLog
from compiler.schedule.options import TECHNIQUES, ScheduleOptions, schedule_options
from compiler.schedule.tile_graph import Memory
from compiler.search import MAX_SEARCH, Searching, choose
from isa.checker import CheckReport, check_devices, check_executable
from isa.container import save
from isa.executable import Executable
from isa.program import Note
from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.progress import untracked
from isa.target import MAX_DEVICES, Target, load_target
from isa.timing.profile import Profile
from isa.timing.profile import profile as profile_of
from x1.binary import Binary, as_binary
from x1.model import ONNX_FORMS, Loadable, Model, Shapes, as_model, load_network
from x1.quantization import (
    Calibration,
    Quantization,
    calibration_samples,
    quantize,
    recipe_of,
    require_known,
    scheme_given,
    with_made_up_ranges,
)
from x1.version import __version__

__all__ = [
    "ONNX_FORMS",
    "Binary",
    "Calibration",
    "CompileOptions",
    "Model",
    "Quantization",
    "allowed_options",
    "calibration_samples",
    "check",
    "compile",
    "load_network",
    "profile",
    "quantize",
    "recipe_of",
    "scheme_given",
    "with_made_up_ranges",
]

OPT_LEVELS: Final = (0, 1, 2, 3)
OWN: Final = (
    *("calibrate", "opt_level", "without", "search", "devices", "split", "throughput"),
    *("overrides", "shapes", "log"),
)
"""Keywords of `compile` besides those of `Quantization`."""


class CompileOptions(Quantization, total=False):
    """How a float network is quantized, and how several devices share the work.

    `devices` is how many, `split` how they do: batch, pipeline, rows, channels, hybrid, or auto: the best for
    one run, or, with `throughput`, for a stream of runs.
    """

    devices: int
    split: str
    throughput: bool


def compile(
    model: Loadable | Model,
    target: str | Path | Target = "edge32",
    *,
    calibrate: Calibration | None = None,
    opt_level: int = 3,
    without: Sequence[str] = (),
    search: int | None = None,
    searching: Searching = untracked,
    overrides: Sequence[str] = (),
    shapes: Shapes | None = None,
    log: PassLog | None = None,
    **options: Unpack[CompileOptions],
) -> Binary:
    """The binary of a network for a target; the checker has passed it.

    Args:
        model: a file, an ONNX model in memory, or a network that `load_network` or `quantize` gave.
        target: a machine: its name, its file or itself.
        calibrate: samples by which a float network is quantized: see `quantize`.
        opt_level: 0 to 3, how much work to spend on the schedule.
        without: techniques of scheduling to leave out (`compiler.schedule.options`).
        search: how many schedules the cycle model may compare; else several of small networks, one of large.
        searching: shows the schedules as they come.
        overrides: `section.key=value`, changes of the target.
        shapes: fixed shapes for inputs with open dimensions.
        log: an observer of the passes.
        options: how a float network is quantized, and on how many devices it runs: see `CompileOptions`.

    Raises:
        UsageError: options that do not fit the network, or a float network without calibration.
        CompileError: the network is not valid or not supported.
        FitError: the network does not fit the target.
    """
    shared = _shared(options)
    require_known(options, OWN)
    allowed = allowed_options(opt_level, without, search)
    machine = _machine(target, overrides)
    said = (*_options(opt_level, without, search), *shared.said)
    timed = driver.StageTimes()
    network = timed("import", as_model, model, shapes, log)
    network = timed("quantize", _quantized, network, machine, calibrate, log, options)
    device = timed("lower", driver.lower, network.integers(), log, divided=shared.devices > 1)
    note = Note(f"x1 {__version__}", said, network.calibration)
    made = _division(device, machine, allowed, note, timed, shared, search, searching)
    content = timed("write", save, Executable(made.programs))
    found = made.spm_peak_bytes, made.tried
    return Binary(made.programs[0], content, opt_level, timed.seconds, *found, network.remarks)


def _division(
    device: Graph,
    machine: Target,
    allowed: ScheduleOptions,
    note: Note,
    timed: driver.StageTimes,
    shared: Sharing,
    search: int | None,
    searching: Searching,
) -> Division:
    """The programs of all devices, or of the only one; the checker has passed them."""
    if shared.devices > 1:
        made = choose_devices(device, machine, allowed, note, shared, timed)
    else:
        best = choose(device, machine, allowed, note, timed, search=search, searching=searching)
        made = Division((best.program,), best.schedule.used[Memory.SPM], best.tried)
    timed("check", prove_devices, made.programs)
    return made


def _machine(target: object, overrides: Sequence[str]) -> Target:
    """The target itself, or that of a name or a file, some keys changed.

    Raises:
        TypeError: what is given is no target.
    """
    if isinstance(target, Target):
        return target
    if isinstance(target, (str, Path)):
        return load_target(str(target), overrides)
    raise TypeError(f"a target is a name, a path or a Target, not {type(target).__name__}")


def _quantized(
    network: Model, machine: Target, calibrate: Calibration | None, log: PassLog | None, options: Quantization
) -> Model:
    """The network quantized where that is asked for; one that is too large is refused before."""
    if network.float_graph is not None:
        driver.require_dram(network.float_graph, machine)
    if calibrate is None and options.get("scheme") is None:
        return network
    return quantize(network, calibrate, log=log, **options)


def allowed_options(
    opt_level: int, without: Sequence[str] = (), search: int | None = None
) -> ScheduleOptions:
    """What an optimization level lets a schedule do, some techniques left out.

    Raises:
        UsageError: there is no such level, no such technique, or no such number of schedules to try.
    """
    if opt_level not in OPT_LEVELS:
        raise UsageError(Diagnostic("usage.level", f"there is no level {opt_level}", allowed="0 to 3"))
    for name in without:
        if name not in TECHNIQUES:
            message = f"there is no technique '{name}'"
            raise UsageError(not_among("usage.technique", message, name, TECHNIQUES))
    if search is not None and not 1 <= search <= MAX_SEARCH:
        message = f"there are no {search} schedules to try"
        raise UsageError(Diagnostic("usage.search", message, allowed=f"1 to {MAX_SEARCH}"))
    return schedule_options(opt_level, without)


def _options(opt_level: int, without: Sequence[str], search: int | None) -> tuple[tuple[str, str], ...]:
    """The options that a binary records."""
    left_out = (("without", ",".join(sorted(set(without)))),) if without else ()
    tried = () if search is None else (("search", str(search)),)
    return (("opt_level", str(opt_level)), *left_out, *tried)


def _shared(options: CompileOptions) -> Sharing:
    """How the work is shared; what says so is taken from the options.

    Raises:
        UsageError: it cannot be shared so.
    """
    devices, split = options.pop("devices", 1), options.pop("split", "auto")
    throughput = options.pop("throughput", False)
    if devices < 1:
        text = f"there are {devices} devices"
        raise UsageError(Diagnostic("usage.devices", text, allowed=f"1 to {MAX_DEVICES}"))
    if split not in SPLITS:
        text = f"there is no split '{split}'"
        raise UsageError(not_among("usage.split", text, split, list(SPLITS)))
    return Sharing(devices, split, throughput)


def check(binary: str | Path | bytes | Binary, *, stream: str | None = None) -> CheckReport:
    """Races, deadlocks, bounds and definedness of a binary, from its decoded form alone.

    Args:
        binary: a path, the bytes of a file, or what `compile` gave.
        stream: which of a training program's streams; all where none is named.

    Raises:
        BinaryError: the file is no sound X1 binary.
        UsageError: it has no such stream.
    """
    loaded = as_binary(binary)
    if stream is None:
        return check_executable(loaded.executable)
    return check_devices(loaded.executable.devices(stream))


def profile(binary: str | Path | bytes | Binary, *, stream: str | None = None) -> Profile:
    """When a binary's instructions execute on its target, by the cycle model; no data is needed.

    Args:
        binary: a path, the bytes of a file, or what `compile` gave.
        stream: which of a training program's streams; inference where none is named.

    Raises:
        BinaryError: the file is not a sound X1 binary.
        UsageError: it has no such stream.
        MachineTrap: an instruction is not legal, or no engine can go on.
    """
    return profile_of(as_binary(binary).executable.devices(stream))
