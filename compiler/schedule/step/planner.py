"""The plan of a step: which operations work image by image together, and where values lie.

Operations on images follow one another on one image as long as what they hold fits into the scratchpad: so
their values need no memory beyond. What others need stays in the scratchpad if there is room, else it goes to
the arena. Updates come last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import compiler.schedule.step.convolution  # noqa: F401  # pyright: ignore[reportUnusedImport]
import compiler.schedule.step.loss
import compiler.schedule.step.maps
import compiler.schedule.step.parameters
import compiler.schedule.step.sums
import compiler.schedule.step.update  # noqa: F401  # pyright: ignore[reportUnusedImport]
from compiler.ir.graph import Graph, Input, Node, TupleElement
from compiler.ir.work import LowerBound
from compiler.ops.max_pool import MaxPool
from compiler.ops.shapes import Reshape, unreshaped
from compiler.schedule.builder import Span, Stripe, View, device_shape
from compiler.schedule.options import ScheduleOptions
from compiler.schedule.segments.plan import Plan
from compiler.schedule.step.builder import StepBuilder
from compiler.schedule.step.rows import WORD, Layout, Rows
from compiler.schedule.tile_graph import Buffer, Layer, LineBuffer, Memory, Ref, Tensor, aligned
from compiler.schedule.tiles.planners import planner_of
from compiler.train.integer.convolution import Conv2dWeightSums, Interleave, StepConv2d, TurnWeights
from compiler.train.integer.dense import DenseSums, DenseWeightSums
from compiler.train.integer.pooling import Mask, MaxPoolErrors
from compiler.train.integer.sums import ChannelSums, StepAdd
from compiler.train.integer.update import Update
from compiler.train.integer.weights import QuantizeBias, QuantizeWeights
from compiler.train.lowering import State
from compiler.train.scalars import ScalarFunction
from isa.memory_map import GRANULE_BYTES
from isa.support.records import Frozen
from isa.target import Target

ON_IMAGES: Final = (StepConv2d, MaxPool, MaxPoolErrors, Mask, StepAdd, Interleave, ChannelSums, Conv2dWeightSums)
"""Operations that work on one image after another."""
SUMS: Final = (ChannelSums, Conv2dWeightSums)
"""Those of them whose result is a sum over images."""
BUFFERED: Final = 2
"""Images of a value that are in the scratchpad at once: the next is begun before this one is done."""
SUMS_SHARE: Final = 4
"""Divides the accumulators, for sums that are kept over a batch."""
TILE_SHARE: Final = 0.45
"""The part of the scratchpad that one tile may take; the next is loaded meanwhile."""


class StateBuffers(Frozen):
    """The state region: what lies where, the same for every stream of a binary."""

    buffers: Mapping[str, Buffer]
    layouts: Mapping[str, Rows]
    numbers: Mapping[str, int]
    """Where each number lies in the first buffer, in bytes."""
    size: int

    @staticmethod
    def of(states: Sequence[State], cols: int) -> StateBuffers:
        """Numbers first, then the rows of every tensor."""
        numbers = {s.name: i * WORD for i, s in enumerate(s for s in states if not s.before.shape)}
        buffers = {"": Buffer("numbers", Memory.STATE, max(len(numbers) * WORD, WORD), address=0)}
        layouts: dict[str, Rows] = {}
        end = aligned(buffers[""].size)
        for state in states:
            if state.before.shape:
                layouts[state.name] = Rows.of(state.before.shape, cols)
                size = layouts[state.name].bytes
                buffers[state.name] = Buffer(state.name, Memory.STATE, size, address=end)
                end = aligned(end + size)
        return StateBuffers(buffers, layouts, numbers, end)


class StepPlanner:
    """Makes the tile graph of a step.

    Args:
        graph: of stage step.
        states: what lasts, in the order of the graph's states.
        place: where that lies.
        target: the machine.
        options: what schedules may do.
        fill: the part of the scratchpad that values may hold.
    """

    def __init__(
        self,
        graph: Graph,
        states: Sequence[State],
        place: StateBuffers,
        target: Target,
        options: ScheduleOptions,
        fill: float,
    ) -> None:
        self.graph, self.states, self.place, self.target = graph, states, place, target
        self.b = StepBuilder(target, options)
        self.b.find = self.view
        self.plan = Plan(self.b.graph)
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
        self.runs = self._runs()
        self.inside = {n.id: i for i, run in enumerate(self.runs) for n in run}
        self.resident = self._resident()

    @staticmethod
    def _is_layer(node: Node) -> bool:
        return not (
            node.is_constant or isinstance(node.op, (Input, TupleElement, Reshape, ScalarFunction))
        )

    def run(self) -> Plan:
        """The tile graph."""
        for node in self.graph.nodes():
            if isinstance(node.op, Input) and node.id not in self.b.homes:
                self._input(node)
        self._defer()
        for run in self.runs:
            if isinstance(run[0].op, ON_IMAGES) and len(run[0].inputs[0].shape) == 4 and self._fits(run):
                self._together(run)
            else:
                self._alone(run[0])
        self._leave_numbers()
        for name in self.outputs:
            self.plan.outputs[name] = self.plan.views[name].tensor
        return self.plan

    # --- what works together ---------------------------------------------------------------------

    def _runs(self) -> list[list[Node]]:
        """Operations in an order in which those on images follow one another as long as they can."""
        waiting = {n.id: {unreshaped(_maker(i)).id for i in n.inputs} & set(self.index) for n in self.nodes}
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

    def _images(self, left: Sequence[Node], waiting: Mapping[int, set[int]]) -> list[list[Node]]:
        """Operations on images that can follow one another, in pieces that fit into the scratchpad."""
        made: set[int] = set()
        runs: list[list[Node]] = []
        for node in left:
            if not isinstance(node.op, ON_IMAGES) or waiting[node.id] - made:
                continue
            made.add(node.id)
            if runs and _images_of(runs[-1][0]) == _images_of(node) and self._fits([*runs[-1], node]):
                runs[-1].append(node)
            else:
                runs.append([node])
        return runs

    def _fits(self, run: Sequence[Node]) -> bool:
        """Whether an image of every value, and all weights, can be in the scratchpad."""
        return self._held(run) <= self.room * TILE_SHARE

    def _held(self, run: Sequence[Node]) -> int:
        """Bytes of the scratchpad that a run needs for an image of every value, and for weights."""
        values = {v.id: v for n in run for v in (n, *map(_maker, n.inputs)) if len(v.shape) == 4}
        held = 0
        for value in values.values():
            if isinstance(value.op, (QuantizeWeights, TurnWeights)):
                held += _packed_bytes(value, self.target.mx.cols)
            elif not isinstance(value.op, SUMS):
                held += BUFFERED * aligned(value.type.elements // value.shape[0])
        return held

    def _resident(self) -> set[int]:
        """Values between runs that stay in the scratchpad, the smallest first."""
        spans: dict[int, tuple[int, int]] = {}
        busy = [self._held(run) for run in self.runs]
        for i, run in enumerate(self.runs):
            for node in run:
                last = max((self.inside[u.id] for u in self._users(node)), default=i)
                if last > i and self._may_stay(node):
                    spans[node.id] = (i, last)
        chosen: set[int] = set()
        for name, (first, last) in sorted(spans.items(), key=lambda item: (self._bytes(item[0]), item[0])):
            size = aligned(self._bytes(name))
            if all(busy[i] + size <= self.room for i in range(first, last + 1)):
                chosen.add(name)
                for i in range(first, last + 1):
                    busy[i] += size
        return chosen

    def _bytes(self, name: int) -> int:
        return self.nodes[self.index[name]].type.elements

    def _may_stay(self, node: Node) -> bool:
        """Codes of maps, and weights that `gemm` reads as they lie."""
        if isinstance(node.op, QuantizeWeights):
            return Rows.of(node.shape, self.target.mx.cols).layout is not Layout.KERNEL
        return node.type.dtype.is_code and not isinstance(node.op, TurnWeights) and node.id not in self.outputs

    def _users(self, node: Node) -> list[Node]:
        """The layers that read a value, also through reshapes."""
        found: list[Node] = []
        for user in self.graph.users(node):
            if isinstance(user.op, (Reshape, TupleElement)):
                found += self._users(user)
            elif user.id in self.index:
                found.append(user)
                if isinstance(user.op, (DenseSums, DenseWeightSums, *SUMS)):
                    found += self._users(user)  # they may be made where they are needed
        return found

    def _defer(self) -> None:
        """Sums for which the accumulators have no room over a batch are made where they are needed."""
        left = self.target.acc.rows // SUMS_SHARE
        for node in self.nodes:
            if isinstance(node.op, Conv2dWeightSums):
                rows = Rows.of(node.shape, self.target.mx.cols).count
                if rows <= left:
                    left -= rows
                else:
                    self.b.deferred.add(node.id)

    # --- layers ----------------------------------------------------------------------------------

    def _begin(self, node: Node) -> tuple[Layer, Tensor]:
        kind = node.op.name.rpartition(".")[2]
        layer = Layer(self.index[node.id], node.name, kind, node.loc, (), LowerBound(0, 0, 0))
        self.b.begin(layer)
        if isinstance(node.op, (Update, DenseSums, DenseWeightSums, *SUMS)):  # no value of its own
            return layer, Tensor(-1, node.name, device_shape(node.shape), Buffer(node.name, Memory.ARENA, 0))
        return layer, self.view(node).tensor

    def _alone(self, node: Node) -> None:
        """An operation over the whole batch."""
        _, out = self._begin(node)
        held = sum(aligned(self._bytes(v)) for v in self.resident)
        budget = int((self.target.spm.bytes - held) * TILE_SHARE)
        planner_of(node.op)(self.b, node, node.op, lambda i: self.view(node.inputs[i]), out, budget)

    def _together(self, run: Sequence[Node]) -> None:
        """Operations on one image after another."""
        members = [(node, *self._begin(node)) for node in run]
        inside = {n.id for n in run}
        for node, _, out in members:
            if not out.resident and not isinstance(node.op, SUMS):
                out.line = LineBuffer(out.shape[2] * out.shape[3])
        entering = dict.fromkeys(
            unreshaped(_maker(i)) for n in run for i in n.inputs if len(i.shape) == 4 and _is_map(i)
            and unreshaped(_maker(i)).id not in inside
        )
        for image in range(_images_of(run[0])):
            for value in entering:
                self._enter(value, image, members[0][1])
            for node, layer, out in members:
                self.b.resume(layer)
                height = node.inputs[-1].shape[1] if isinstance(node.op, SUMS) else out.shape[1]
                self.b.stripe = Stripe(image, Span(0, height))
                if out.line is not None:
                    out.line.stripes = []
                    size = out.shape[1] * out.line.row
                    out.line.add(self.b.buffer("image", Memory.SPM, size), 0, out.shape[1])
                budget = self.target.spm.bytes
                planner_of(node.op)(self.b, node, node.op, lambda i, n=node: self.view(n.inputs[i]), out, budget)
        self.b.stripe = None
        self.b.kept.clear()
        for value in entering:
            self.view(value).tensor.line = None
        for _, _, out in members:
            out.line = None

    def _enter(self, value: Node, image: int, layer: Layer) -> None:
        """Bring an image of a value from DRAM."""
        tensor = self.view(value).tensor
        if tensor.home.memory is Memory.SPM:
            return
        self.b.resume(layer)
        self.b.tile = (image,)
        _, height, width, channels = tensor.shape
        tensor.line = LineBuffer(width * channels)
        buffer = self.b.buffer("image", Memory.SPM, height * tensor.line.row)
        self.b.load_rows(tensor, image, Span(0, height), Ref(buffer))
        tensor.line.add(buffer, 0, height)

    def _leave_numbers(self) -> None:
        """What the next step finds: all is computed before any of it is stored."""
        numbers = [s for s in self.states if s.after is not None and not s.before.shape]
        moved = [s for s in numbers if isinstance(s.after.op, Input)] if numbers else []
        for state in numbers:
            assert state.after is not None
            self.b.numbers.read(state.after)
        for state in (*moved, *(s for s in numbers if s not in moved)):
            assert state.after is not None
            self.b.numbers.store(state.after, Ref(self.place.buffers[""], self.place.numbers[state.name]))

    # --- values ----------------------------------------------------------------------------------

    def _input(self, node: Node) -> None:
        """A tensor that the host gives as it is."""
        item = node.type.dtype.numpy.itemsize
        home = Buffer(node.name, Memory.INPUT, node.type.elements * item)
        tensor = self._tensor(node, home)
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
                self.plan.views[node.id] = View(self._tensor(node, self._home(node)), device_shape(node.shape))
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
        if isinstance(node.op, (QuantizeWeights, TurnWeights)):
            size = _packed_bytes(node, self.target.mx.cols)
        if node.id in self.outputs:
            return Buffer(node.name, Memory.OUTPUT, size)
        if node.id in self.resident:
            return Buffer(node.name, Memory.SPM, size)
        return Buffer(node.name, Memory.ARENA, size)


def _maker(node: Node) -> Node:
    """The operation that gives a value as its first result, or as another one."""
    return node.inputs[0] if isinstance(node.op, TupleElement) else node


def _is_map(node: Node) -> bool:
    return node.type.dtype.is_code and not isinstance(_maker(node).op, (QuantizeWeights, TurnWeights))


def _images_of(node: Node) -> int:
    """Images that an operation works on."""
    return node.inputs[0].shape[0] if len(node.inputs[0].shape) == 4 else 1


def _packed_bytes(node: Node, cols: int) -> int:
    """Bytes of weights as the array reads them."""
    if len(node.shape) != 4:
        return node.type.elements
    out, ins, kh, kw = node.shape
    return -(-out // cols) * cols * ins * kh * kw

