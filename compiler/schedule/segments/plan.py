"""Plan: every node of a device graph becomes tile operations.

Which layers work together, and which results stay in the scratchpad, `segments` has decided.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Final

from compiler.errors import CompileError, FitError
from compiler.ir.graph import Graph, Input, Node
from compiler.ir.types import DType, Shape
from compiler.ir.work import LowerBound
from compiler.ops.gemm import QGemm
from compiler.ops.quantize_linear import Quantize, device_values, is_given, returned_value
from compiler.ops.shapes import Reshape, Transpose, unreshaped
from compiler.ops.transfer import SendTo
from compiler.schedule.builder import SINGLE, Builder, Joined, View, device_shape, packed_bytes
from compiler.schedule.options import ScheduleOptions
from compiler.schedule.segments.cascade import SegmentLayer, SegmentPlanner
from compiler.schedule.segments.partition import Partitioner, Segment
from compiler.schedule.segments.stripes import stripes_of
from compiler.schedule.segments.subtensors import Subtensor, operands_in_place, slices_in_place, whole_of
from compiler.schedule.tile_graph import Buffer, Layer, LineBuffer, Memory, Tensor, TileGraph, aligned
from compiler.schedule.tiles.planners import planner_of
from isa.instructions.matrix import ArrayGemm, Conv
from isa.instructions.vector import VectorMove
from isa.spec import greatest
from isa.support.diagnostics import Diagnostic
from isa.support.records import Struct, field, replace
from isa.target import Target

MAX_RESIDENT_PIXEL: Final = greatest(Conv, "ips")
MAX_RESIDENT_ROW: Final = greatest(VectorMove, "ss1")
"""Pitches that every instruction on images can express."""
MAX_RESIDENT_DEPTH: Final = greatest(ArrayGemm, "ap")

INDEX_BYTES: Final = 4
"""Bytes of an index on the device: an int32."""
TILE_SHARE: Final = 0.45
"""The part of the scratchpad left for a layer that one of its tiles may take: the next is loaded meanwhile.

Two tiles leave a tenth for the gaps between buffers. A compromise: larger tiles make fewer instructions.
"""


class Plan(Struct):
    """The tile graph, and where the graph's inputs, outputs and values are."""

    tiles: TileGraph
    nodes: list[Node] = field(default_factory=list[Node])
    """That of every layer, by number."""
    views: dict[int, View] = field(default_factory=dict[int, View])
    inputs: list[tuple[Node, Tensor | Buffer]] = field(default_factory=list[tuple[Node, Tensor | Buffer]])
    """By what quantizes them; an input that nothing reads is a buffer."""
    outputs: dict[int, Tensor | Buffer] = field(default_factory=dict[int, Tensor | Buffer])
    """Those that are no inputs; a constant is a buffer among the weights."""


def plan(graph: Graph, target: Target, options: ScheduleOptions, fill: float = 1.0) -> Plan:
    """The tile operations of a graph of stage device.

    Raises:
        FitError: a layer has no tile that fits.
        CompileError: an operation that is not supported.
    """
    return _Planner(graph, target, options, fill).run()


def item_bytes(node: Node) -> int:
    """Bytes of an element on the device: indices are int32 there."""
    return INDEX_BYTES if node.type.dtype is DType.I64 else 1


def host_value(edge: Node) -> Node:
    """The graph input behind what quantizes it, and behind a permutation of the host."""
    while edge.inputs:
        (edge,) = edge.inputs
    return edge


def _require_codes(node: Node) -> None:
    """Indices are returned; nothing computes with them."""
    if any(not i.is_constant and i.type.dtype is DType.I64 for i in node.inputs):
        message = f"'{node.name}' computes with indices, which is not supported"
        allowed = "indices that are reshaped and returned"
        raise CompileError(Diagnostic("model.unsupported", message, node.loc, allowed))


