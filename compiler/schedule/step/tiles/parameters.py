"""Tiles of what a step makes of its parameters first: codes, words of biases, weights turned around."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.types import Shape
from compiler.schedule.builder import Builder, Span, Views, spans, tiles_of
from compiler.schedule.step.builder import Row, StepBuilder, gradual, pieces, step_of
from compiler.schedule.step.rows import WORD, Layout, StateRows
from compiler.schedule.step.tiles.depthwise import on_lanes, quantize_lanes, turn_lanes
from compiler.schedule.step.tiles.exits import factor_of
from compiler.schedule.tile_graph import Memory, Ref, Tensor
from compiler.train.integer.convolution import TurnWeights
from compiler.train.integer.dense import DenseSums
from compiler.train.integer.sums import Requantized
from compiler.train.integer.weights import QuantizeBias, QuantizeWeights
from isa.instructions.dma import Fill, OnChip
from isa.instructions.vector import Requant, Requantize, VectorMove
from isa.instructions.vector_words import Function32
from isa.memory_map import GRANULE_BYTES, REQUANT_RECORD
from isa.spec import ElementType, greatest

QUANTIZED_SHARE: Final = 8
"""Divides the accumulators, for the rows of a parameter that are quantized at a time.

A compromise: more rows make fewer instructions, and leave less to the layers that begin meanwhile.
"""
MAX_RUNS: Final = greatest(VectorMove, "n1")
F = Function32


@gradual(QuantizeWeights)
def quantize_tiles(
    s: StepBuilder, node: Node, view: Views, out: Tensor, budget: int
) -> Sequence[Callable[[], None]]:
    """Some rows of the state at a time: to the accumulators, to codes, to their home."""
    del view, budget
    rows = s.layouts[node.inputs[0].id]
    if on_lanes(node):
        return [partial(quantize_lanes, s, node, out, rows)]
    most = max(s.target.acc.rows // QUANTIZED_SHARE, 1)
    match rows.layout:
        case Layout.TURNED:
            depth, columns = rows.shape
            whole = depth // s.cols
            parts = (
                [(p.start, p.extent, s.cols) for p in pieces(whole, max(most // columns, 1))] if whole else []
            )
            if depth % s.cols:
                parts.append((whole, 1, depth % s.cols))
            return [partial(_quantize_turned, s, node, rows, out, part) for part in parts]
        case Layout.MATRIX:
            parts = pieces(rows.shape[0], max(most // rows.groups, 1))
            return [partial(_quantize_matrix, s, node, rows, out, part) for part in parts]
        case _:
            return [partial(_quantize_kernel, s, node, out, part) for part in pieces(rows.count, most)]


def _quantize_kernel(s: StepBuilder, node: Node, out: Tensor, part: Span) -> None:
    """A row of words becomes a row of as many bytes: as `conv` reads weights."""
    s.tile = (part.start,)
    acc = s.rows_of("words", part.extent)
    s.load_words(s.homes[node.inputs[0].id].shifted(part.start * s.cols * WORD), Ref(acc), part.extent)
    codes = s.codes_of(out, part.start * s.cols, part.extent * s.cols)
    exponent = s.numbers.read(node.inputs[1])
    s.quantize(Requantize(h=1, w=part.extent, c=s.cols, ops=s.cols), Ref(acc), codes, exponent)
    s.bring(out, codes, part.start * s.cols, part.extent * s.cols)


def _quantize_matrix(s: StepBuilder, node: Node, rows: StateRows, out: Tensor, part: Span) -> None:
    """Groups of columns side by side again: a matrix (rows, columns)."""
    source, (depth, columns) = s.homes[node.inputs[0].id], rows.shape
    s.tile = (part.start,)
    acc = s.rows_of("words", rows.groups * part.extent)
    for group in range(rows.groups):
        first = (group * depth + part.start) * s.cols * WORD
        s.load_words(source.shifted(first), Ref(acc, group * part.extent), part.extent)
    codes = s.codes_of(out, part.start * columns, part.extent * columns)
    exponent = s.numbers.read(node.inputs[1])
    pitch = part.extent if rows.groups > 1 else 0
    shape = Requantize(h=1, w=part.extent, c=columns, ops=columns, ags=pitch)
    s.quantize(shape, Ref(acc), codes, exponent)
    s.bring(out, codes, part.start * columns, part.extent * columns)


def _quantize_turned(
    s: StepBuilder, node: Node, rows: StateRows, out: Tensor, part: tuple[int, int, int]
) -> None:
    """Groups of rows behind one another: a matrix (columns, rows); `part`: first group, groups, lanes."""
    source, (depth, columns), (start, count, lanes) = s.homes[node.inputs[0].id], rows.shape, part
    s.tile = (start,)
    acc = s.rows_of("words", count * columns)
    s.load_words(source.shifted(start * columns * s.cols * WORD), Ref(acc), count * columns)
    at_home = out.home.memory is Memory.SPM
    run = (count - 1) * s.cols + lanes
    codes = Ref(out.home, start * s.cols) if at_home else Ref(s.buffer("codes", Memory.SPM, columns * run))
    exponent = s.numbers.read(node.inputs[1])
    pitch = columns if count > 1 else 0
    shape = Requantize(h=count, w=columns, c=lanes, aws=pitch, ops=depth if at_home else run, ors=s.cols)
    s.quantize(shape, Ref(acc), codes, exponent)
    if not at_home:
        s.store(codes, Ref(out.home, start * s.cols), run, [(columns, depth, run)])


@tiles_of(QuantizeBias)
def plan_quantize_bias(
    b: Builder, node: Node, operation: QuantizeBias, view: Views, out: Tensor, budget: int
) -> None:
    """Words in accumulator rows; records in DRAM where sums are requantized with them."""
    del view, budget
    s = step_of(b)
    source, rows = s.homes[node.inputs[0].id], s.layouts[node.inputs[0].id]
    exponent = s.numbers.read(node.inputs[1])
    words = s.rows_of("bias", rows.count)
    s.load_words(source, Ref(words), rows.count)
    unit = s.unit(exponent, operation.inverse)
    s.words(F.FMUL, Ref(words), Ref(words), Row(unit), rows=rows.count)
    s.words(F.F2I, Ref(words), Ref(words), rows=rows.count)
    s.sums[node.id] = words
    if all(isinstance(user.op, DenseSums) for user in node.graph.users(node)):
        return
    (count,) = node.shape
    factors = {factor_of(user) for user in node.graph.users(node) if isinstance(user.op, Requantized)}
    record = np.array((0, *factors), REQUANT_RECORD)  # a bias is of one layer
    plain = s.buffer("words", Memory.SPM, count * WORD)
    raw = Requantize(mode=Requant.RAW, h=1, w=1, c=count, ags=1 if rows.count > 1 else 0, ot=ElementType.S32)
    s.emit(raw, {"acc": Ref(words), "out": Ref(plain), "prm": s.constant(record.tobytes())})
    records = s.buffer("records", Memory.SPM, count * GRANULE_BYTES)
    image = s.image(Memory.WEIGHTS, record.tobytes() * count, "records")
    s.load(Ref(image), Ref(records), count * GRANULE_BYTES, [])
    for part in spans(count, MAX_RUNS):
        move = VectorMove(n0=1, n1=part.extent, ss1=WORD if part.extent > 1 else 0,
                          dd1=GRANULE_BYTES if part.extent > 1 else 0, xt=ElementType.S32)  # fmt: skip
        bind = {"src": Ref(plain, part.start * WORD), "dst": Ref(records, part.start * GRANULE_BYTES)}
        s.emit(move, bind)
    s.store(Ref(records), Ref(out.home), count * GRANULE_BYTES, [])


@tiles_of(TurnWeights)
def plan_turn_weights(
    b: Builder, node: Node, operation: TurnWeights, view: Views, out: Tensor, budget: int
) -> None:
    """For every tap and every group of the new outputs a block (old outputs, lanes)."""
    del budget
    s = step_of(b)
    if on_lanes(node):
        turn_lanes(s, node, view(0), out)
        return
    outs, ins, kh, kw = node.inputs[0].shape
    outs //= operation.groups
    read = -(-outs // s.cols) * s.cols * ins * kh * kw
    written = -(-ins // s.cols) * s.cols * outs * len(operation.rows) * len(operation.columns)
    for group in range(operation.groups):
        source, to = Ref(view(0).tensor.home, group * read), Ref(out.home, group * written)
        _turn_group(s, operation, (outs, ins, kh, kw), source, to)


def _turn_group(s: StepBuilder, operation: TurnWeights, kernel: Shape, source: Ref, to: Ref) -> None:
    """The kernel of a group, or of all channels."""
    outs, ins, kh, kw = kernel
    rows, columns = operation.rows, operation.columns
    for lanes in spans(ins, s.cols):
        for y, ky in enumerate(rows):
            for x, kx in enumerate(columns):
                s.tile = (lanes.start, y, x)
                block = s.buffer("turned", Memory.SPM, outs * s.cols)
                if lanes.extent < s.cols or min(ky, kx) < 0:
                    _zero(s, Ref(block), outs * s.cols)
                if min(ky, kx) >= 0:
                    first = ((ky * kw + kx) * ins + lanes.start) * s.cols
                    _turn(s, source.shifted(first), Ref(block), outs, lanes, kh * kw * ins * s.cols)
                at = (lanes.start // s.cols * len(rows) + y) * len(columns) + x
                s.store(Ref(block), to.shifted(at * outs * s.cols), outs * s.cols, [])


def _turn(s: StepBuilder, source: Ref, block: Ref, outs: int, lanes: Span, pitch: int) -> None:
    """Groups of (inputs, lanes of outputs) to (outputs, lanes of inputs)."""
    groups, size = -(-outs // s.cols), lanes.extent * s.cols
    taken = s.buffer("weights", Memory.SPM, groups * size)
    s.load(source, Ref(taken), size, [(groups, pitch, size)])
    whole = outs // s.cols
    parts = [(0, whole, s.cols)] if whole else []
    if outs % s.cols:
        parts.append((whole, 1, outs % s.cols))
    for group, count, width in parts:
        move = VectorMove(
            n0=1,
            n1=width,
            n2=lanes.extent,
            n3=count,
            ss1=1 if width > 1 else 0,
            dd1=s.cols if width > 1 else 0,
            ss2=s.cols if lanes.extent > 1 else 0,
            dd2=1 if lanes.extent > 1 else 0,
            ss3=size if count > 1 else 0,
            dd3=s.cols * s.cols if count > 1 else 0,
        )
        s.emit(move, {"src": Ref(taken, group * size), "dst": block.shifted(group * s.cols * s.cols)})


def _zero(s: StepBuilder, to: Ref, size: int) -> None:
    s.emit(Fill(space=OnChip.SPM, n0=size), {"loc": to}, "load")
