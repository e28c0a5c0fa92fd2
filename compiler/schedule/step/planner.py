"""The plan of a step: which operations work image by image together, and where values lie.

Operations on images follow one another on one image as long as what they hold fits into the scratchpad: so
their values need no memory beyond. What others need stays in the scratchpad if there is room, else it goes to
the arena. Updates come last.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import compiler.schedule.step.tiles  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.ir.graph import Graph, Input, Node, TupleElement
from compiler.ir.types import DType
from compiler.ir.work import LowerBound
from compiler.ops.shapes import Reshape, unreshaped
from compiler.schedule.builder import RANK, Span, Stripe, View, device_shape
from compiler.schedule.options import ScheduleOptions, StepOptions
from compiler.schedule.segments.plan import Plan
from compiler.schedule.step.builder import GRADUAL, StepBuilder
from compiler.schedule.step.kinds import (
    LATE,
    ON_IMAGES,
    SUMS,
    images_of,
    is_map,
    maker_of,
    on_array,
    packed_bytes,
)
from compiler.schedule.step.rows import Layout, StateBuffers, StateRows
from compiler.schedule.step.tiles.depthwise import stored_shape
from compiler.schedule.step.tiles.normalization import IN_ROWS, rows_bytes
from compiler.schedule.step.tiles.wide import BLOCKS
from compiler.schedule.tile_graph import Buffer, Layer, LineBuffer, Memory, Ref, Tensor, aligned
from compiler.schedule.tiles.planners import planner_of
from compiler.train.integer.convolution import Conv2dWeightSums, StepConv2d, TurnWeights
from compiler.train.integer.normalization import MovingAverage
from compiler.train.integer.update import Update
from compiler.train.integer.weights import QuantizeBias, QuantizeWeights
from compiler.train.lowering import StateTensor
from compiler.train.scalars import ScalarFunction
from isa.instructions.dma import Load, Store
from isa.memory_map import GRANULE_BYTES
from isa.target import Target

BUFFERED: Final = 2
"""Images of a value that are in the scratchpad at once: the next is begun before this one is done."""
SUMS_SHARE: Final = 4
"""Divides the accumulators, for sums that are kept over a batch."""
TILE_SHARE: Final = 0.45
"""The part of the scratchpad that one tile may take; the next is loaded meanwhile."""


class StepPlanner:
    """Makes the tile graph of a step.

    Args:
        graph: of stage step.
        states: what lasts, in the order of the graph's states.
        place: where that lies.
        target: the machine.
        options: what schedules may do.
        fill: the part of the scratchpad that values may hold.
        choices: what schedules may differ in.
    """

    def __init__(
        self,
        graph: Graph,
        states: Sequence[StateTensor],
        place: StateBuffers,
        target: Target,
        options: ScheduleOptions,
        fill: float,
        choices: StepOptions,
    ) -> None:
        self.graph, self.states, self.place, self.target = graph, states, place, target
        self.b = StepBuilder(target, options)
        self.b.choices = choices
        self.b.find = self.view
        self.plan = Plan(self.b.graph)
        self.layers: dict[int, Layer] = {}
        self.lines: dict[tuple[int, int], LineBuffer] = {}
        """Where a run has an image of a value, by value and image."""
        self.again = choices.again
        self.room = int(target.spm.bytes * fill)
        self.nodes = [n for n in graph.nodes() if self._is_layer(n)]
        self.index = {n.id: i for i, n in enumerate(self.nodes)}
        lasting = {s.name for s in states}
        named = zip(graph.outputs, graph.output_names, strict=True)
        self.outputs = {n.id: name for n, name in named if name not in lasting}
        for state in states:
            node = state.before
            if node.shape:
                self.b.homes[node.id] = Ref(place.buffers[state.name])
                self.b.layouts[node.id] = place.layouts[state.name]
            else:
                self.b.homes[node.id] = Ref(place.buffers[""], place.numbers[state.name])
        self._defer()
        self.runs = self._runs()
        self.inside = {n.id: i for i, run in enumerate(self.runs) for n in run}
        self.resident = self._resident()

    @staticmethod
    def _is_layer(node: Node) -> bool:
        return not (node.is_constant or isinstance(node.op, (Input, TupleElement, Reshape, ScalarFunction)))

    def run(self) -> Plan:
        """The tile graph."""
        for node in self.graph.nodes():
            if isinstance(node.op, Input) and node.id not in self.b.homes:
                self._input(node)
        beside = self._beside()
        made = {n.id for nodes in beside.values() for n in nodes}
        for index, run in enumerate(self.runs):
            if self._is_striped(run):
                self._together(run, beside[index])
            elif run[0].id not in made:
                self._alone(run[0])
        self._leave_numbers()
        self._leave_out_spills()
        for name in self.outputs:
            self.plan.outputs[name] = self.plan.views[name].tensor
        return self.plan

    # --- what works together ---------------------------------------------------------------------

    def _runs(self) -> list[list[Node]]:
        """Operations in an order in which those on images follow one another as long as they can."""
        waiting = {n.id: {unreshaped(maker_of(i)).id for i in n.inputs} & set(self.index) for n in self.nodes}
        left = list(self.nodes)
        runs: list[list[Node]] = []
        while left:
            ready = [n for n in left if not waiting[n.id]]
            chosen = [n for n in ready if not isinstance(n.op, (*ON_IMAGES, Update))]
            if chosen:
                found = [[n] for n in chosen]
            else:
                images = self._images(left, waiting)
                found = images or [[n] for n in ready]
            done = {n.id for run in found for n in run}
            left = [n for n in left if n.id not in done]
            for needs in waiting.values():
                needs -= done
            runs += found
        return runs

    def _is_striped(self, run: Sequence[Node]) -> bool:
        """Whether operations work image by image together."""
        return isinstance(run[0].op, ON_IMAGES) and images_of(run[0]) > 0 and self._fits(run)

    def _beside(self) -> dict[int, list[Node]]:
        """What can be made tile by tile beside a run of operations on images, by the run's index.

        Before it that is what it does not need, and no one before it; after it, what does not need it.
        """
        found: dict[int, list[Node]] = {}
        taken: set[int] = set()
        for index, run in enumerate(self.runs):
            if not self._is_striped(run):
                continue
            found[index] = []
            for at, (node, *_) in enumerate(self.runs):
                if type(node.op) not in GRADUAL or node.id in taken or at == index:
                    continue
                needed = min((self.inside[u.id] for u in self._users(node)), default=len(self.runs))
                ready = max((self.inside[m] for m in self._needs(node)), default=-1)
                if ready < index < needed:
                    found[index].append(node)
                    taken.add(node.id)
        return found

    def _needs(self, node: Node) -> set[int]:
        """The layers whose results a layer reads, also where it makes what it reads itself."""
        found: set[int] = set()
        for operand in node.inputs:
            maker = unreshaped(maker_of(operand))
            if maker.id not in self.index:
                continue
            found.add(maker.id)
            if isinstance(maker.op, LATE) or maker.id in self.b.deferred:
                found |= self._needs(maker)
        return found

    def _images(self, left: Sequence[Node], waiting: Mapping[int, set[int]]) -> list[list[Node]]:
        """Operations on images that can follow one another, in pieces that fit into the scratchpad."""
        made: set[int] = set()
        runs: list[list[Node]] = []
        for node in left:
            if not isinstance(node.op, ON_IMAGES) or waiting[node.id] - made:
                continue
            made.add(node.id)
            if runs and images_of(runs[-1][0]) == images_of(node) > 0 and self._fits([*runs[-1], node]):
                runs[-1].append(node)
            else:
                runs.append([node])
        return runs

    def _fits(self, run: Sequence[Node]) -> bool:
        """Whether an image of every value, and all weights, can be in the scratchpad."""
        return self._held(run) <= self.room * TILE_SHARE

    def _held(self, run: Sequence[Node]) -> int:
        """Bytes of the scratchpad that a run needs for an image of every value, and for weights."""
        values = {v.id: v for n in run for v in (n, *map(maker_of, n.inputs)) if len(v.shape) == 4}
        held = 0
        for value in values.values():
            if isinstance(value.op, (QuantizeWeights, TurnWeights)):
                held += packed_bytes(value, self.target.mx.cols)
            elif not isinstance(value.op, SUMS):
                held += BUFFERED * aligned(value.type.elements // value.shape[0])
        return held

    def _resident(self) -> dict[int, tuple[int, int]]:
        """Values between runs that stay in the scratchpad, the smallest first, and during which runs."""
        spans: dict[int, tuple[int, int]] = {}
        busy = [self._held(run) for run in self.runs]
        for i, run in enumerate(self.runs):
            for node in run:
                last = max((self.inside[u.id] for u in self._users(node)), default=i)
                if last > i and self._may_stay(node):
                    spans[node.id] = (i, last)
        chosen: dict[int, tuple[int, int]] = {}
        for name, (first, last) in sorted(spans.items(), key=lambda item: (self._bytes(item[0]), item[0])):
            size = aligned(self._bytes(name))
            if all(busy[i] + size <= self.room for i in range(first, last + 1)):
                chosen[name] = first, last
                for i in range(first, last + 1):
                    busy[i] += size
        return chosen

    def _bytes(self, name: int) -> int:
        return self.nodes[self.index[name]].type.elements

    def _may_stay(self, node: Node) -> bool:
        """Codes of maps, and weights that `gemm` reads as they lie."""
        if isinstance(node.op, QuantizeWeights):
            return StateRows.of(node.shape, self.target.mx.cols).layout is not Layout.KERNEL
        return (
            node.type.dtype.is_code and not isinstance(node.op, TurnWeights) and node.id not in self.outputs
        )

    def _users(self, node: Node) -> list[Node]:
        """The layers that read a value, also through reshapes."""
        found: list[Node] = []
        for user in self.graph.users(node):
            if isinstance(user.op, (Reshape, TupleElement)):
                found += self._users(user)
            elif user.id in self.index:
                found.append(user)
                if isinstance(user.op, LATE) or user.id in self.b.deferred:
                    found += self._users(user)  # they may be made where they are needed
        return found

    def _defer(self) -> None:
        """Sums for which the accumulators have no room over a batch are made where they are needed."""
        left = self.target.acc.rows // SUMS_SHARE
        for node in self.nodes:
            if isinstance(node.op, Conv2dWeightSums):
                blocks = BLOCKS if node.type.dtype is DType.I64 else 1
                rows = blocks * StateRows.of(stored_shape(node), self.target.mx.cols).count
                if rows <= left:
                    left -= rows
                else:
                    self.b.deferred.add(node.id)

    # --- layers ----------------------------------------------------------------------------------

    def _begin(self, node: Node) -> tuple[Layer, Tensor]:
        kind = node.op.name.rpartition(".")[2]
        layer = Layer(self.index[node.id], node.name, kind, node.loc, (), LowerBound(0, 0, 0))
        self.b.begin(layer)
        self.layers[node.id] = layer
        return layer, self._out(node)

    def _alone(self, node: Node) -> None:
        """An operation over the whole batch."""
        _, out = self._begin(node)
        budget = int((self.target.spm.bytes - self._kept_bytes(self.inside[node.id])) * TILE_SHARE)
        planner_of(node.op)(self.b, node, node.op, lambda i: self.view(node.inputs[i]), out, budget)

    def _together(self, run: Sequence[Node], beside: Sequence[Node]) -> None:
        """Operations on one image after another; others tile by tile beside them.

        In every round each operation works on another image: so array and vector unit do not wait for one
        another. What came first in the order of the images comes first in a round.
        """
        tiles = [tile for node in beside for tile in self._tiles(node, self.inside[run[0].id])]
        for node in run:
            self._begin(node)
        entering = self._entering(run)
        delay = self._delays(run, entering)
        entering.sort(key=lambda n: isinstance(n.op, StepConv2d))  # made again of what comes before
        members = sorted((*entering, *run), key=lambda n: -delay[n.id])
        images, made = images_of(run[0]), 0
        rounds = images + max(delay.values())
        for number in range(rounds):
            for node in members:
                image = number - delay[node.id]
                if 0 <= image < images:
                    self._on_image(node, image, entering)
            while made < len(tiles) * (number + 1) // rounds:
                self._aside(tiles[made])
                made += 1
        self.b.stripe = None
        self.b.kept.clear()
        self._unfocus()
        self.lines.clear()

    def _entering(self, run: Sequence[Node]) -> list[Node]:
        """Values that a run reads and does not make, and that are not in the scratchpad."""
        inside = {n.id for n in run}
        found: dict[Node, None] = {}
        for operand in (i for n in run for i in n.inputs if len(i.shape) == 4 and is_map(i)):
            maker = unreshaped(maker_of(operand))
            if maker.id not in inside and self.view(maker).tensor.home.memory is not Memory.SPM:
                found[maker] = None
        return list(found)

    def _delays(self, run: Sequence[Node], entering: Sequence[Node]) -> dict[int, int]:
        """By how many rounds each operation is behind the first: one for each change of the engine."""
        delay: dict[int, int] = {}
        for node in run:
            delay[node.id] = 0
            for operand in node.inputs:
                maker = unreshaped(maker_of(operand))
                if maker in entering and self.again and isinstance(maker.op, StepConv2d):
                    delay[node.id] = max(delay[node.id], 1)
                elif maker.id in delay:
                    changes = on_array(maker) != on_array(node)
                    delay[node.id] = max(delay[node.id], delay[maker.id] + changes)
        for value in entering:
            users = [n for n in run if any(unreshaped(maker_of(i)) is value for i in n.inputs)]
            first = min(delay[u.id] for u in users)
            again = self.again and isinstance(value.op, StepConv2d)
            delay[value.id] = 0 if again else first
        for value in entering:  # what another is computed again from is there before
            for operand in value.inputs if isinstance(value.op, StepConv2d) and self.again else ():
                if operand in entering:
                    delay[operand.id] = 0
        return delay

    def _on_image(self, node: Node, image: int, entering: Sequence[Node]) -> None:
        """An operation on one image, or an image of a value that comes from outside."""
        out = self._out(node)
        if node in entering and not self._is_again(node, image):
            self.b.resume(next(self.layers[u.id] for u in self._users(node) if u.id in self.layers))
            self._enter(node, image)
            return
        self.b.resume(self.layers[node.id])
        height = node.inputs[-1].shape[1] if isinstance(node.op, SUMS) else out.shape[1]
        self.b.stripe = Stripe(image, Span(0, height))
        for operand in node.inputs:
            self._focus(unreshaped(maker_of(operand)), image)
        if not isinstance(node.op, SUMS) and out.home.memory is not Memory.SPM:
            out.line = LineBuffer(out.shape[2] * out.shape[3])
            out.line.add(self.b.buffer("image", Memory.SPM, out.shape[1] * out.line.row), 0, out.shape[1])
            self.lines[node.id, image] = out.line
            out.delivered = node not in entering and self._leaves(node) and not self._is_again(node, image)
        planner = planner_of(node.op)
        planner(self.b, node, node.op, lambda i: self.view(node.inputs[i]), out, self.target.spm.bytes)

    def _focus(self, node: Node, image: int) -> None:
        """Let a value be found where the run has this image of it."""
        if (node.id, image) in self.lines:
            self.view(node).tensor.line = self.lines[node.id, image]

    def _unfocus(self) -> None:
        """Let values be found at home."""
        for value, _ in self.lines:
            self.plan.views[value].tensor.line = None

    def _out(self, node: Node) -> Tensor:
        """Where the result of an operation is; sums have no place of their own."""
        if isinstance(node.op, (Update, MovingAverage, *LATE, *SUMS)):
            return Tensor(-1, node.name, device_shape(node.shape), Buffer(node.name, Memory.ARENA, 0))
        return self.view(node).tensor

    def _is_again(self, node: Node, image: int) -> bool:
        """Whether a later run computes an image of a value again."""
        if not isinstance(node.op, StepConv2d) or node.id in self.resident or node.id in self.outputs:
            return False
        later = [u for u in self._users(node) if self.inside[u.id] != self.inside[node.id]]
        if not all(self._is_striped(self.runs[self.inside[u.id]]) for u in later):
            return False
        return int((image + 1) * self.again) > int(image * self.again)

    def _tiles(self, node: Node, run: int) -> Sequence[Callable[[], None]]:
        """The tiles of an operation that is made beside a run."""
        layer, out = self._begin(node)
        budget = int((self.target.spm.bytes - self._kept_bytes(run)) * TILE_SHARE / 2)
        make = GRADUAL[type(node.op)]
        tiles = make(self.b, node, lambda i: self.view(node.inputs[i]), out, budget)

        def as_own(tile: Callable[[], None]) -> None:
            self.b.resume(layer)
            tile()

        return [partial(as_own, tile) for tile in tiles]

    def _aside(self, tile: Callable[[], None]) -> None:
        """A tile of another operation between those of a run; for it, values are at home."""
        self._unfocus()
        stripe, self.b.stripe = self.b.stripe, None
        tile()
        self.b.stripe = stripe

    def _kept_bytes(self, run: int) -> int:
        """Bytes of the scratchpad that other runs need during one."""
        spans = self.resident.items()
        return sum(aligned(self._bytes(v)) for v, (first, last) in spans if first <= run <= last)

    def _enter(self, value: Node, image: int) -> None:
        """Bring an image of a value from DRAM: of a matrix, a row."""
        tensor = self.view(value).tensor
        _, height, width, channels = tensor.shape
        self.b.tile = (image,)
        tensor.line = None
        if tensor.shape[0] == value.shape[0]:
            line = LineBuffer(width * channels)
            buffer = self.b.buffer("image", Memory.SPM, height * line.row)
            self.b.load_rows(tensor, image, Span(0, height), Ref(buffer))
        else:
            line = LineBuffer(channels)
            buffer = self.b.buffer("image", Memory.SPM, channels)
            self.b.load(Ref(tensor.home, image * channels), Ref(buffer), channels, [])
        line.add(buffer, 0, height)
        self.lines[value.id, image] = line

    def _leave_numbers(self) -> None:
        """What the next step finds: all is computed before any of it is stored."""
        numbers = [s for s in self.states if s.after is not None and not s.before.shape]
        moved = [s for s in numbers if s.after is not None and isinstance(s.after.op, Input)]
        for state in numbers:
            assert state.after is not None
            self.b.numbers.read(state.after)
        for state in (*moved, *(s for s in numbers if s not in moved)):
            assert state.after is not None
            self.b.numbers.store(state.after, Ref(self.place.buffers[""], self.place.numbers[state.name]))

    def _leave_out_spills(self) -> None:
        """Numbers that gave their register up and are not read again need not be stored."""
        spilled = {id(ref.buffer) for ref in self.b.numbers.spilled}
        read = {id(op.bind["dram"].buffer) for op in self.plan.tiles.ops if isinstance(op.instr, Load)}
        unread = spilled - read
        self.plan.tiles.ops[:] = [
            op
            for op in self.plan.tiles.ops
            if not isinstance(op.instr, Store) or id(op.bind["dram"].buffer) not in unread
        ]

    # --- values ----------------------------------------------------------------------------------

    def _input(self, node: Node) -> None:
        """A tensor that the host gives as it is; samples of fewer axes lie as the images that they become."""
        item = node.type.dtype.numpy.itemsize
        home = Buffer(node.name, Memory.INPUT, node.type.elements * item)
        images = [u for u in self.graph.users(node) if isinstance(u.op, Reshape) and len(u.shape) == RANK]
        tensor = self._tensor(images[0] if images and len(node.shape) < RANK else node, home)
        self.plan.inputs.append((node, tensor))
        self.plan.views[node.id] = View(tensor, device_shape(node.shape))

    def view(self, node: Node) -> View:
        """Where a value is."""
        if node.id not in self.plan.views:
            if isinstance(node.op, Reshape):
                source = self.view(node.inputs[0])
                self.plan.views[node.id] = View(source.tensor, device_shape(node.shape))
            elif isinstance(node.op, TupleElement) and node.op.index == 0:
                self.plan.views[node.id] = self.view(node.inputs[0])
            else:
                self.plan.views[node.id] = View(
                    self._tensor(node, self._home(node)), device_shape(node.shape)
                )
                self.plan.views[node.id].tensor.delivered = self._leaves(node)
        return self.plan.views[node.id]

    def _leaves(self, node: Node) -> bool:
        """Whether a value is needed outside of its run."""
        mine = self.inside.get(node.id)
        return node.id in self.outputs or any(self.inside[u.id] != mine for u in self._users(node))

    def _tensor(self, node: Node, home: Buffer) -> Tensor:
        n, h, w, c = device_shape(node.shape)
        item = node.type.dtype.numpy.itemsize
        tensor = Tensor(len(self.plan.tiles.tensors), node.name, (n, h, w, c * item), home, item)
        self.plan.tiles.tensors.append(tensor)
        return tensor

    def _home(self, node: Node) -> Buffer:
        size = node.type.elements * node.type.dtype.numpy.itemsize
        if isinstance(node.op, QuantizeBias):
            size = node.type.elements * GRANULE_BYTES
        if isinstance(maker_of(node).op, IN_ROWS):
            size = rows_bytes(node, self.target.mx.cols)
        if isinstance(node.op, (QuantizeWeights, TurnWeights)):
            size = packed_bytes(node, self.target.mx.cols)
        if node.id in self.outputs:
            return Buffer(node.name, Memory.OUTPUT, size)
        if node.id in self.resident:
            return Buffer(node.name, Memory.SPM, size)
        return Buffer(node.name, Memory.ARENA, size)
