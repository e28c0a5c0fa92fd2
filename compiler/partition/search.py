"""The search for a division among devices: estimates propose, the cycle model over all devices decides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from compiler import driver
from compiler.errors import FitError
from compiler.ir.graph import Graph, Node
from compiler.partition.assign import (
    BATCH,
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
from compiler.partition.emit_devices import of_device, together, whole_of
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

SPLITS: Final = ("auto", BATCH, "pipeline", ROWS, CHANNELS, "hybrid")
STREAMED: Final = (BATCH, "pipeline")
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
    if fault := device_fault(target, shared.devices):
        raise UsageError(fault)
    search = _Search(graph, target, options, note, shared, timed or driver.StageTimes())
    best, fewest, tried = None, 0, 0
    for made in search.proposals():
        cycles = search.cycles(made)
        tried += 1
        if best is None or cycles < fewest:
            best, fewest = made, cycles
    assert best is not None, "there is a proposal, or an error says why not"
    if shared.devices <= FEW:  # more schedules for each device
        made = search.made(best.boxes, SCHEDULES)
        if search.cycles(made) < fewest:
            best = made
    return Division(best.programs, best.spm_peak_bytes, tried)


def prove_devices(programs: tuple[Program, ...]) -> None:
    """Assert of generated programs what the checker proves from their words alone.

    They cannot race or deadlock, read nothing that is not written, and write every output once.
    """
    report = check_devices(programs)
    assert not report.violations, f"the compiler made an unsafe program: {report.violations[0]}"
    assert not report.rewritten, f"the compiler writes an output twice: {report.rewritten}"


class _Made(Frozen):
    """A division that was compiled."""

    boxes: Boxes
    programs: tuple[Program, ...]
    spm_peak_bytes: int
    """The most bytes of the scratchpad that a device holds."""


class _Search:
    """Proposes divisions, compiles and measures them."""

    def __init__(
        self,
        graph: Graph,
        target: Target,
        options: ScheduleOptions,
        note: Note,
        shared: Sharing,
        timed: driver.StageTimes,
    ) -> None:
        self.graph, self.target, self.options, self.note, self.timed = graph, target, options, note, timed
        self.devices, self.split = shared.devices, shared.split
        self.streamed = shared.throughput or shared.split in STREAMED
        self.tables = whole_of(graph, target)

    def cycles(self, made: _Made) -> int:
        """Those of one run, or what a run adds to a stream of runs."""
        return self.timed("measure", self._cycles, made.programs)

    def _cycles(self, programs: tuple[Program, ...]) -> int:
        if self.streamed:
            return cycles_per_run(programs)
        return max(timeline.cycles for timeline in simulate_devices(programs))

    # --- proposals -------------------------------------------------------------------------------

    def proposals(self) -> Iterator[_Made]:
        """Divisions that are worth trying."""
        split, auto = self.split, self.split == "auto"
        images = whole_images(self.graph, self.devices)
        if split == BATCH or (auto and self.streamed and images is not None):
            if images is None:
                text = f"not every value of the network has an image for each of {self.devices} devices"
                remedy = "--shape with a larger batch, or another split"
                raise UsageError(Diagnostic("usage.split", text, remedy=remedy))
            yield self.made(images)
        elif split == "pipeline" or (auto and self.streamed):
            yield from self._pipelines()
        if split == "hybrid" or (auto and not self.streamed):
            yield from self._hybrids()
        if split in (ROWS, CHANNELS):
            yield self.made(Hybrid(self.graph, self.target, self.devices, (split,)).run())

    def _hybrids(self) -> Iterator[_Made]:
        """Of every layer the way that is best, by what is believed of exchanges."""
        seen: list[Boxes] = []
        for belief in BELIEFS if self.devices <= FEW else BELIEFS[:1]:
            boxes = Hybrid(self.graph, self.target, self.devices, (ROWS, CHANNELS), belief).run()
            if boxes not in seen:
                seen.append(boxes)
                yield self.made(boxes)

    def _pipelines(self) -> Iterator[_Made]:
        """Cuts by what layers take on one device, then by what the devices were found to take."""
        values = computed_values(self.graph)
        if len(values) < self.devices:
            text = f"the network has {len(values)} layers, fewer than {self.devices} devices"
            raise UsageError(Diagnostic("usage.split", text, allowed=f"at most {len(values)} devices"))
        cycles = self._layer_cycles(values)
        seen: dict[tuple[Assigned, ...], _Made] = {}
        for _ in range(BALANCED):
            boxes = pipeline(self.graph, cycles, self.devices, self.target)
            key = tuple(boxes[n.id] for n in values)
            if key not in seen:
                seen[key] = self.made(boxes)
                yield seen[key]
            for device, program in enumerate(seen[key].programs):
                mine = [n.id for n in values if boxes[n.id][device] is not None]
                estimated = sum(cycles[name] for name in mine)
                wrong = cycles_alone(program) / max(estimated, 1.0)
                for name in mine:
                    cycles[name] *= wrong**TOWARDS

    def _layer_cycles(self, values: Sequence[Node]) -> dict[int, float]:
        """What every value takes of the cycles of one device."""
        schedule = next(driver.schedules(self.graph, self.target, self.options))
        program = driver.generate(self.graph, schedule, self.target, self.note)
        found = shares(simulate(program), layer_of(program))
        numbers = {n.id: i for i, n in enumerate(schedule.plan.nodes)}
        return {
            n.id: float(found[numbers[n.id]].cycles) if numbers.get(n.id) in found else 0.0 for n in values
        }

    # --- programs --------------------------------------------------------------------------------

    def made(self, boxes: Boxes, schedules: int = 1) -> _Made:
        """The programs of a division, of each the best by itself of so many schedules."""
        return self.timed("schedule", self._made, boxes, schedules)

    def _made(self, boxes: Boxes, schedules: int) -> _Made:
        parts = divide(self.graph, boxes, self.devices)
        made = [self._program(part, device, schedules) for device, part in enumerate(parts)]
        programs = together([program for program, _ in made], parts, self.graph, self.tables)
        return _Made(boxes, programs, max(peak for _, peak in made))

    def _program(self, part: DevicePart, device: int, schedules: int) -> tuple[Program, int]:
        """The program of a device, and the bytes of the scratchpad that it holds."""
        try:
            best = choose(part.graph, self.target, self.options, self.note, search=schedules)
        except FitError as error:
            raise FitError(
                [replace(d, message=f"device {device}: {d.message}") for d in error.diagnostics]
            ) from None
        plan, used = best.schedule.plan, best.schedule.used
        return of_device(best.program, part, plan, self.tables, device), used[Memory.SPM]
