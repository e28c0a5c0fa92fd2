"""`x1 compile`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Final, TypedDict

import click

from compiler import driver
from compiler.ir.graph import Graph
from compiler.ir.printer import print_graph
from compiler.partition.search import SPLITS
from compiler.passes.base import PassLog, StopHere
from compiler.passes.pipeline import PASS_NAMES
from compiler.schedule.options import TECHNIQUES
from compiler.schedule.printer import print_schedule
from compiler.search import MAX_SEARCH, choose
from isa.program import Note
from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.target import MAX_DEVICES, Target, load_target
from x1 import api
from x1.api import Quantization
from x1.cli.options import (
    calibration_options,
    opt_level,
    parse_shapes,
    quantization,
    random_warning,
    target_options,
    with_progress,
)
from x1.cli.profile_command import machines, short, summary
from x1.cli.result import Result, json_option, reported, say
from x1.files import make_folder, require_another, write_atomic

FORMS: Final = ("nn", "q", "schedule", "asm", "elf")
EPILOG: Final = """\b
Examples:
  x1 compile net.onnx --calibrate samples.npz -o net.x1
  x1 compile net.net --calibrate samples.npz --target edge16 --set dram.bytes_per_cycle=16
  x1 compile net.onnx --calibrate random:4 --emit asm
  x1 compile net.onnx --calibrate random:4 -O3 --without fusion
  x1 compile net.onnx --calibrate random:4 --search 12
  x1 compile net.onnx --calibrate random:4 --devices 4
  x1 compile net.onnx --calibrate random:4 --devices 4 --throughput
  x1 compile net.onnx --scheme net.toml -o net.x1
  x1 compile net.onnx --calibrate samples.npz --print-after fuse-activation
