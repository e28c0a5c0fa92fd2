"""The last layer of a step and its loss, some samples at a time."""

from __future__ import annotations

from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Op
from compiler.schedule.builder import Builder, Span, Views, spans, stored, tiles_of
from compiler.schedule.step.builder import ACC_SHARE, Constant, Row, StepBuilder, step_of
from compiler.schedule.step.rows import WORD
from compiler.schedule.step.tiles.dense import dense_sums
from compiler.schedule.step.tiles.exits import plain_record, requantize_shifted
from compiler.schedule.step.tiles.maps import shifted_pair
from compiler.schedule.tile_graph import REGION, UNPLACED, Buffer, Memory, Ref, Tensor
from compiler.schedule.tiles.products import TileExit
from compiler.train.integer.dense import DenseSums, DenseWeightSums
from compiler.train.integer.loss import (
    STEP_BITS,
    CodeSums,
    RealSums,
    SoftmaxErrors,
    SquaredErrors,
    StepSoftmax,
    softmax_table,
)
from compiler.train.integer.weighting import WeightedErrors
from isa.instructions.dma import Load, OnChip
from isa.instructions.vector import Requant, Requantize
from isa.instructions.vector_loss import RECORD, Loss, SoftmaxLoss
from isa.instructions.vector_words import Function32
from isa.memory_map import GRANULE_BYTES, REQUANT_RECORD
from isa.spec import ElementType, greatest

MAX_ROWS: Final = greatest(SoftmaxLoss, "h")
F = Function32


@tiles_of(DenseSums, DenseWeightSums, CodeSums)
def plan_dense_sums(b: Builder, node: Node, operation: Op, view: Views, out: Tensor, budget: int) -> None:
    """Nothing: who needs the sums makes them."""
    del b, node, operation, view, out, budget


