"""The programs of several devices: what each says of layers and tensors is said of the whole network's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.codegen.emit import layer_row, tensor_row, view_row
from compiler.ir.graph import Graph, Input, Node
from compiler.ops.quantize_linear import Quantize, device_values, is_given, returned_value
from compiler.ops.shapes import Reshape, unreshaped
from compiler.ops.slices import Slice
from compiler.partition.divide import DevicePart, Origin
from compiler.schedule.builder import RANK, device_shape
from compiler.schedule.segments.plan import Plan, host_value
from compiler.schedule.tile_graph import Layer
from compiler.schedule.tiles.placement import placed
from isa.container import TEXTS
from isa.program import (
    Abi,
    Box,
    DebugMap,
    Interface,
    MapRow,
    Operators,
    OpRow,
    Program,
    TensorRow,
    box_shape,
    volume,
    whole_box,
)
from isa.support.records import Frozen, replace
from isa.target import Target


class Whole(Frozen):
    """What devices share: the tables of the whole network, and which row is which node's."""

    operators: Operators
    layers: Mapping[int, int]
    """The layer of every value that is computed."""
    tensors: Mapping[int, int]
    """The row of every value that is stored by itself: no reshape, and no box of another."""


def whole_of(graph: Graph, target: Target) -> Whole:
    """The tables of a graph of stage device."""
    values = device_values(graph)
    layers = [n for n in values if not isinstance(n.op, (Quantize, Reshape))]
    boxes = _boxes(values)
    bases = [n for n in values if not isinstance(n.op, Reshape) and n.id not in boxes]
    numbers = {n.id: i for i, n in enumerate(bases)}
    rows: list[TensorRow] = [tensor_row(numbers[n.id], n, device_shape(n.shape)) for n in bases]
    by_id = {n.id: n for n in values}
    for node in values:
        base = unreshaped(node)
        box: Box | None = None
        while base.id in boxes:
            box, holder = _moved(box, boxes[base.id]), boxes[base.id].node
            base = by_id[holder]
        rows += [view_row(len(rows) + i, node, v, numbers[base.id], box) for i, v in enumerate(node.views)]
    ops: list[OpRow] = [layer_row(_layer(i, n, target)) for i, n in enumerate(layers)]
    layer_of = {n.id: i for i, n in enumerate(layers)}
    for node in values:  # what moves a reshaped value is of the layer that made it
        if node.id not in layer_of:
            layer_of[node.id] = layer_of.get(unreshaped(node).id, 0)
    return Whole(Operators(tuple(ops), tuple(rows)), layer_of, numbers)


def _layer(number: int, node: Node, target: Target) -> Layer:
    names = tuple(v.name for v in node.views)
    bound = node.op.work([i.type for i in node.inputs], node.type).lower_bound(target)
    return Layer(number, node.name, node.op.name.rpartition(".")[2], node.loc, names, bound)


def _boxes(values: Sequence[Node]) -> dict[int, Origin]:
    """Values that may lie within another: slices, and operands of concatenations and pads."""
    found: dict[int, Origin] = {}
    known = {n.id for n in values}
    for node in values:
        source = next(iter(node.inputs), node)
        if (
            isinstance(node.op, Slice)
            and source.id in known
            and unreshaped(source) is source
            and all(step == 1 for step in node.op.steps)
        ):
            ends = (a + n for a, n in zip(node.op.starts, node.op.counts, strict=True))
            found[node.id] = Origin(source.id, as_four(tuple(zip(node.op.starts, ends, strict=True))))
        for operand, start in placed(node):
            mine = operand.id in known and unreshaped(operand) is operand and operand.id not in found
            alone = sum(i is operand for i in node.inputs) == 1 and not isinstance(operand.op, Quantize)
            if mine and alone and operand.type.quant == node.type.quant:
                shape = device_shape(operand.shape)
                box = tuple((s, s + n) for s, n in zip(start, shape, strict=True))
                found[operand.id] = Origin(node.id, box)
    return found


def _moved(inner: Box | None, outer: Origin) -> Box:
    """A box within a box."""
    if inner is None:
        return outer.box
    return tuple((low + a, low + b) for (a, b), (low, _) in zip(inner, outer.box, strict=True))


def as_four(box: Box) -> Box:
    """A box with ones in front; of more than four dimensions the first are one, and all in the box."""
    if len(box) > RANK:
        box = ((0, volume(box_shape(box[: 1 - RANK]))), *box[1 - RANK :])
    return (*((0, 1),) * (RANK - len(box)), *box)


