"""Tiles of batch normalization: sums of groups, statistics and coefficients as rows, maps by these rows.

Rows of a group are as many accumulator rows as its channels need, group after group. What maps are multiplied
by goes from there to DRAM, and to the parameter memory where a map needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final

import numpy as np

from compiler.ir.graph import Node, TupleElement
from compiler.schedule.builder import (
    Builder,
    Place,
    Span,
    View,
    Views,
    element,
    same_rows,
    spans,
    stored,
    tiles_of,
)
from compiler.schedule.step.builder import ACC_SHARE, MAX_WORD_ROWS, Constant, Row, StepBuilder, step_of
from compiler.schedule.step.rows import WORD, StateRows
from compiler.schedule.step.tiles.exits import plain_record, requantize_shifted
from compiler.schedule.step.tiles.sums import MAX_CHANNELS, MAX_MAP, ones_of
from compiler.schedule.step.tiles.wide import BatchSums
from compiler.schedule.tile_graph import Buffer, Memory, Ref, Tensor
from compiler.schedule.tiles.boxes import dense, fit_box, tiles
from compiler.schedule.tiles.elementwise import map_limits
from compiler.schedule.tiles.products import TileExit
from compiler.train.integer.normalization import (
    Groups,
    GroupStatistics,
    GroupSums,
    MovingAverage,
    Normalization,
    NormalizationErrors,
    Normalize,
    NormalizeErrors,
    RunningStatistics,
    steps_of,
)
from isa.instructions.vector_depthwise_sums import DepthwiseGradient
from isa.instructions.vector_training import MapSum, VectorSum
from isa.instructions.vector_words import Function32
from isa.memory_map import GRANULE_BYTES
from isa.spec import ElementType
from isa.support.records import Frozen

F = Function32
IN_ROWS: Final = (GroupStatistics, RunningStatistics, Normalization, NormalizationErrors)
"""Operations whose results are rows of groups."""


def rows_each(node: Node, cols: int) -> int:
    """Accumulator rows of a group, of a tensor (groups, channels) or (channels)."""
    return -(-node.shape[-1] // cols)


def rows_bytes(node: Node, cols: int) -> int:
    """Bytes of the rows of all groups in DRAM."""
    return node.shape[0] * rows_each(node, cols) * cols * WORD


def group_of_image(groups: Groups, image: int) -> int:
    """The group that a sample is in."""
    return next(i for i in range(len(groups)) if image < sum(groups[: i + 1]))


class _Part(Frozen):
    """Rows of groups of one size: the first row, how many, the elements of a channel in each group."""

    first: int
    rows: int
    elements: int


def _parts(groups: Groups, each: int, pixels: int) -> Iterator[_Part]:
    """All but the last group are of one size."""
    alike = len(groups) if groups[-1] == groups[0] else len(groups) - 1
    for first, count, size in ((0, alike, groups[0]), (alike, len(groups) - alike, groups[-1])):
        for rows in spans(count * each, MAX_WORD_ROWS) if count else ():
            yield _Part(first * each + rows.start, rows.extent, size * pixels)


def _result(node: Node, index: int) -> Node | None:
    """A further result of a node, if anything needs it."""
    return next((u for u in node.graph.users(node) if u.op == TupleElement(index)), None)


def _keep(s: StepBuilder, node: Node | None, rows: Buffer) -> None:
    """Let rows be found in the accumulators by what comes next, and in DRAM by what comes later."""
    if node is None:
        return
    s.sums[node.id] = rows
    if any(
        isinstance(u.op, (Normalize, NormalizeErrors, NormalizationErrors)) for u in node.graph.users(node)
    ):
        s.store_words(Ref(rows), Ref(s.view_of(node).tensor.home), rows.size)


def _kept(s: StepBuilder, node: Node) -> Buffer:
    """Rows of groups that lie in DRAM, in accumulators again."""
    count = node.shape[0] * rows_each(node, s.cols)
    rows = s.rows_of("rows", count)
    s.load_words(Ref(s.view_of(node).tensor.home), Ref(rows), count)
    return rows


def _parameter(s: StepBuilder, node: Node) -> Buffer:
    """The row of a parameter, or of the constant that stands for it."""
    each = rows_each(node, s.cols)
    rows = s.rows_of("row", each)
    if node.is_constant:
        packed = StateRows.of(node.shape, s.cols).pack(node.constant.astype(np.float32))
        source = Ref(s.image(Memory.WEIGHTS, packed.tobytes(), "row"))
    else:
        source = s.homes[node.id]
    s.load_words(source, Ref(rows), each)
    return rows


def _squared(s: StepBuilder, row: Ref) -> Ref:
    made = Ref(s.rows_of("squared", 1))
    s.words(F.FMUL, made, row, row, rows=1)
    return made


# --- sums ----------------------------------------------------------------------------------------


@tiles_of(GroupSums)
def plan_group_sums(
    b: Builder, node: Node, operation: GroupSums, view: Views, out: Tensor, budget: int
) -> None:
    """A map times ones, or times another one, every channel for itself."""
    del out
    s = step_of(b)
    maps = [view(i) for i in range(len(node.inputs))]
    n, height, width, channels = maps[0].shape
    each = rows_each(node, s.cols)
    if node.id not in s.totals:
        s.totals[node.id] = BatchSums.of(s, node, len(operation.groups) * each, "group_sums")
    sums: BatchSums = s.totals[node.id]
    pixels = min(max((budget - channels) // (channels * len(maps)), 1), sums.most)
    columns = min(width, MAX_MAP, pixels)
    rows = min(MAX_MAP, max(pixels // columns, 1))
    for image in b.images(n):
        at = group_of_image(operation.groups, image) * each
        for h in b.rows(height, rows):
            for w in spans(width, columns):
                s.tile = (image, h.start, w.start)
                sums.expect(s, h.extent * w.extent)
                for c in spans(channels, MAX_CHANNELS // s.cols * s.cols):
                    acc = Ref(sums.rows, at + c.start // s.cols)
                    _sum(s, node, maps, (image, h, w, c), acc)
        if image == n - 1:
            sums.finish(s)


def _sum(s: StepBuilder, node: Node, maps: Sequence[View], place: Place, acc: Ref) -> None:
    """A tile of one map, or of the products of two."""
    _, h, w, c = place
    a = s.fetch(maps[0], *place, "a")
    if len(maps) > 1:
        x = s.fetch(maps[1], *place, "b") if node.inputs[1] is not node.inputs[0] else a
        other, pitches, kind = x.ref, (x.pixel_pitch, x.row_pitch), element(node.inputs[1])
    else:
        ones = s.once(("ones", c.extent), partial(ones_of, s, c.extent))
        other, pitches, kind = Ref(ones), (0, 0), ElementType.U8
    instr = DepthwiseGradient(
        oh=h.extent, ow=w.extent, c=c.extent, ih=h.extent, iw=w.extent, ips=pitches[0], irs=pitches[1],
        gps=a.pixel_pitch, grs=a.row_pitch, accum=1, xt=kind, gt=element(node.inputs[0]),
    )  # fmt: skip
    s.emit(instr, {"x": other, "g": a.ref, "acc": acc})


# --- rows ----------------------------------------------------------------------------------------


@tiles_of(GroupStatistics)
def plan_statistics(
    b: Builder, node: Node, operation: GroupStatistics, view: Views, out: Tensor, budget: int
) -> None:
    """In place of the sums."""
    del view, out, budget
    s = step_of(b)
    totals, squares = (s.totals[i.id] for i in node.inputs)
    for part in _parts(operation.groups, rows_each(node, s.cols), operation.pixels):
        mean, variance = (sums.real(s, part.first, part.rows) for sums in (totals, squares))
        squared, rows = Ref(s.rows_of("squared", part.rows)), part.rows
        for sums in (mean, variance):
            s.words(F.FDIV, sums, sums, Constant(part.elements), rows=rows)
        s.words(F.FMUL, squared, mean, mean, rows=rows)
        s.words(F.FSUB, variance, variance, squared, rows=rows)
        s.words(F.FMAX, variance, variance, Constant(0), rows=rows)
    _keep(s, node, totals.rows)
    _keep(s, _result(node, 1), squares.rows)


@tiles_of(RunningStatistics)
def plan_running(
    b: Builder, node: Node, operation: RunningStatistics, view: Views, out: Tensor, budget: int
) -> None:
    """One group."""
    del view, out, budget
    s = step_of(b)
    means, variances = (_parameter(s, i) for i in node.inputs[:2])
    unit = s.unit(s.numbers.read(node.inputs[2]), operation.factor)
    s.words(F.FDIV, Ref(means), Ref(means), Row(unit), rows=means.size)
    s.words(F.FDIV, Ref(variances), Ref(variances), Row(_squared(s, unit)), rows=variances.size)
    _keep(s, node, means)
    _keep(s, _result(node, 1), variances)


@tiles_of(Normalization)
def plan_normalization(
    b: Builder, node: Node, operation: Normalization, view: Views, out: Tensor, budget: int
) -> None:
    """Roots of all groups together, the rest group after group."""
    del view, out, budget
    s = step_of(b)
    means, variances = (s.sums[i.id] for i in node.inputs[:2])
    scale, offset = (_parameter(s, i) for i in node.inputs[2:4])
    epsilon = _squared(s, s.unit(s.numbers.read(node.inputs[4]), operation.factor))
    s.words(F.FDIV, epsilon, Constant(operation.epsilon), epsilon, rows=1)
    roots, gains, rests = (s.rows_of(role, means.size) for role in ("roots", "gains", "rests"))
    for rows in spans(means.size, MAX_WORD_ROWS):
        root = Ref(roots, rows.start)
        s.words(F.FADD, root, Ref(variances, rows.start), Row(epsilon), rows=rows.extent)
        s.words(F.FSQRT, root, root, rows=rows.extent)
        s.words(F.FDIV, root, Constant(1), root, rows=rows.extent)
    for first in range(0, means.size, scale.size):
        gain, rest, rows = Ref(gains, first), Ref(rests, first), scale.size
        s.words(F.FMUL, gain, Ref(scale), Ref(roots, first), rows=rows)
        s.words(F.FMUL, rest, Ref(means, first), gain, rows=rows)
        s.words(F.FSUB, rest, Ref(offset), rest, rows=rows)
    for result, made in ((node, gains), (_result(node, 1), rests), (_result(node, 2), roots)):
        _keep(s, result, made)


@tiles_of(MovingAverage)
def plan_moving_average(
    b: Builder, node: Node, operation: MovingAverage, view: Views, out: Tensor, budget: int
) -> None:
    """Words of all groups, their sum, then into the state."""
    del view, out, budget
    s = step_of(b)
    unit = Row(s.unit(s.numbers.read(node.inputs[2]), operation.factor))
    momentum = operation.momentum
    keep, part = Constant(momentum), Constant(1 - momentum)
    for given in node.inputs[5:]:
        keep, part = (s.number_given(given, i) for i in (0, 1))
    steps = steps_of(node.inputs[0].shape[0])
    for index, (bits, step) in enumerate(steps):
        rows, state = s.sums[node.inputs[index].id], node.inputs[3 + index]
        old = _parameter(s, state)
        total = Ref(_total_of_words(s, Ref(rows), rows.size, old.size, bits))
        s.words(F.I2F, total, total, rows=old.size)
        s.words(F.FMUL, total, total, Constant(float(step)), rows=old.size)
        for _ in range(index + 1):  # a variance is of squares
            s.words(F.FMUL, total, total, unit, rows=old.size)
        s.words(F.FMUL, total, total, part, rows=old.size)
        s.words(F.FMUL, Ref(old), Ref(old), keep, rows=old.size)
        s.words(F.FADD, Ref(old), Ref(old), total, rows=old.size)
        s.store_words(Ref(old), s.homes[state.id], old.size)


def _total_of_words(s: StepBuilder, rows: Ref, count: int, each: int, bits: int) -> Buffer:
    """The sum over groups of rne(row * 2^bits)."""
    total, unit = s.rows_of("total", each), Constant(2.0**bits)
    for first in range(0, count, each):
        words = Ref(s.rows_of("words", each)) if first else Ref(total)
        s.words(F.FMUL, words, rows.shifted(first), unit, rows=each)
        s.words(F.F2I, words, words, rows=each)
        if first:
            s.words(F.IADD, Ref(total), Ref(total), words, rows=each)
    return total


@tiles_of(NormalizationErrors)
def plan_normalization_errors(
    b: Builder, node: Node, operation: NormalizationErrors, view: Views, out: Tensor, budget: int
) -> None:
    """Slopes in place of the products, rests in place of the errors."""
    del view, out, budget
    s = step_of(b)
    sums, sums_of_products = (s.totals[i.id] for i in node.inputs[:2])
    errors, products = sums.rows, sums_of_products.rows
    means, gains, roots = (_kept(s, i) for i in node.inputs[2:])
    each = rows_each(node, s.cols)
    for part in _parts(operation.groups, each, operation.pixels):
        rest, slope = (t.real(s, part.first, part.rows) for t in (sums, sums_of_products))
        spare, rows = Ref(s.rows_of("spare", part.rows)), part.rows
        s.words(F.FMUL, spare, Ref(means, part.first), rest, rows=rows)
        s.words(F.FSUB, slope, slope, spare, rows=rows)
        s.words(F.FMUL, slope, slope, Ref(roots, part.first), rows=rows)
    words = _total_of_words(s, Ref(products), products.size, each, operation.bits)
    for part in _parts(operation.groups, each, operation.pixels):
        rest, slope, mean, gain, root = (Ref(r, part.first) for r in (errors, products, means, gains, roots))
        rows, count = part.rows, Constant(part.elements)
        s.words(F.FDIV, slope, slope, count, rows=rows)
        s.words(F.FMUL, root, gain, root, rows=rows)
        s.words(F.FMUL, slope, root, slope, rows=rows)
        s.words(F.FSUB, slope, Constant(0), slope, rows=rows)
        s.words(F.FDIV, rest, rest, count, rows=rows)
        s.words(F.FMUL, rest, gain, rest, rows=rows)
        s.words(F.FSUB, rest, Constant(0), rest, rows=rows)
        s.words(F.FMUL, mean, slope, mean, rows=rows)
        s.words(F.FSUB, rest, rest, mean, rows=rows)
    _keep(s, node, products)
    _keep(s, _result(node, 1), errors)
    gradient = _result(node, 2)
    if gradient is not None:
        s.sums[gradient.id] = words


# --- maps ----------------------------------------------------------------------------------------


@tiles_of(Normalize, reads=same_rows)
def plan_normalize(
    b: Builder, node: Node, operation: Normalize, view: Views, out: Tensor, budget: int
) -> None:
    """Into accumulators, then shifted."""
    _by_rows(step_of(b), node, operation.groups, (view(0), view(0)), out, budget)


@tiles_of(NormalizeErrors, reads=same_rows)
def plan_normalize_errors(
    b: Builder, node: Node, operation: NormalizeErrors, view: Views, out: Tensor, budget: int
) -> None:
    """Into accumulators, then shifted."""
    _by_rows(step_of(b), node, operation.groups, (view(0), view(1)), out, budget)


def _by_rows(
    s: StepBuilder, node: Node, groups: Groups, maps: tuple[View, View], out: Tensor, budget: int
) -> None:
    """One map or two by the rows of their group, which are the operands before the shift."""
    two = isinstance(node.op, NormalizeErrors)
    copies = sum(not m.tensor.resident for m in maps[: 1 + two]) + (not out.resident)
    most = s.target.acc.rows // ACC_SHARE

    def allowed(th: int, tw: int, tc: int) -> bool:
        whole = tc == out.shape[3] or tc % s.cols == 0
        return whole and map_limits(th, tw, tc) and th * tw * -(-tc // s.cols) <= most

    size = fit_box(node, (s.height(out.shape[1]), *out.shape[2:]), dense(copies), allowed, budget)
    for place in tiles(s, out.shape, size):
        image, h, w, c = place
        group = group_of_image(groups, image)
        prm = s.once(("rows", group, c.start, c.extent), partial(_rows_in_prm, s, node, group, c))
        a = s.fetch(maps[0], *place, "a")
        x = s.fetch(maps[1], *place, "x") if two else a
        count = h.extent * w.extent
        acc = s.rows_of("sum", count * -(-c.extent // s.cols))
        instr = VectorSum(
            fn=MapSum.BNB if two else MapSum.BNF,
            h=h.extent,
            w=w.extent,
            c=c.extent,
            aps=a.pixel_pitch,
            ars=a.row_pitch,
            bps=x.pixel_pitch if two else 0,
            brs=x.row_pitch if two else 0,
            ags=count if c.extent > s.cols else 0,
            at=element(node.inputs[0]),
            bt=element(node.inputs[1]) if two else ElementType.S8,
        )
        bind = {"a": a.ref, "acc": Ref(acc), "prm": prm} | ({"b": x.ref} if two else {})
        s.emit(instr, bind)
        target = s.result(out, *place, "output")
        way = TileExit(target, plain_record(s, node), place, stored(out, *place), per_channel=False)
        requantize_shifted(s, node, acc, way)
        s.deliver(out, target, *place)


def _rows_in_prm(s: StepBuilder, node: Node, group: int, channels: Span) -> Ref:
    """The rows of a group for some channels, one after another, each padded to whole granules."""
    rows = [i for i in node.inputs if i.type.dtype.numpy == np.float32]
    size = -(-channels.extent * WORD // GRANULE_BYTES) * GRANULE_BYTES
    buffer = s.buffer("rows", Memory.PRM, len(rows) * size, GRANULE_BYTES)
    for index, row in enumerate(rows):
        first = (group * rows_each(row, s.cols) * s.cols + channels.start) * WORD
        if row.is_constant:
            assert not row.constant.any()
            source = Ref(s.image(Memory.PARAMS, bytes(size), "nothing"))
        else:
            source = Ref(s.view_of(row).tensor.home, first)
        s.load(source, Ref(buffer, index * size), size, [])
    return Ref(buffer, 0, GRANULE_BYTES)
