"""Compilation from front to back: one call per stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import ParamSpec, TypeVar

from compiler.codegen.emit import emit, require_room, resolved_stream
from compiler.errors import FitError
from compiler.ir.evaluate import Sample
from compiler.ir.graph import Graph
from compiler.ir.stage import Stage
from compiler.passes.base import PassLog, run_passes
from compiler.passes.calibrate import observe, scheme_of
from compiler.passes.equalize import EqualizeLayers
from compiler.passes.merge_images import MergeImages
from compiler.passes.pipeline import PREPARE, PREPARE_PREQUANTIZED, TO_DEVICE, fuse_passes, quantize_passes
from compiler.quantize.methods import Recipe
from compiler.quantize.representable import require_finite_constants, require_finite_scales
from compiler.quantize.scheme import Scheme
from compiler.schedule.options import ScheduleOptions
from compiler.schedule.scheduler import Schedule
from compiler.schedule.scheduler import schedules as all_schedules
from compiler.schedule.tokens import insert_tokens
from isa.program import Note, Program
from isa.soundness import HOST_CAP
from isa.support.diagnostics import Diagnostic
from isa.support.records import Struct, field
from isa.target import Target

P = ParamSpec("P")
T = TypeVar("T")


class StageTimes(Struct):
    """Seconds spent in each stage."""

    seconds: dict[str, float] = field(default_factory=dict[str, float])
    _started: float = field(default_factory=time.perf_counter)

    def __call__(self, stage: str, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """Call a function; the time since the last stage ended counts to this one."""
        result = function(*arguments, **options)
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._started
        self._started = now
        return result


def prepare(graph: Graph, log: PassLog | None = None) -> Graph:
    """A float graph as the importers give it, simplified.

    Raises:
        CompileError: its constants are not finite.
    """
    prepared = run_passes(graph, PREPARE, log)
    require_finite_constants(prepared)
    return prepared


def prepare_prequantized(graph: Graph, log: PassLog | None = None) -> Graph:
    """A prequantized graph as the importers give it, simplified."""
    return run_passes(graph, PREPARE_PREQUANTIZED, log)


def fuse_prequantized(graph: Graph, scheme: Scheme | None = None, log: PassLog | None = None) -> Graph:
    """The integer graph of a prepared prequantized graph, its scales untouched.

    `scheme` quantizes the results that the model leaves open.

    Raises:
        CompileError: operations that the device does not have, or that the model does not quantize.
    """
    integers = run_passes(graph, fuse_passes(scheme or Scheme()), log)
    require_finite_scales(integers)
    return integers


def equalize(graph: Graph, log: PassLog | None = None) -> Graph:
    """A prepared float graph with like ranges in the channels between layers; it computes the same bits."""
    return run_passes(graph.copy(), [EqualizeLayers()], log)


def calibrate(graph: Graph, samples: Iterable[Sample], recipe: Recipe, given: Scheme | None = None) -> Scheme:
    """The scheme that a recipe makes of samples; what a given one says goes before.

    Raises:
        UsageError: there is no sample, or a tensor is not finite on one.
        CompileError: operations that the device does not have.
    """
    seen = observe(graph, samples, ranges_alone=recipe.method == "minmax")
    return scheme_of(graph, seen, recipe, given)


def quantize(graph: Graph, scheme: Scheme, log: PassLog | None = None) -> Graph:
    """The integer graph of a prepared float graph, with the scales of a scheme.

    Raises:
        CompileError: operations that the device does not have, or scales that it cannot compute with.
    """
    quantized = run_passes(graph, quantize_passes(scheme), log)
    require_finite_scales(quantized)
    return quantized


def lower(graph: Graph, log: PassLog | None = None, *, divided: bool = False) -> Graph:
    """An integer graph in the device's layout; the graph that is given stays as it is.

    Of one that is to be divided among devices images are not merged: devices may have some each.
    """
    if graph.stage is Stage.DEVICE:
        return graph
    passes = [p for p in TO_DEVICE if not (divided and isinstance(p, MergeImages))]
    return run_passes(graph.copy(), passes, log)


def schedules(graph: Graph, target: Target, options: ScheduleOptions) -> Iterator[Schedule]:
    """Tiles, their order and their addresses, for a graph of stage device: at least one, the likeliest first.

    Raises:
        FitError: the target is too small for a layer.
        CompileError: scales that the device cannot compute with.
    """
    require_finite_scales(graph)
    require_dram(graph, target)
    yield from all_schedules(graph, target, options)


def generate(graph: Graph, scheduled: Schedule, target: Target, note: Note) -> Program:
    """The program of a schedule, which the checker has still to pass.

    Raises:
        FitError: the regions do not fit into the target's DRAM, or it has too few semaphores.
    """
    used = scheduled.used
    require_room(used, target)
    synchronized = insert_tokens(resolved_stream(scheduled.order), target)
    return emit(graph, scheduled.plan, scheduled.order, synchronized, used, target, note)


def require_dram(graph: Graph, target: Target) -> None:
    """A tensor that is larger than the memory is found before calibration, and before it is cut into tiles.

    Raises:
        FitError: there is one; float tensors count as the int8 ones that they become.
    """
    allowed = min(target.dram.size, HOST_CAP)
    for node in graph.nodes():
        on_device = node.type.dtype.is_integer or graph.stage is Stage.NN
        if on_device and not node.is_constant and node.type.elements > allowed:
            raise FitError(
                Diagnostic(
                    "fit.dram",
                    f"'{node.name}' has {node.type.elements} bytes, {node.type.elements - allowed} more than "
                    f"the {allowed} of DRAM available",
                    node.loc,
                    remedy="choose a larger dram.size, or a smaller input",
                )
            )
