"""Stripes: which rows every layer of a segment makes, and reads, when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.ir.graph import Node
from compiler.ir.work import LowerBound
from compiler.ops.shapes import unreshaped
from compiler.schedule.builder import READS, SINGLE, Span, Window, device_shape, spans
from compiler.schedule.segments.subtensors import Subtensor, whole_of
from isa.support.records import Frozen
from isa.target import Target


class Stripes(Frozen):
    """What the layers of a segment do in every stripe: rows made, and rows read of every operand."""

    made: dict[int, list[Span]]
    read: dict[tuple[int, int], list[Span]]
    """By (layer, operand)."""
    delay: dict[int, int]
    """By how many stripes a layer is behind the first."""

    @property
    def rounds(self) -> int:
        """Stripes, and those that the last layers are behind."""
        return len(next(iter(self.made.values()))) + max(self.delay.values())


class LayerOperand(Frozen):
    """A computed operand of a layer: which one, whose value, and how its rows are read, if row by row.

    `holder` is the value whose bytes the operand's are: another than `node` where it is reshaped or a part.
    """

    index: int
    node: Node
    reads: Window | None
    holder: int


class LayerWork(Frozen):
    """What a partition needs to know of a layer."""

    node: Node
    shape: tuple[int, int, int, int]
    operands: tuple[LayerOperand, ...]
    bound: LowerBound
    constants: int
    """Bytes."""
    single: bool
    """Whether it works element by element on operands of the shape of its result."""
    taken: tuple[tuple[int, int, int, int], ...]
    """Of every operand read row by row its node, stride and extent, and the rows that two outputs share."""
    row_bytes: int
    """Bytes of a row of the result."""
    passes: float
    """Of the matrix array, for a pixel of the result."""
    vector: float
    """Cycles of the vector unit."""

    @property
    def on_array(self) -> bool:
        """Whether it works on the matrix array."""
        return self.passes > 0

    @property
    def row_by_row(self) -> bool:
        """Whether it can be part of a segment of several."""
        return 0 < len(self.operands) == len(self.taken)


def work_of(node: Node, target: Target, subtensors: Mapping[int, Subtensor]) -> LayerWork:
    """What a partition needs to know of a layer."""
    reads = READS.get(type(node.op))
    inputs = node.inputs
    operands = tuple(
        LayerOperand(
            i, x, reads(node, i) if reads and unreshaped(x) is x else None, whole_of(x, subtensors).id
        )
        for i, x in enumerate(inputs)
        if not x.is_constant
    )
    bound = node.op.work([i.type for i in inputs], node.type).lower_bound(target)
    constants = sum(i.type.elements * i.type.dtype.numpy.itemsize for i in inputs if i.is_constant)
    shape = device_shape(node.shape)
    single = type(node.op) in SINGLE and all(device_shape(x.shape) == shape for x in inputs)
    taken = tuple(
        (o.node.id, o.reads.stride, o.reads.extent, o.reads.field - o.reads.stride)
        for o in operands
        if o.reads is not None
    )
    images, height, width, channels = shape
    passes, vector = bound.mx_cycles / (images * height * width), bound.vx_lanes / target.vx.lanes
    row = width * channels
    return LayerWork(node, shape, operands, bound, constants, single, taken, row, passes, vector)


def stripes_of(layers: Sequence[LayerWork], rows: int) -> Stripes:
    """The stripes of a segment; every result is made completely, needed inside or not."""
    inside = {layer.node.id for layer in layers}
    last = layers[-1]
    stops: dict[int, list[int]] = {n: [] for n in inside}
    cuts = spans(last.shape[1], rows)
    for number, cut in enumerate(cuts):
        need = {n: (values[-1] if values else 0) for n, values in stops.items()}
        need[last.node.id] = cut.stop
        for layer in reversed(layers):
            name = layer.node.id
            if number == len(cuts) - 1:
                need[name] = layer.shape[1]
            for operand in layer.operands:
                if operand.node.id in inside and need[name]:
                    assert operand.reads is not None
                    taken = operand.reads.read(Span(0, need[name])).stop
                    need[operand.node.id] = max(need[operand.node.id], taken)
        for name, stop in need.items():
            stops[name].append(stop)
    made = {n: [Span(a, b) for a, b in zip([0, *s[:-1]], s, strict=True)] for n, s in stops.items()}
    read: dict[tuple[int, int], list[Span]] = {}
    for layer in layers:
        for operand in layer.operands:
            assert operand.reads is not None
            read[layer.node.id, operand.index] = [operand.reads.read(r) for r in made[layer.node.id]]
    return Stripes(made, read, delays(layers))


def delays(layers: Sequence[LayerWork]) -> dict[int, int]:
    """By how many stripes each layer is behind the first: only within the vector unit is there no delay."""
    on_array: dict[int, bool] = {}
    delay: dict[int, int] = {}
    for layer in layers:
        name, mine, behind = layer.node.id, layer.on_array, 0
        for operand, *_ in layer.taken:
            if operand in delay:
                behind = max(behind, delay[operand] + (mine or on_array[operand]))
        delay[name], on_array[name] = behind, mine
    return delay


def entering_rows(layers: Sequence[LayerWork], stripes: Stripes) -> dict[Node, list[Span]]:
    """What comes into a segment from outside: for every value the rows that readers need in each stripe."""
    inside = {layer.node.id for layer in layers}
    found: dict[Node, list[Span]] = {}
    for layer in layers:
        for operand in layer.operands:
            if operand.node.id in inside:
                continue
            taken = stripes.read[layer.node.id, operand.index]
            known = found.get(operand.node)
            found[operand.node] = taken if known is None else list(map(union, known, taken))
    return found


def union(a: Span, b: Span) -> Span:
    """The range from the first to the last of two ranges."""
    if not a.extent or not b.extent:
        return a if a.extent else b
    return Span(min(a.start, b.start), max(a.stop, b.stop))
