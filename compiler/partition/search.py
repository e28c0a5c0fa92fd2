"""The search for a division among devices: estimates propose, the cycle model over all devices decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from compiler import driver
from compiler.errors import FitError
from compiler.ir.graph import Graph
from compiler.partition.assign import (
    CHANNELS,
    ROWS,
    Assigned,
    Belief,
    Hybrid,
    computed_values,
    pipeline,
    whole_images,
)
from compiler.partition.divide import DevicePart, divide
from compiler.partition.emit_devices import Whole, of_device, together, whole_of
from compiler.schedule.options import ScheduleOptions
from compiler.schedule.tile_graph import Memory
from compiler.search import choose
from isa.checker import check_devices
from isa.program import Note, Program
from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.records import Frozen, replace
from isa.target import Target, device_fault
from isa.timing.model import cycles_alone, cycles_per_run, simulate, simulate_devices
from isa.timing.profile import layer_of
from isa.timing.shares import shares

SPLITS: Final = ("auto", "batch", "pipeline", "rows", "channels", "hybrid")
STREAMED: Final = ("batch", "pipeline")
"""Divisions that are judged by a stream of runs, not by one."""
BALANCED: Final = 4
"""Times that a pipeline is cut anew by what its devices have been found to take."""
BELIEFS: Final = (
    Belief(),
    Belief(0.8),
    Belief(0.3, one_by_one=True),
    Belief(0.6, one_by_one=True),
    Belief(1.5, one_by_one=True),
)
"""What is believed of exchanges, each giving a division. A compromise: each takes the time of a compilation.