def _samples(s: StepBuilder, node: Node) -> list[Span]:
    """Samples whose sums fit into a part of the accumulators."""
    rows, columns = node.inputs[0].shape
    groups = -(-columns // s.cols)
    return spans(rows, max(min(s.target.acc.rows // ACC_SHARE // groups, MAX_ROWS), 1))


def _table(s: StepBuilder, factor: float) -> Ref:
    content = softmax_table().tobytes() + np.array([factor], "<f4").tobytes()
    return s.parameters(content + bytes(-len(content) % GRANULE_BYTES), "exponentials")


def _sums(s: StepBuilder, node: Node, samples: Span, budget: int) -> tuple[Buffer, int]:
    """The operand's sums of some samples, and the rows from group to group."""
    source = node.inputs[0]
    if isinstance(source.op, CodeSums):
        return _code_sums(s, source, samples)
    acc = dense_sums(s, source, lambda i: s.view_of(source.inputs[i]), samples, budget)
    return acc, _pitch(s, source, samples)


def _code_sums(s: StepBuilder, node: Node, samples: Span) -> tuple[Buffer, int]:
    """Codes of some samples, a node's first operand, as words; the second is the number 0."""
    codes, zero = node.inputs[:2]
    place = 0, Span(0, 1), samples, Span(0, codes.shape[1])
    view = s.view_of(codes)
    return shifted_pair(s, (view, view), place, (zero, None), codes), _pitch(s, codes, samples)


def _pitch(s: StepBuilder, node: Node, samples: Span) -> int:
    """Accumulator rows from group to group of columns."""
    return samples.extent if node.shape[1] > s.cols else 0


@tiles_of(SoftmaxErrors)
def plan_softmax_errors(
    b: Builder, node: Node, operation: SoftmaxErrors, view: Views, out: Tensor, budget: int
) -> None:
    """Errors and records from sums and labels."""
    s = step_of(b)
    labels, columns = view(2).tensor.home, node.shape[1]
    records = s.view_of(node.graph.element(node, 1)).tensor.home
    table = _table(s, operation.factor)
    for m in _samples(s, node):
        s.tile = (m.start,)
        acc, pitch = _sums(s, node, m, budget)
        given = s.buffer("labels", Memory.SPM, m.extent * WORD)
        s.load(Ref(labels, m.start * WORD), Ref(given), m.extent * WORD, [])
        place = 0, Span(0, 1), m, Span(0, columns)
        piece = s.result(out, *place, "errors")
        left = s.buffer("records", Memory.SPM, m.extent * RECORD.itemsize)
        instr = SoftmaxLoss(
            fn=Loss.ERRORS, h=m.extent, c=columns, ags=pitch, gps=piece.pixel_pitch, sreg=UNPLACED
        )
        bind = {"acc": Ref(acc), "lab": Ref(given), "g": piece.ref, "rec": Ref(left), "tab": table}
        s.emit(instr, {**bind, "sreg": s.numbers.read(node.inputs[1])}, stored=stored(out, *place, "g"))
        s.deliver(out, piece, *place)
        s.store(Ref(left), Ref(records, m.start * RECORD.itemsize), m.extent * RECORD.itemsize, [])


@tiles_of(StepSoftmax)
def plan_softmax(
    b: Builder, node: Node, operation: StepSoftmax, view: Views, out: Tensor, budget: int
) -> None:
    """Probabilities, float32."""
    del view
    s = step_of(b)
    columns = node.shape[1]
    table = _table(s, operation.factor)
    for m in _samples(s, node):
        s.tile = (m.start,)
        acc, pitch = _sums(s, node, m, budget)
        size = m.extent * columns * WORD
        made = s.buffer("probabilities", Memory.SPM, size)
        exponent = s.numbers.read(node.inputs[1])
        instr = SoftmaxLoss(
            fn=Loss.PROBS, h=m.extent, c=columns, ags=pitch, gps=columns * WORD, sreg=UNPLACED
        )
        s.emit(instr, {"acc": Ref(acc), "g": Ref(made), "tab": table, "sreg": exponent})
        s.store(Ref(made), Ref(out.home, m.start * columns * WORD), size, [])


def _values(s: StepBuilder, node: Node, real: RealSums, samples: Span, budget: int) -> tuple[Buffer, int]:
    """What the sums of some samples stand for, in their place."""
    acc, pitch = _sums(s, node, samples, budget)
    unit = s.unit(s.numbers.read(node.inputs[1]), real.unit)
    for group, lanes in _groups(s, node):
        rows = Ref(acc, group * samples.extent)
        s.words(F.I2F, rows, rows, rows=samples.extent, lanes=lanes)
        s.words(F.FMUL, rows, rows, Row(unit), rows=samples.extent, lanes=lanes)
    return acc, pitch


def _groups(s: StepBuilder, node: Node) -> list[tuple[int, int]]:
    """Groups of columns, and the lanes of each."""
    return [(i, part.extent) for i, part in enumerate(spans(node.shape[1], s.cols))]


def _give(s: StepBuilder, node: Node, acc: Buffer, pitch: int, samples: Span, home: Buffer) -> None:
    """Store real numbers as they are."""
    columns = node.shape[1]
    size = samples.extent * columns * WORD
    made = s.buffer("values", Memory.SPM, size)
    raw = Requantize(
        mode=Requant.RAW, h=1, w=samples.extent, c=columns, ags=pitch, ops=columns * WORD, ot=ElementType.S32
    )
    record = s.constant(np.array((0, 1), REQUANT_RECORD).tobytes())
    s.emit(raw, {"acc": Ref(acc), "out": Ref(made), "prm": record})
    s.store(Ref(made), Ref(home, samples.start * columns * WORD), size, [])


@tiles_of(RealSums)
def plan_real(b: Builder, node: Node, operation: RealSums, view: Views, out: Tensor, budget: int) -> None:
    """Values, float32."""
    del view
    s = step_of(b)
    for m in _samples(s, node):
        s.tile = (m.start,)
        acc, pitch = _values(s, node, operation, m, budget)
        _give(s, node, acc, pitch, m, out.home)


@tiles_of(WeightedErrors)
def plan_weighted_errors(
    b: Builder, node: Node, operation: WeightedErrors, view: Views, out: Tensor, budget: int
) -> None:
    """Errors as float32, times weights, and rounded."""
    del operation, budget
    s = step_of(b)
    columns, weights = node.shape[1], view(2).tensor.home
    for m in _samples(s, node):
        s.tile = (m.start,)
        place = 0, Span(0, 1), m, Span(0, columns)
        acc, pitch = _code_sums(s, node, m)
        for group, lanes in _groups(s, node):
            sums = Ref(acc, group * m.extent)
            s.words(F.I2F, sums, sums, rows=m.extent, lanes=lanes)
            shares = _loaded(s, weights, m, group, node)
            s.words(F.FMUL, sums, sums, shares, rows=m.extent, lanes=lanes)
        piece = s.result(out, *place, "errors")
        shape = Requantize(
            mode=Requant.FLOAT,
            h=1,
            w=m.extent,
            c=columns,
            ags=pitch,
            ops=piece.pixel_pitch,
            lo=-127,
            hi=127,
        )
        s.emit(shape, {"acc": Ref(acc), "out": piece.ref}, stored=stored(out, *place))
        s.deliver(out, piece, *place)


def _loaded(s: StepBuilder, home: Buffer, samples: Span, group: int, node: Node) -> Ref:
    """Real numbers of some samples, those of a group of columns, in accumulators."""
    columns, more = node.shape[1], samples.extent > 1
    lanes = min(columns - group * s.cols, s.cols)
    given = Ref(s.rows_of("given", samples.extent))
    load = Load(space=OnChip.ACC, region=REGION[home.memory], n0=lanes * WORD, n1=samples.extent,
                ds1=columns * WORD if more else 0, ls1=1 if more else 0)  # fmt: skip
    at = (samples.start * columns + group * s.cols) * WORD
    s.emit(load, {"dram": Ref(home, at), "loc": given}, "load")
    return given


@tiles_of(SquaredErrors)
def plan_squared_errors(
    b: Builder, node: Node, operation: SquaredErrors, view: Views, out: Tensor, budget: int
) -> None:
    """Values, what they are too much, in steps, shifted."""
    s = step_of(b)
    labels, columns = view(2).tensor.home, node.shape[1]
    values = s.view_of(node.graph.element(node, 2)).tensor.home
    for m in _samples(s, node):
        s.tile = (m.start,)
        acc, pitch = _values(s, node, operation.real, m, budget)
        _give(s, node, acc, pitch, m, values)
        for group, lanes in _groups(s, node):
            rows, given = Ref(acc, group * m.extent), _loaded(s, labels, m, group, node)
            s.words(F.FSUB, rows, rows, given, rows=m.extent, lanes=lanes)
            for factor in (float(np.float32(2 / columns)), float(1 << STEP_BITS)):
                s.words(F.FMUL, rows, rows, Constant(factor), rows=m.extent, lanes=lanes)
            s.words(F.F2I, rows, rows, rows=m.extent, lanes=lanes)
        place = 0, Span(0, 1), m, Span(0, columns)
        piece = s.result(out, *place, "errors")
        way = TileExit(piece, plain_record(s, node), place, stored(out, *place), per_channel=False)
        requantize_shifted(s, node, acc, way)
        s.deliver(out, piece, *place)