class _Planner:
    def __init__(self, graph: Graph, target: Target, options: ScheduleOptions, fill: float) -> None:
        self.graph, self.target, self.options = graph, target, options
        self.builder = Builder(target, options)
        self.plan = Plan(self.builder.graph)
        self.read: set[Node] = set()
        """Graph inputs that a layer so far reads."""
        self.unsupported: list[Diagnostic] = []
        self.too_large: list[Diagnostic] = []
        self.nodes = device_values(graph)
        self.subtensors: dict[int, Subtensor] = {}
        """Values that lie within another."""
        if options.address:
            self.subtensors = slices_in_place(graph, self.nodes, target)
        self.layers = [
            n for n in self.nodes if not isinstance(n.op, (Quantize, Reshape)) and n.id not in self.subtensors
        ]
        self.plan.nodes = self.layers
        self.index = {n.id: i for i, n in enumerate(self.layers)}
        self.returned = {unreshaped(returned_value(n)).id for n in graph.outputs if not is_given(n)}
        self.users = {
            n.id: self._layers_using(n)
            for n in self.nodes
            if not isinstance(n.op, Reshape) and n.id not in self.subtensors
        }
        """For every value the layers that read it, by index."""
        self.partitioner = Partitioner(
            self.layers,
            self.users,
            frozenset(self.returned),
            frozenset(n.id for n in self.layers if self._may_stay(n)),
            target,
            options,
            fill,
            self.subtensors,
        )
        self.partition = self.partitioner.partition()
        self.resident = self.partition.resident
        self.joined = {s.layers[1].id for s in self.partition.segments if not s.rows and len(s.layers) > 1}
        self.held = self._held_by_layer()
        if options.address:
            self._join_in_place()

    def run(self) -> Plan:
        for node in self.graph.nodes():
            if isinstance(node.op, Quantize):
                self._input(node)
            elif isinstance(node.op, Input) and not self.graph.users(node):
                self.plan.inputs.append((node, self._unread(node)))
        for segment in self.partition.segments:
            if segment.rows:
                self._segment(segment)
            else:
                self._layer(*segment.layers)
        self._raise_refusals()
        for node in self.nodes:
            self._view(node)
        for node in self.graph.outputs:
            if not isinstance(node.op, Input):
                self.plan.outputs[node.id] = self._output(node)
        return self.plan

    def _input(self, node: Node) -> None:
        """A graph input, as the host has permuted and quantized it."""
        name = host_value(node).name
        home = Buffer(name, Memory.INPUT, node.type.elements)
        tensor = self._tensor(node, node.shape, home)
        self.plan.inputs.append((node, tensor))
        self.plan.views[node.id] = View(tensor, device_shape(node.shape))

    def _unread(self, node: Node) -> Buffer:
        """A graph input that is returned and that no layer reads: as the host has it."""
        home = Buffer(node.name, Memory.INPUT, node.type.elements * node.type.dtype.numpy.itemsize)
        self.plan.tiles.given.append(home)
        return home

    def _output(self, node: Node) -> Tensor | Buffer:
        """Where a graph output is."""
        if node.is_constant:
            image = self.builder.image(Memory.WEIGHTS, packed_bytes(node.constant), node.name)
            self.plan.tiles.given.append(image)
            return image
        tensor = self._view(returned_value(node)).tensor
        assert tensor.home.memory is Memory.OUTPUT, f"no layer computes the output {node.name}"
        return tensor

    def _begin(self, node: Node) -> tuple[Layer, Tensor]:
        """A layer, and where its result is."""
        names = tuple(v.name for v in node.views)
        kind = node.op.name.rpartition(".")[2]
        layer = Layer(self.index[node.id], node.name, kind, node.loc, names, self._bound(node))
        self.builder.begin(layer)
        return layer, self._result(node)

    def _result(self, node: Node) -> Tensor:
        """The tensor of a layer's result, made when it is first needed: by the layer, or by a part of it."""
        if node.id not in self.plan.views:
            part = self.subtensors.get(node.id)
            whole = None if part is None else self._result(part.whole)
            out = self._tensor(node, node.shape, self._home(node) if whole is None else whole.home)
            if part is not None:
                out.part_of, out.start = whole, part.start
            self.plan.views[node.id] = View(out, device_shape(node.shape))
        return self.plan.views[node.id].tensor

    def _layer(self, node: Node, following: Node | None = None) -> None:
        """A layer in tiles, small enough for several at a time; a following one may take every tile."""
        layer, out = self._begin(node)
        if following is not None:
            out.delivered = False
            self.builder.joined = self._joined(out, following)
            self.builder.resume(layer)
        budget = self.target.spm.bytes - self.held[layer.id]
        shares = (TILE_SHARE, 1) if self.options.overlap else (1,)
        kept = len(self.plan.tiles.ops)
        for share in shares:
            try:
                _require_codes(node)
                planner_of(node.op)(
                    self.builder,
                    node,
                    node.op,
                    lambda i: self._view(node.inputs[i]),
                    out,
                    int(budget * share),
                )
                break
            except CompileError as error:  # collected: every layer is told
                self.unsupported += error.diagnostics
                break
            except FitError as error:
                del self.plan.tiles.ops[kept:]
                if share == shares[-1]:
                    self.too_large += error.diagnostics
        self.builder.joined = None

    def _joined(self, taken: Tensor, node: Node) -> Joined:
        """A layer that takes the tiles of the one before."""
        layer, out = self._begin(node)
        views = [self._view(i) for i in node.inputs]
        emit = SINGLE[type(node.op)](self.builder, node, lambda i: views[i], out)
        copies = sum(not v.tensor.resident for v in views if v.tensor is not taken) + (not out.resident)
        return Joined(taken, layer, emit, copies)

    def _segment(self, segment: Segment) -> None:
        """Layers together, stripe by stripe."""
        works = [self.partitioner.layers[self.index[n.id]] for n in segment.layers]
        inside = {n.id for n in segment.layers}
        whole = frozenset(n.id for n in segment.layers if self._leaves(n, inside))
        stripes = stripes_of(works, segment.rows)
        members: list[SegmentLayer] = []
        for work in works:
            node = work.node
            layer, out = self._begin(node)
            read_inside = any(self.layers[i].id in inside for i in self.users[node.id])
            out.delivered = node.id in whole
            if read_inside and out.home.memory is not Memory.SPM:
                out.line = LineBuffer(out.shape[2] * out.shape[3])
            members.append(SegmentLayer(work, layer, out))
        SegmentPlanner(self.builder, members, stripes, self._view).run()
        for member in members:
            member.out.line = None

    def _leaves(self, node: Node, inside: set[int]) -> bool:
        """Whether a result is needed outside of a segment."""
        elsewhere = any(self.layers[i].id not in inside for i in self.users[node.id])
        return node.id in self.returned or elsewhere

    def _bound(self, node: Node) -> LowerBound:
        """The least work of a layer; each byte of the interface counts where it is first read or written."""
        bound = self.partitioner.layers[self.index[node.id]].bound
        bytes_of_interface = 0
        for operand in node.inputs:
            whole = whole_of(operand, self.subtensors)
            if isinstance(whole.op, Quantize) and whole not in self.read:
                self.read.add(whole)
                bytes_of_interface += min(operand.type.elements, whole.type.elements)
        if node.id in self.returned:
            bytes_of_interface += node.type.elements
        return replace(bound, dram_bytes=bound.dram_bytes + bytes_of_interface)

    def _raise_refusals(self) -> None:
        """What no machine can do goes before what this one has no room for."""
        if self.unsupported:
            raise CompileError(self.unsupported)
        if self.too_large:
            raise FitError(self.too_large)

    def _view(self, node: Node) -> View:
        if node.id not in self.plan.views and isinstance(node.op, Reshape):
            source = self._view(node.inputs[0])
            self.plan.views[node.id] = View(source.tensor, device_shape(node.shape))
        if node.id not in self.plan.views and node.id in self.subtensors:
            self._result(node)
        if node.id not in self.plan.views:
            assert node.is_constant
            content = packed_bytes(node.constant)
            tensor = self._tensor(node, node.shape, self.builder.image(Memory.WEIGHTS, content, node.name))
            self.plan.views[node.id] = View(tensor, device_shape(node.shape))
        return self.plan.views[node.id]

    def _tensor(self, node: Node, shape: Shape, home: Buffer) -> Tensor:
        n, h, w, c = device_shape(shape)
        item = item_bytes(node)
        tensor = Tensor(len(self.plan.tiles.tensors), node.name, (n, h, w, c * item), home, item)
        self.plan.tiles.tensors.append(tensor)
        return tensor

    def _home(self, node: Node) -> Buffer:
        """Where a layer's result lives: the output region, the scratchpad, or the arena."""
        size = node.type.elements * item_bytes(node)
        if isinstance(node.op, SendTo):
            return Buffer(node.name, Memory.ARENA, 0)
        if node.id in self.returned:
            return Buffer(node.name, Memory.OUTPUT, size)
        if node.id in self.partition.over:
            return self.plan.views[self.partition.over[node.id]].tensor.home
        if node.id in self.resident:
            return Buffer(node.name, Memory.SPM, size)
        return Buffer(node.name, Memory.ARENA, size)

    # --- residency -------------------------------------------------------------------------------

    def _may_stay(self, node: Node) -> bool:
        """Results that are not returned, have users, and whose pitches fit into every instruction."""
        users = [self.layers[i] for i in self.users[node.id]]
        return (
            bool(users)
            and node.id not in self.returned
            and not any(isinstance(n.op, Transpose) for n in (node, *users))
            and _pitches_fit(node.shape)
            and all(self._readable(node, user) for user in users)
        )

    def _readable(self, node: Node, user: Node) -> bool:
        """Whether a user can read a resident value under the shapes at which it sees it."""
        seen = [i for i in user.inputs if not i.is_constant and whole_of(i, self.subtensors) is node]
        shapes = [node.shape if i.id in self.subtensors else i.shape for i in seen]
        if isinstance(user.op, QGemm):
            return all(shape[-1] <= MAX_RESIDENT_DEPTH for shape in shapes)
        return all(map(_pitches_fit, shapes))

    def _layers_using(self, node: Node) -> list[int]:
        """The layers that read a value, through reshapes too, each once and in order."""
        found: set[int] = set()
        for user in self.graph.users(node):
            if isinstance(user.op, Reshape) or user.id in self.subtensors:
                found.update(self._layers_using(user))
            elif user.id in self.index:
                found.add(self.index[user.id])
        return sorted(found)

    def _join_in_place(self) -> None:
        """Let operands of concatenations and pads be written into the result, where both are in one memory.

        Results in the scratchpad are then held longer: never so that more is held than the most otherwise.
        """
        places = {*self.partition.over, *self.partition.over.values()}
        layers = {n.id for n in self.layers} - self.returned - places
        for segment in self.partition.segments:
            node = segment.layers[0]
            if len(segment.layers) > 1 or node.id in places:
                continue
            taken = {*self.subtensors, *(part.whole.id for part in self.subtensors.values())}
            before = dict(self.subtensors)
            self.subtensors |= {
                operand.id: part
                for operand, part in operands_in_place(
                    self.graph, node, layers - taken, self.target, self.resident
                )
            }
            held = self._held_by_layer()
            if max(held) > max(self.held):
                self.subtensors = before
            else:
                self.held = held

    def _held_by_layer(self) -> list[int]:
        """For every layer, one joined to it included, the bytes of results in the scratchpad meanwhile."""
        change = [0] * (len(self.layers) + 1)
        inside: dict[int, list[int]] = {}
        for name, part in self.subtensors.items():
            if name in self.index:
                inside.setdefault(part.whole.id, []).append(name)
        for node in self.layers:
            if node.id in self.resident and node.id not in self.subtensors:
                held = [node.id, *inside.get(node.id, ())]
                first = min(self.index[name] - (name in self.joined) for name in held)
                last = max(self.partitioner.last_use[name] for name in held)
                if node.id in self.partition.over:
                    first = (
                        self.index[node.id] + 1
                    )  # until then it counts as the operand whose place it takes
                if first <= last:
                    change[first] += aligned(node.type.elements)
                    change[last + 1] -= aligned(node.type.elements)
        return list(accumulate(change))


def _pitches_fit(shape: Shape) -> bool:
    """Whether pixel and row pitch of a dense image can be expressed by every instruction on images."""
    _, _, w, c = device_shape(shape)
    return c <= MAX_RESIDENT_PIXEL and w * c <= MAX_RESIDENT_ROW
