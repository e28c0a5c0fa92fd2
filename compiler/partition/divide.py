"""Divides a device graph: every device computes boxes of values, and receives what it lacks.

What a device computes is given; what it needs follows, from the last operation to the first. A value that a
device needs more of than it computes is put together there: a concatenation of its own part and of what the
others send. Both sides of all transfers have one order: that of the values, then of the distances around
the ring. So every device takes part in its transfers in that order, and none waits in a circle.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from compiler.ir.graph import Graph, Input, Node
from compiler.ir.stage import Stage
from compiler.ir.types import DType
from compiler.ops.concat import QConcat
from compiler.ops.quantize_linear import Dequantize, Quantize, Returned, device_values, is_given
from compiler.ops.shapes import Transpose
from compiler.ops.slices import Slice
from compiler.ops.transfer import ReceiveFrom, SendTo
from compiler.partition.boxes import add_needs, common, covering, holds, within
from compiler.rules.partitioning import part_of
from isa.program import Box, box_shape, box_slices, hull, whole_box
from isa.support.records import Frozen, Struct, field

Boxes = Mapping[int, Sequence[Box | None]]
"""For every value, by its node, the box that each device computes; None where it computes nothing."""


class Origin(Frozen):
    """What a value of a device is of the whole network's: a box of a node's value."""

    node: int
    box: Box


class DevicePart(Struct):
    """What one device does."""

    graph: Graph
    origins: dict[int, Origin] = field(default_factory=dict[int, Origin])
    """Of the nodes that are values."""
    inputs: dict[int, int] = field(default_factory=dict[int, int])
    """The node that quantizes a graph input, by that of the whole network."""
    outputs: dict[int, Box] = field(default_factory=dict[int, Box])
    """The boxes of graph outputs that the device gives, by the number of the output."""


class Held(Frozen):
    """A value on a device, and which box of the whole it is."""

    node: Node
    box: Box


def divide(graph: Graph, boxes: Boxes, devices: int) -> list[DevicePart]:
    """The parts of all devices; of graph inputs every device has what it needs."""
    return _Divider(graph, boxes, devices).run()


class _Divider:
    def __init__(self, graph: Graph, boxes: Boxes, devices: int) -> None:
        self.graph, self.devices = graph, devices
        self.values = device_values(graph)
        self.computed: dict[int, list[Box | None]] = {i: list(b) for i, b in boxes.items()}
        self.needed: list[dict[int, Box]] = [{} for _ in range(devices)]
        self.parts = [
            DevicePart(
                Graph(
                    graph.name,
                    Stage.DEVICE,
                    graph.provenance,
                    graph.scheme,
                    unused_inputs=graph.unused_inputs,
                )
            )
            for _ in range(devices)
        ]
        self.own: list[dict[int, Held]] = [{} for _ in range(devices)]
        """What each has computed."""
        self.held: list[dict[int, Held]] = [{} for _ in range(devices)]
        """What each has of a value for its readers."""
        self.constants: dict[tuple[int, int, Box], Node] = {}
        self.transfers = 0

    def run(self) -> list[DevicePart]:
        self._find_needs()
        for value in self.values:
            for device in range(self.devices):
                box = self.computed[value.id][device]
                if box is not None:
                    self._compute(device, value, box)
            self._exchange(value)
        self._give_outputs()
        return self.parts

    def _find_needs(self) -> None:
        for value in reversed(self.values):
            if isinstance(value.op, Quantize):
                self.computed[value.id] = [needs.get(value.id) for needs in self.needed]
                continue
            for device, box in enumerate(self.computed[value.id]):
                if box is not None:
                    add_needs(self.needed[device], value, box)

    # --- computing -------------------------------------------------------------------------------

    def _compute(self, device: int, value: Node, box: Box) -> None:
        """Add what computes a box of a value."""
        part, graph = self.parts[device], self.parts[device].graph
        if isinstance(value.op, Quantize):
            node = self._quantize(graph, value, box)
            part.inputs[value.id] = node.id
        else:
            made = part_of(value, box)
            assert made is not None
            operands = [self._operand(device, x, read) for x, read in made.operands(value)]
            node = graph.add(made.operation, operands, name=value.name, loc=value.loc, quant=value.type.quant)
        part.origins[node.id] = Origin(value.id, box)
        self.own[device][value.id] = Held(node, box)

    def _quantize(self, graph: Graph, value: Node, box: Box) -> Node:
        """An input of the device: the box of a graph input, as the host permutes and quantizes it."""
        (source,) = value.inputs
        shape, turned = box_shape(box), source
        if isinstance(source.op, Transpose):
            back: list[int] = [source.op.perm.index(i) for i in range(len(shape))]
            shape = tuple(shape[i] for i in back)
            (turned,) = source.inputs
        node = graph.input(turned.name, turned.type.dtype, shape, turned.loc, turned.type.quant)
        if turned is not source:
            node = graph.add(source.op, [node], name=source.name, loc=source.loc)
        return graph.add(value.op, [node], name=value.name, loc=value.loc, quant=value.type.quant)

    def _operand(self, device: int, value: Node, box: Box) -> Node:
        """A box of a value, or of a constant, on a device."""
        if not value.is_constant:
            held = self.held[device][value.id]
            return self._cut(device, held, box, value)
        key = device, value.id, box
        if key not in self.constants:
            quant, content = value.type.part(box).quant, value.constant[box_slices(box)]
            self.constants[key] = self.parts[device].graph.const(content, value.name, value.loc, quant)
        return self.constants[key]

    def _cut(self, device: int, held: Held, box: Box, value: Node) -> Node:
        """A box of what a device has."""
        if held.box == box:
            return held.node
        part = self.parts[device]
        starts = tuple(low for low, _ in within(held.box, box))
        operation = Slice(starts, box_shape(box), (1,) * len(box))
        node = part.graph.add(
            operation, [held.node], name=f"{value.name}/part", loc=value.loc, quant=value.type.quant
        )
        part.origins[node.id] = Origin(value.id, box)
        return node

    # --- exchanging ------------------------------------------------------------------------------

    def _exchange(self, value: Node) -> None:
        """Let every device have what it needs of a value."""
        wanted: dict[int, tuple[int, list[tuple[int, Box]]]] = {}
        for device in range(self.devices):
            need, own = self.needed[device].get(value.id), self.own[device].get(value.id)
            if need is None:
                continue
            if own is not None and holds(own.box, need):
                self.held[device][value.id] = own
                continue
            if own is not None and common(own.box, need) is not None:
                need = hull(need, own.box)
            owners = [(device - distance) % self.devices for distance in range(self.devices)]
            boxes = ((o, self.computed[value.id][o]) for o in owners)
            wanted[device] = covering(need, [(o, b) for o, b in boxes if b is not None])
            self.needed[device][value.id] = need
        received = self._transfer(value, {d: pieces for d, (_, pieces) in wanted.items()})
        for device, (axis, pieces) in wanted.items():
            nodes = [self._piece(device, value, owner, box, received) for owner, box in pieces]
            self.held[device][value.id] = Held(
                self._joined(device, value, axis, nodes), self.needed[device][value.id]
            )

    def _transfer(
        self, value: Node, wanted: Mapping[int, Sequence[tuple[int, Box]]]
    ) -> dict[tuple[int, Box], Node]:
        """Add both sides of all transfers of a value; the received pieces by device and box.

        What every device wants goes around the ring from neighbour to neighbour: links are then taken for one
        transfer at a time, and a receiver's readiness has one link to travel.
        """
        pieces = {(device, owner, box) for device, found in wanted.items() for owner, box in found}
        received: dict[tuple[int, Box], Node] = {}
        for distance, upward, device, owner, box in sorted(self._in_order(pieces)):
            before = (device - 1 if upward else device + 1) % self.devices
            if distance > 1 and (before, owner, box) in pieces:
                received[device, box] = self._send(value, before, device, box, received[before, box])
            else:
                sent = self._cut(owner, self.own[owner][value.id], box, value)
                received[device, box] = self._send(value, owner, device, box, sent)
        return received

    def _in_order(self, pieces: Iterable[tuple[int, int, Box]]) -> Iterator[tuple[int, bool, int, int, Box]]:
        """Pieces from another device: how far around the ring, whether upward, to whom, from whom."""
        for device, owner, box in pieces:
            up, down = (device - owner) % self.devices, (owner - device) % self.devices
            if up:
                yield min(up, down), up <= down, device, owner, box

    def _send(self, value: Node, source: int, device: int, box: Box, sent: Node) -> Node:
        """Both sides of one transfer; the value on the side that receives."""
        number, self.transfers = self.transfers, self.transfers + 1
        given = self.parts[source].graph.add(
            SendTo(device, number),
            [sent],
            name=f"{value.name}/to {device}",
            loc=value.loc,
            quant=value.type.quant,
        )
        self.parts[source].origins[given.id] = Origin(value.id, box)
        part = self.parts[device]
        node = part.graph.add(
            ReceiveFrom(source, number, box_shape(box)),
            name=f"{value.name}/from {source}",
            loc=value.loc,
            quant=value.type.quant,
        )
        part.origins[node.id] = Origin(value.id, box)
        return node

    def _piece(
        self, device: int, value: Node, owner: int, box: Box, received: Mapping[tuple[int, Box], Node]
    ) -> Node:
        if owner == device:
            return self._cut(device, self.own[device][value.id], box, value)
        return received[device, box]

    def _joined(self, device: int, value: Node, axis: int, nodes: Sequence[Node]) -> Node:
        """Pieces as one value."""
        if len(nodes) == 1:
            return nodes[0]
        part = self.parts[device]
        node = part.graph.add(
            QConcat(axis), nodes, name=f"{value.name}/whole", loc=value.loc, quant=value.type.quant
        )
        part.origins[node.id] = Origin(value.id, self.needed[device][value.id])
        return node

    # --- outputs ---------------------------------------------------------------------------------

    def _give_outputs(self) -> None:
        """Let devices give disjoint boxes of every output; what the host has as it is, the first gives."""
        outputs: list[list[tuple[Node, str]]] = [[] for _ in self.parts]
        for number, (output, name) in enumerate(
            zip(self.graph.outputs, self.graph.output_names, strict=True)
        ):
            if is_given(output):
                outputs[0].append((self._given(output), name))
                self.parts[0].outputs[number] = whole_box(output.shape)
                continue
            chain: list[Node] = [output]
            while not isinstance(chain[-1].op, (Dequantize, Returned)):
                chain.append(chain[-1].inputs[0])
            (value,) = chain[-1].inputs
            offered = [(d, own[value.id].box) for d, own in enumerate(self.own) if value.id in own]
            for device, box in covering(whole_box(value.shape), offered)[1]:
                node = self._cut(device, self.own[device][value.id], box, value)
                for link in reversed(chain):
                    node = self.parts[device].graph.add(link.op, [node], name=link.name, loc=link.loc)
                outputs[device].append((node, name))
                self.parts[device].outputs[number] = box
        for part, given in zip(self.parts, outputs, strict=True):
            part.graph.set_outputs([n for n, _ in given], [name for _, name in given])

    def _given(self, output: Node) -> Node:
        """A constant or a graph input, as the host has it."""
        graph = self.parts[0].graph
        if output.is_constant:
            return graph.const(output.constant, output.name, output.loc, output.type.quant)
        known = (n for n in graph.inputs if n.name == output.name)
        node = next(known, None)
        if node is not None:
            return node
        assert isinstance(output.op, Input)
        return graph.input(output.name, DType(output.type.dtype), output.shape, output.loc)
