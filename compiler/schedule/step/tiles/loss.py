"""The last layer of a step and its loss, some samples at a time."""

from __future__ import annotations

from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.schedule.builder import Builder, Span, Views, spans, stored, tiles_of
from compiler.schedule.step.builder import ACC_SHARE, StepBuilder, step_of
from compiler.schedule.step.rows import WORD
from compiler.schedule.step.tiles.dense import dense_sums
from compiler.schedule.tile_graph import UNPLACED, Buffer, Memory, Ref, Tensor
from compiler.train.integer.dense import DenseSums, DenseWeightSums
from compiler.train.integer.loss import SoftmaxErrors, StepSoftmax, softmax_table
from isa.instructions.vector_loss import RECORD, Loss, SoftmaxLoss
from isa.memory_map import GRANULE_BYTES
from isa.spec import greatest

MAX_ROWS: Final = greatest(SoftmaxLoss, "h")


@tiles_of(DenseSums, DenseWeightSums)
def plan_dense_sums(
    b: Builder, node: Node, operation: DenseSums | DenseWeightSums, view: Views, out: Tensor, budget: int
) -> None:
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
    acc = dense_sums(s, source, lambda i: s.view_of(source.inputs[i]), samples, budget)
    return acc, samples.extent if source.shape[1] > s.cols else 0


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