Of ResNet-50 and MobileNetV2 on 4 and 8 devices each of the last four was best once.
"""
SCHEDULES: Final = 4
"""Schedules of each device that are tried for the best division."""
FEW: Final = 8
"""Up to so many devices all of these are tried: more take longer, and the first is hardly worse."""
TOWARDS: Final = 0.7
"""By which part of what was found wrong of an estimate it is put right: all of it makes cuts swing."""
Boxes = Mapping[int, Assigned]


class Sharing(Frozen):
    """How many devices share the work, and how.

    With auto the best way is found: for one run, or, with `throughput`, for a stream of runs.
    """

    devices: int
    split: str = "auto"
    throughput: bool = False

    @property
    def said(self) -> tuple[tuple[str, str], ...]:
        """What a binary records of it."""
        if self.devices == 1:
            return ()
        streamed = (("throughput", "yes"),) if self.throughput else ()
        return (("devices", str(self.devices)), ("split", self.split), *streamed)


class Division(Frozen):
    """The programs of all devices, and how they were found."""

    programs: tuple[Program, ...]
    split: str
    spm_peak_bytes: int
    tried: int


def choose_devices(
    graph: Graph,
    target: Target,
    options: ScheduleOptions,
    note: Note,
    shared: Sharing,
    timed: driver.StageTimes | None = None,
) -> Division:
    """The programs of so many devices for a graph of stage device: of what is tried those of fewest cycles.

    Args:
        graph: the network.
        target: the machine, each of the devices.
        options: what schedules may do.
        note: how the programs came to be.
        shared: among how many, and how.
        timed: takes the times of the stages.

    Raises:
        UsageError: the target has no so many devices, or the network cannot be divided so.
        FitError: a part does not fit.
        CompileError: an operation that no tile expresses.
    """
    timed, devices, split = timed or driver.StageTimes(), shared.devices, shared.split
    if fault := device_fault(target, devices):
        raise UsageError(fault)
    tables = whole_of(graph, target)
    streamed = shared.throughput or split in STREAMED
    best: Division | None = None
    kept: Boxes = {}
    fewest = tried = 0
    for name, boxes in _proposals(graph, target, options, devices, split, streamed=streamed):
        made = timed("schedule", _programs, graph, tables, boxes, target, options, note, devices)
        programs, peak = made
        cycles = timed("measure", _cycles, programs, streamed=streamed)
        tried += 1
        if best is None or cycles < fewest:
            best, fewest, kept = Division(programs, name, peak, tried), cycles, boxes
    assert best is not None, "there is a proposal, or an error says why not"
    if devices <= FEW:  # more schedules for each device
        programs, peak = timed(
            "schedule", _programs, graph, tables, kept, target, options, note, devices, SCHEDULES
        )
        if timed("measure", _cycles, programs, streamed=streamed) < fewest:
            best = replace(best, programs=programs, spm_peak_bytes=peak)
    return replace(best, tried=tried)


def prove_devices(programs: tuple[Program, ...]) -> None:
    """Assert of generated programs what the checker proves from their words alone.

    They cannot race or deadlock, read nothing that is not written, and write every output once.
    """
    report = check_devices(programs)
    assert not report.violations, f"the compiler made an unsafe program: {report.violations[0]}"
    assert not report.rewritten, f"the compiler writes an output twice: {report.rewritten}"


def _cycles(programs: tuple[Program, ...], *, streamed: bool) -> int:
    if streamed:
        return cycles_per_run(programs)
    return max(timeline.cycles for timeline in simulate_devices(programs))


def _proposals(
    graph: Graph, target: Target, options: ScheduleOptions, devices: int, split: str, *, streamed: bool
) -> Iterator[tuple[str, Boxes]]:
    """Divisions that are worth trying."""
    images = whole_images(graph, devices)
    if split == "batch" or (split == "auto" and streamed and images is not None):
        if images is None:
            text = f"not every value of the network has an image for each of {devices} devices"
            raise UsageError(
                Diagnostic("usage.split", text, remedy="--shape with a larger batch, or another split")
            )
        yield "batch", images
    elif split == "pipeline" or (split == "auto" and streamed):
        yield from (("pipeline", boxes) for boxes in _pipelines(graph, target, options, devices))
    if split == "hybrid" or (split == "auto" and not streamed):
        seen: list[Boxes] = []
        for belief in BELIEFS if devices <= FEW else BELIEFS[:1]:
            boxes = Hybrid(graph, target, devices, (ROWS, CHANNELS), belief).run()
            if boxes not in seen:
                seen.append(boxes)
                yield "hybrid", boxes
    if split in (ROWS, CHANNELS):
        yield split, Hybrid(graph, target, devices, (split,)).run()


def _pipelines(
    graph: Graph, target: Target, options: ScheduleOptions, devices: int
) -> Iterator[dict[int, Assigned]]:
    """Cuts by what layers take on one device, then by what the devices were found to take."""
    values = computed_values(graph)
    if len(values) < devices:
        text = f"the network has {len(values)} layers, fewer than {devices} devices"
        raise UsageError(Diagnostic("usage.split", text, allowed=f"at most {len(values)} devices"))
    cycles = _layer_cycles(graph, target, options)
    tables = whole_of(graph, target)
    seen: set[tuple[Assigned, ...]] = set()
    for _ in range(BALANCED):
        boxes = pipeline(graph, cycles, devices, target)
        key = tuple(boxes[n.id] for n in values)
        if key not in seen:
            seen.add(key)
            yield boxes
        programs, _ = _programs(graph, tables, boxes, target, options, Note(), devices)
        for device, program in enumerate(programs):
            mine = [n.id for n in values if boxes[n.id][device] is not None]
            estimated = sum(cycles[name] for name in mine)
            wrong = cycles_alone(program) / max(estimated, 1.0)
            for name in mine:
                cycles[name] *= wrong**TOWARDS


def _layer_cycles(graph: Graph, target: Target, options: ScheduleOptions) -> dict[int, float]:
    """What every value takes of the cycles of one device."""
    schedule = next(driver.schedules(graph, target, options))
    program = driver.generate(graph, schedule, target, Note())
    found = shares(simulate(program), layer_of(program))
    numbers = {n.id: i for i, n in enumerate(schedule.plan.nodes)}
    return {
        n.id: float(found[numbers[n.id]].cycles) if numbers.get(n.id) in found else 0.0
        for n in computed_values(graph)
    }


def _programs(
    graph: Graph,
    tables: Whole,
    boxes: Boxes,
    target: Target,
    options: ScheduleOptions,
    note: Note,
    devices: int,
    schedules: int = 1,
) -> tuple[tuple[Program, ...], int]:
    """The programs of a division, and the most bytes of the scratchpad that a device holds."""
    parts = divide(graph, boxes, devices)
    made: list[Program] = []
    peak = 0
    for device, part in enumerate(parts):
        program, held = _program(part, tables, target, options, note, device, schedules)
        made.append(program)
        peak = max(peak, held)
    return together(made, parts, graph, tables), peak


def _program(
    part: DevicePart,
    tables: Whole,
    target: Target,
    options: ScheduleOptions,
    note: Note,
    device: int,
    schedules: int,
) -> tuple[Program, int]:
    """The program of a device, the best by itself of so many schedules."""
    try:
        best = choose(part.graph, target, options, note, search=schedules)
    except FitError as error:
        raise FitError(
            [replace(d, message=f"device {device}: {d.message}") for d in error.diagnostics]
        ) from None
    plan, used = best.schedule.plan, best.schedule.used
    return of_device(best.program, part, plan, tables, device), used[Memory.SPM]
