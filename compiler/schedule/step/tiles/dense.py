"""Matrix products of a step: layers, errors of inputs, sums for weights and biases."""

from __future__ import annotations

from typing import Final

from compiler.ir.graph import Node
from compiler.schedule.builder import Builder, Span, View, Views, element, spans, stored, tiles_of
from compiler.schedule.step.builder import ACC_SHARE, Row, StepBuilder, pieces, step_of
from compiler.schedule.step.rows import Layout, StateRows
from compiler.schedule.step.tiles.exits import bias_records, factor_of, requantize_shifted
from compiler.schedule.tile_graph import Buffer, Memory, Ref, Tensor
from compiler.schedule.tiles.products import TileExit
from compiler.train.integer.dense import StepDense
from isa.instructions.matrix import ArrayGemm
from isa.instructions.vector import Requantize
from isa.instructions.vector_words import Function32
from isa.spec import greatest
from isa.support.records import Frozen

MAX_COLUMNS: Final = greatest(Requantize, "c")
MAX_DEPTH: Final = greatest(ArrayGemm, "k")


class Matrix:
    """The codes of weights (depth, columns) as they lie: row after row, or column after column."""

    def __init__(self, s: StepBuilder, view: View, rows: StateRows) -> None:
        self.s, self.home = s, view.tensor.home
        self.turned = rows.layout is Layout.TURNED
        self.depth, self.columns = rows.shape

    def piece(self, k: Span, n: Span) -> tuple[Ref, int]:
        """Rows k and columns n in the scratchpad, and the bytes from one to the next as they lie."""
        outer, inner = (n, k) if self.turned else (k, n)
        pitch = self.depth if self.turned else self.columns
        first = Ref(self.home, outer.start * pitch + inner.start)
        if self.home.memory is Memory.SPM:
            return first, pitch
        buffer = self.s.buffer("weights", Memory.SPM, outer.extent * inner.extent)
        self.s.load(first, Ref(buffer), inner.extent, [(outer.extent, pitch, inner.extent)])
        return Ref(buffer), inner.extent