"""


@click.command(epilog=EPILOG)
@click.argument("model")
@click.option(
    "-o", "--output", metavar="OUT.x1", help="The file to write; by default the model's name with .x1."
)
@target_options
@calibration_options
@opt_level
@click.option(
    "--without",
    multiple=True,
    metavar="|".join(TECHNIQUES),
    help="Leave a technique of scheduling out, to see what it is worth.",
)
@click.option(
    "--search",
    type=click.IntRange(1, MAX_SEARCH),
    metavar="N",
    help="Schedules for the cycle model to compare.",
)
@click.option(
    "--devices",
    type=click.IntRange(1, MAX_DEVICES),
    metavar="N",
    default=1,
    show_default=True,
    help="How many devices execute it together.",
)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="auto",
    show_default=True,
    help="How it is divided among them.",
)
@click.option("--throughput", is_flag=True, help="Let auto find what is best for a stream of runs, not one.")
@click.option("--emit", type=click.Choice(FORMS), default="elf", show_default=True, help="The form to write.")
@click.option("--print-after", metavar="PASS|all", help="Print the graph after a pass, on stderr.")
@click.option("--stop-after", metavar="PASS", help="Write the graph after a pass and stop.")
@click.option("--dump-dir", metavar="DIR", help="Write the graph after every pass into a folder.")
@json_option
@reported("compile")
def command(
    output: str | None,
    emit: str,
    print_after: str | None,
    stop_after: str | None,
    dump_dir: str | None,
    as_json: bool,
    **options: Any,
) -> Result:
    """Compile MODEL (.onnx, .net or .x1ir) to an X1 binary."""
    warnings = random_warning(options["calibrate"])
    read = (options["model"], options["calibrate"], options["target"], options["scheme"])
    log = _log(print_after, stop_after, dump_dir, read)
    asked = _asked(options, log)
    place = f"{PurePath(asked.model).stem}.x1" if output is None else output
    require_another(place if emit == "elf" else output, *read)
    try:
        if emit in ("nn", "q", "schedule"):
            text = _form(asked, emit)
            _require_reached(log)
            return _text(text, output, warnings)
        binary = _binary(asked)
    except StopHere as stopped:
        return _text(print_graph(stopped.graph, blobs=True), output, warnings)
    _require_reached(log)
    if emit == "asm":
        from isa.assembly.disassembler import disassemble  # noqa: PLC0415  (and with it a parser)

        return _text(disassemble(binary.executable).text, output, warnings)
    binary.save(place)
    found = api.profile(binary)
    if not as_json:
        _report(binary, place)
        say(summary(found))
    body = {"output": place, **binary.summary(), "schedules": binary.tried, "profile": short(found)}
    return Result(body, diagnostics=[*warnings, *binary.remarks])


class Scheduling(TypedDict):
    """The options of scheduling, as `api.compile` names them."""

    opt_level: int
    without: tuple[str, ...]
    search: int | None


class Dividing(TypedDict):
    """The options of a division among devices."""

    devices: int
    split: str
    throughput: bool


@dataclass(frozen=True)
class Asked:
    """What one command line asks for: the model, the machine, and how to compile."""

    model: str
    machine: Target
    shapes: dict[str, tuple[int, ...]]
    calibrate: str | None
    quantization: Quantization
    scheduling: Scheduling
    dividing: Dividing
    log: PassLog

    @property
    def quantizes(self) -> bool:
        """Whether an option of quantization is given."""
        return self.calibrate is not None or self.quantization.get("scheme") is not None


def _asked(options: dict[str, Any], log: PassLog) -> Asked:
    return Asked(
        options["model"],
        load_target(options["target"], options["overrides"]),
        parse_shapes(options["shapes"]),
        options["calibrate"],
        quantization(options),
        Scheduling(opt_level=int(options["opt_level"]), without=options["without"], search=options["search"]),
        Dividing(devices=options["devices"], split=options["split"], throughput=options["throughput"]),
        log,
    )


def _binary(asked: Asked) -> api.Binary:
    """The network compiled, with a progress bar on the search."""
    return api.compile(
        asked.model,
        asked.machine,
        calibrate=asked.calibrate,
        searching=lambda schedules, most: with_progress(schedules, "searching", most),
        shapes=asked.shapes,
        log=asked.log,
        **asked.scheduling,
        **asked.dividing,
        **asked.quantization,
    )


def _require_reached(log: PassLog) -> None:
    """The pass to stop after must have been one that this compilation has."""
    if log.stop_after is not None:
        raise UsageError(
            Diagnostic(
                "usage.pass",
                f"--stop-after {log.stop_after}: the pass is not part of this compilation",
                allowed=", ".join(log.seconds),
            )
        )


def _form(asked: Asked, emit: str) -> str:
    """The network in one of the forms that are text."""
    network = api.load_network(asked.model, asked.shapes, asked.log)
    if asked.quantizes and emit != "nn":
        network = api.quantize(network, asked.calibrate, log=asked.log, **asked.quantization)
    allowed = api.allowed_options(**asked.scheduling)
    if emit == "nn":
        return print_graph(network.float_graph or network.integers(), blobs=True)
    if emit == "q":
        return print_graph(network.integers(), blobs=True)
    device = driver.lower(network.integers(), asked.log)
    search = asked.scheduling["search"]
    schedule = choose(device, asked.machine, allowed, Note(), search=search).schedule
    return print_schedule(schedule, network.name, asked.machine.name)


def _text(text: str, output: str | None, warnings: list[Diagnostic]) -> Result:
    if output is None:
        return Result({"text": text}, text=text, diagnostics=warnings)
    write_atomic(output, text)
    return Result({"output": output}, diagnostics=warnings)


def _report(binary: api.Binary, place: str) -> None:
    figures = binary.summary()
    machine = machines(binary.program.target.name, binary.program.devices)
    say(
        f"{place}: {figures['instructions']} instructions for {machine}, {binary.macs:,} MACs, "
        f"{figures['weight_bytes']:,} bytes of weights and parameters, {figures['spm_peak_bytes']:,} bytes "
        f"of scratchpad at most; {_tried(binary.tried)}checked: no race, no deadlock"
    )


def _tried(schedules: int) -> str:
    return f"best of {schedules} schedules; " if schedules > 1 else ""


def _log(
    print_after: str | None, stop_after: str | None, dump_dir: str | None, sources: Sequence[str | None]
) -> PassLog:
    """The observer of the passes that prints and writes dumps; none overwrites a source."""
    for option, name, known in (
        ("--print-after", print_after, (*PASS_NAMES, "all")),
        ("--stop-after", stop_after, PASS_NAMES),
    ):
        if name is not None and name not in known:
            raise UsageError(not_among("usage.pass", f"{option} {name}: there is no such pass", name, known))
    folder = Path(dump_dir) if dump_dir is not None else None
    if folder is not None:
        make_folder(folder)
    count = 0

    def after(name: str, graph: Graph) -> None:
        nonlocal count
        count += 1
        if print_after in (name, "all"):
            say(f"// after {name}\n{print_graph(graph)}")
        if folder is not None:
            place = folder / f"{count:02d}-{name}.x1ir"
            require_another(place, *sources)
            write_atomic(place, print_graph(graph, blobs=True))

    return PassLog(after, stop_after)