def of_device(program: Program, part: DevicePart, plan: Plan, whole: Whole, device: int) -> Program:
    """The program of one device; layers and tensors are those of the whole network."""
    held: dict[int, Origin] = {}
    for name, view in plan.views.items():
        if name in part.origins and view.tensor.part_of is None:
            held.setdefault(view.tensor.id, part.origins[name])
    layers = [whole.layers[part.origins[n.id].node] for n in plan.nodes]
    return replace(
        program,
        debug=DebugMap(tuple(_row(row, held, layers, whole) for row in program.debug.rows)),
        operators=whole.operators,
        symbols=tuple(s for s in program.symbols if s.section in TEXTS or (s.section and s.size)),
        device=device,
    )


def _row(row: MapRow, held: Mapping[int, Origin], layers: Sequence[int], whole: Whole) -> MapRow:
    row = replace(row, op=layers[row.op])
    if row.tensor is None or row.box is None:
        return row
    origin = held[row.tensor]
    if origin.node not in whole.tensors:
        return replace(row, tensor=None, box=None, operand=None)
    starts = [low for low, _ in as_four(origin.box)]
    box = tuple((a + s, b + s) for (a, b), s in zip(row.box, starts, strict=True))
    return replace(row, tensor=whole.tensors[origin.node], box=box)


# --- interface -----------------------------------------------------------------------------------

Rows = list[Interface | None]


def together(
    programs: Sequence[Program], parts: Sequence[DevicePart], graph: Graph, whole: Whole
) -> tuple[Program, ...]:
    """The programs, each with a row for every graph input and output, of which it may hold nothing."""
    inputs = [_inputs(p, part, graph, whole) for p, part in zip(programs, parts, strict=True)]
    outputs = [_outputs(p, part, graph) for p, part in zip(programs, parts, strict=True)]
    return tuple(
        replace(p, abi=Abi(_filled(inputs, p.device), _filled(outputs, p.device)), devices=len(programs))
        for p in programs
    )


def _filled(sides: Sequence[Rows], device: int) -> tuple[Interface, ...]:
    """The rows of a device; where it holds nothing, one that says so."""
    made: list[Interface] = []
    for number, mine in enumerate(sides[device]):
        row = mine
        if row is None:
            other = next(side[number] for side in sides if side[number] is not None)
            assert other is not None
            row = other.without_content()
        made.append(replace(row, device=device))
    return tuple(made)


def _inputs(program: Program, part: DevicePart, graph: Graph, whole: Whole) -> Rows:
    """A row for everything that quantizes a graph input, and for every input that only the host reads."""
    local = [n.id for n in part.graph.nodes() if isinstance(n.op, Quantize)]
    untouched = [n.name for n in part.graph.inputs if not part.graph.users(n)]
    found = dict(zip([*local, *untouched], program.abi.inputs, strict=True))
    rows: Rows = []
    for node in graph.nodes():
        if isinstance(node.op, Quantize):
            mine = part.inputs.get(node.id)
            box = None if mine is None else as_four(part.origins[mine].box)
            row = None if mine is None else found[mine]
            shape, held = host_value(node).shape, device_shape(node.shape)
            rows.append(
                row and replace(row, shape=shape, device_shape=held, box=box, tensor=whole.tensors[node.id])
            )
        elif isinstance(node.op, Input) and not graph.users(node):
            row = found.get(node.name)
            rows.append(row and _whole_row(row))
    return rows


def _outputs(program: Program, part: DevicePart, graph: Graph) -> Rows:
    """A row for every graph output."""
    found = dict(zip(sorted(part.outputs), program.abi.outputs, strict=True))
    rows: Rows = []
    for number, node in enumerate(graph.outputs):
        row = found.get(number)
        if row is None:
            rows.append(None)
            continue
        value = None if is_given(node) else returned_value(node)
        if value is None or part.outputs[number] == whole_box(value.shape):
            rows.append(_whole_row(row))
        else:
            box = as_four(part.outputs[number])
            rows.append(
                replace(row, shape=node.shape, device_shape=device_shape(value.shape), box=box, tensor=None)
            )
    return rows


def _whole_row(row: Interface) -> Interface:
    """The row of what a device holds all of."""
    return replace(row, box=whole_box(row.device_shape), tensor=None)