def _times(
    s: StepBuilder,
    node: Node,
    x: View,
    matrix: Matrix,
    acc: Buffer,
    m: Span,
    n: Span,
    *,
    back: bool,
    budget: int,
) -> None:
    """Rows m of x times columns n of the matrix, or of its transpose, into accumulators."""
    depth = matrix.columns if back else matrix.depth
    copied = 0 if x.tensor.resident else m.extent
    copied += 0 if matrix.home.memory is Memory.SPM else n.extent
    most = max(min(depth, MAX_DEPTH, budget // copied // 2 if copied else depth), 1)
    for index, k in enumerate(pieces(depth, most)):
        left = s.fetch(x, 0, Span(0, 1), m, k, "input")
        right, pitch = matrix.piece(n, k) if back else matrix.piece(k, n)
        # as it lies, B(k, n) is transposed if columns lie one after another, once more on the way back
        turned = matrix.turned != back
        instr = ArrayGemm(
            m=m.extent,
            n=n.extent,
            k=k.extent,
            ap=left.pixel_pitch,
            bp=pitch,
            bg=0 if turned else s.cols,
            tb=int(turned),
            xt=element(node.inputs[0]),
            accum=int(index > 0),
            ags=m.extent if n.extent > s.cols else 0,
        )
        s.emit(instr, {"a": left.ref, "b": right, "acc": Ref(acc)})


@tiles_of(StepDense)
def plan_dense(b: Builder, node: Node, operation: StepDense, view: Views, out: Tensor, budget: int) -> None:
    """Tiles over rows and columns, sums over depth, shifted."""
    s = step_of(b)
    rows = s.layouts[node.inputs[1].inputs[0].id]
    matrix = Matrix(s, view(1), rows)
    count, columns = node.shape
    most = s.target.acc.rows // ACC_SHARE
    m_size = min(count, most)
    n_size = min(
        columns, max(most // m_size, 1) * s.cols, MAX_COLUMNS // s.cols * s.cols, _records(s) * s.cols
    )
    for n in spans(columns, n_size):
        params = bias_records(s, node.inputs[2], n, view, factor_of(node))
        for m in spans(count, m_size):
            s.tile = (m.start, n.start)
            acc = s.rows_of("acc", -(-n.extent // s.cols) * m.extent)
            _times(s, node, view(0), matrix, acc, m, n, back=operation.turned, budget=budget)
            place = 0, Span(0, 1), m, n
            piece = s.result(out, *place, "output")
            requantize_shifted(s, node, acc, TileExit(piece, params, place, stored(out, *place)))
            s.deliver(out, piece, *place)


def _records(s: StepBuilder) -> int:
    """Groups of columns whose records fit into a part of the parameter memory."""
    return max(s.target.prm.bytes // 8 // s.cols // 2, 1)


def dense_sums(s: StepBuilder, node: Node, view: Views, m: Span, budget: int) -> Buffer:
    """Rows m of `DenseSums`, bias added, in accumulators: group after group of columns."""
    rows = s.layouts[node.inputs[1].inputs[0].id]
    columns = node.shape[1]
    groups = -(-columns // s.cols)
    acc = s.rows_of("sums", groups * m.extent)
    whole = Span(0, columns)
    _times(s, node, view(0), Matrix(s, view(1), rows), acc, m, whole, back=False, budget=budget)
    if not node.inputs[2].is_constant:
        bias = s.sums[node.inputs[2].id]
        for group in range(groups):
            lanes = min(columns - group * s.cols, s.cols)
            at = Ref(acc, group * m.extent)
            s.words(Function32.IADD, at, at, Row(Ref(bias, group)), rows=m.extent, lanes=lanes)
    return acc


def weight_rows(s: StepBuilder, node: Node, view: Views, rows: StateRows, part: Span) -> Buffer:
    """Some rows of `DenseWeightSums`, as the weights lie in the state."""
    x, g = view(0), view(1)
    depth, columns = rows.shape
    batch = node.inputs[0].shape[0]
    acc = s.zeroed("gradient", part.extent) if rows.ragged else s.rows_of("gradient", part.extent)
    most = max(min(batch, MAX_DEPTH), 1)
    for index, samples in enumerate(pieces(batch, most)):
        started = index > 0 or rows.ragged
        if rows.layout is Layout.TURNED:
            _turned_sums(s, node, (x, g), Tile(acc, part, samples), rows, started=started)
            continue
        at = part.start
        while at < part.stop:  # group after group of columns
            group, first = divmod(at, depth)
            count = min(depth - first, part.stop - at)
            lanes = min(columns - group * s.cols, s.cols)
            left = s.fetch(x, 0, Span(0, 1), samples, Span(first, first + count), "input")
            right = s.fetch(g, 0, Span(0, 1), samples, Span(group * s.cols, group * s.cols + lanes), "errors")
            instr = ArrayGemm(
                m=count,
                n=lanes,
                k=samples.extent,
                ap=left.pixel_pitch,
                bp=right.pixel_pitch,
                bg=s.cols,
                ta=1,
                xt=element(node.inputs[0]),
                accum=int(started),
            )
            s.emit(instr, {"a": left.ref, "b": right.ref, "acc": Ref(acc, at - part.start)})
            at += count
    return acc


class Tile(Frozen):
    """Some rows of sums, and the samples of which they are made."""

    acc: Buffer
    rows: Span
    samples: Span


def _turned_sums(
    s: StepBuilder, node: Node, operands: tuple[View, View], tile: Tile, rows: StateRows, *, started: bool
) -> None:
    """Errors times inputs: rows are whole groups of inputs, a row for each column."""
    (x, g), (depth, columns) = operands, rows.shape
    first, last = tile.rows.start // columns * s.cols, min(tile.rows.stop // columns * s.cols, depth)
    left = s.fetch(g, 0, Span(0, 1), tile.samples, Span(0, columns), "errors")
    right = s.fetch(x, 0, Span(0, 1), tile.samples, Span(first, last), "input")
    instr = ArrayGemm(
        m=columns,
        n=last - first,
        k=tile.samples.extent,
        ap=left.pixel_pitch,
        bp=right.pixel_pitch,
        bg=s.cols,
        ta=1,
        xt=element(node.inputs[1]),
        wt=element(node.inputs[0]),
        accum=int(started),
        ags=columns if last - first > s.cols else 0,
    )
    s.emit(instr, {"a": left.ref, "b": right.ref, "acc": Ref(tile.acc)})
