"""Tiles of copies within the scratchpad: tables, transposes, concatenation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Node
from compiler.ops.activation import ClampCodes, QTable, requantizing_table
from compiler.ops.concat import QConcat
from compiler.ops.shapes import Transpose
from compiler.ops.slices import QPad, Slice
from compiler.schedule.boxes import dense, fit_box, tiles
from compiler.schedule.builder import Builder, Piece, Span, View, stored, tiles_of
from compiler.schedule.tiles import TABLE, Memory, Ref, Stored, Tensor
from isa.instructions.dma import merge_rows
from isa.instructions.vector import VectorMove
from isa.spec import greatest

MAX_RUN: Final = greatest(VectorMove, "n0")
MAX_MOVE: Final = tuple(greatest(VectorMove, f"n{level}") for level in (1, 2, 3))
MAX_MOVE_PITCH: Final = greatest(VectorMove, "ss1")


@tiles_of(QTable)
def plan_table(b: Builder, node: Node, view: Callable[[int], View], out: Tensor, budget: int) -> None:
    """A function of one value: every byte through a table."""
    operation = node.op
    assert isinstance(operation, QTable)
    codes = operation.codes(node.inputs[0].quant, node.quant)
    _copy(b, node, view(0), out, (0, 0, 0, 0), codes, budget)


@tiles_of(ClampCodes)
def plan_clamp(b: Builder, node: Node, view: Callable[[int], View], out: Tensor, budget: int) -> None:
    """A clamp of codes, as a table."""
    every = np.arange(256, dtype=np.uint8).view(node.type.dtype.numpy)
    codes = node.op.evaluate([every], [node.type], node.type).view(np.uint8)
    _copy(b, node, view(0), out, (0, 0, 0, 0), codes, budget)


@tiles_of(QConcat)
def plan_concat(b: Builder, node: Node, view: Callable[[int], View], out: Tensor, budget: int) -> None:
    """Every operand copied to its place, through a table where its scale is another."""
    operation = node.op
    assert isinstance(operation, QConcat)
    axis = operation.axis + 4 - len(node.shape)
    at = [0, 0, 0, 0]
    for index, operand in enumerate(node.inputs):
        x = view(index)
        codes = None if operand.quant == node.quant else requantizing_table(operand.quant, node.quant)
        _copy(b, node, x, out, (at[0], at[1], at[2], at[3]), codes, budget)
        at[axis] += x.shape[axis]


def _copy(
    b: Builder,
    node: Node,
    x: View,
    out: Tensor,
    at: tuple[int, int, int, int],
    codes: NDArray[np.uint8] | None,
    budget: int,
) -> None:
    """Copy an image into a result, its first element to `at`, through a table if one is given."""
    table: dict[str, Ref] = {}
    if codes is not None:
        table["lut"] = Ref(b.parameters(codes.tobytes(), "table", align=TABLE).buffer, 0, TABLE)
    copies = (not x.tensor.resident) + (not out.resident)
    size = fit_box(node, x.shape[1:], dense(copies), _move_limits, budget)
    for n, rs, cs, ch in tiles(b, x.shape, size):
        source = b.fetch(x, n, rs, cs, ch, "input")
        place = n + at[0], rs.shifted(at[1]), cs.shifted(at[2]), ch.shifted(at[3])
        target = b.result(out, *place, "output")
        levels = [
            (cs.extent, source.pixel_pitch, target.pixel_pitch),
            (rs.extent, source.row_pitch, target.row_pitch),
        ]
        bind = {"src": source.ref, "dst": target.ref, **table}
        b.emit(move(ch.extent, levels), bind, ("dst",), stored=stored(out, *place, "dst"))
        b.deliver(out, target, *place)


@tiles_of(Transpose)
def plan_transpose(b: Builder, node: Node, view: Callable[[int], View], out: Tensor, budget: int) -> None:
    """A transpose by strided copies within the scratchpad; the first input dimension is a loop."""
    operation = node.op
    assert isinstance(operation, Transpose)
    x = view(0)
    perm = (*range(4 - len(operation.perm)), *(p + 4 - len(operation.perm) for p in operation.perm))
    assert not x.tensor.resident
    assert not out.resident
    sizes = x.shape[1:]
    th, tw, tc = fit_box(node, sizes, dense(2), _transpose_limits, budget)
    for n, rs, cs, ch in tiles(b, x.shape, (th, tw, tc)):
        source = b.fetch(x, n, rs, cs, ch, "input")
        box = (Span(n, n + 1), rs, cs, ch)
        _emit_transpose(b, out, source, box, perm)


def _emit_transpose(
    b: Builder, out: Tensor, source: Piece, box: tuple[Span, ...], perm: tuple[int, ...]
) -> None:
    extents = [box[p].extent for p in perm]
    buffer = b.buffer("output", Memory.SPM, math.prod(extents))
    source_pitch = [0, source.row_pitch, source.pixel_pitch, 1]
    dense = [math.prod(extents[i + 1 :]) for i in range(4)]
    levels = [(extents[i], source_pitch[perm[i]], dense[i]) for i in range(4) if extents[i] > 1]
    run = 1
    if levels and levels[-1][1:] == (1, 1):
        run = levels.pop()[0]
    place = tuple((box[p].start, box[p].stop) for p in perm)
    b.emit(
        move(run, levels[::-1]),
        {"src": source.ref, "dst": Ref(buffer)},
        ("dst",),
        stored=Stored(out.id, place, "dst"),
    )
    pitches = [math.prod(out.shape[i + 1 :]) for i in range(4)]
    offset = sum(start * pitch for (start, _), pitch in zip(place, pitches, strict=True))
    b.store(
        Ref(buffer),
        Ref(out.home, offset),
        extents[3],
        [(extents[i], pitches[i], dense[i]) for i in (2, 1, 0)],
    )


def move(run: int, levels: list[tuple[int, int, int]]) -> VectorMove:
    """A copy of runs; levels are (count, source pitch, destination pitch), innermost first."""
    run, rest = merge_rows(run, levels, MAX_RUN)
    assert len(rest) <= len(MAX_MOVE), f"a copy of {len(rest)} levels"
    (n1, ss1, dd1), (n2, ss2, dd2), (n3, ss3, dd3) = [*rest, (1, 0, 0), (1, 0, 0), (1, 0, 0)][:3]
    return VectorMove(n0=run, n1=n1, n2=n2, n3=n3, ss1=ss1, ss2=ss2, ss3=ss3, dd1=dd1, dd2=dd2, dd3=dd3)


def _move_limits(th: int, tw: int, tc: int) -> bool:
    return tc <= MAX_RUN and tw <= MAX_MOVE[0] and th <= MAX_MOVE[1] and tw * tc <= MAX_MOVE_PITCH


def _transpose_limits(th: int, tw: int, tc: int) -> bool:
    return max(th, tw, tc) <= MAX_MOVE[2] and th * tw * tc <= MAX_MOVE_PITCH


@tiles_of(Slice)
def plan_slice(b: Builder, node: Node, view: Callable[[int], View], out: Tensor, budget: int) -> None:
    """A box of the operand, copied; steps become pitches within the scratchpad."""
    operation = node.op
    assert isinstance(operation, Slice)
    lead = 4 - len(node.shape)
    starts, steps = (0,) * lead + operation.starts, (1,) * lead + operation.steps
    x = view(0)
    reach = [(abs(s), 1 if s > 0 else -1) for s in steps[1:]]

    def needed(th: int, tw: int, tc: int) -> int:
        box = [(t - 1) * s + 1 for t, (s, _) in zip((th, tw, tc), reach, strict=True)]
        return (0 if x.tensor.resident else math.prod(box)) + (0 if out.resident else th * tw * tc)

    def allowed(th: int, tw: int, tc: int) -> bool:
        box = [(t - 1) * s + 1 for t, (s, _) in zip((th, tw, tc), reach, strict=True)]
        runs = (1, th, tw, tc) if steps[3] != 1 else (tc, tw, th, 1)
        fits = runs[0] <= MAX_RUN and all(r <= m for r, m in zip(runs[1:][::-1], MAX_MOVE, strict=True))
        return fits and max(box[1] * box[2], tw * tc) <= MAX_MOVE_PITCH

    size = fit_box(node, out.shape[1:], needed, allowed, budget)
    for n, rs, cs, ch in tiles(b, out.shape, size):
        spans_in = [
            _span_of(s, start, step)
            for s, start, step in zip((rs, cs, ch), starts[1:], steps[1:], strict=True)
        ]
        source = b.fetch(x, starts[0] + n * steps[0], spans_in[0], spans_in[1], spans_in[2], "input")
        target = b.result(out, n, rs, cs, ch, "output")
        pitches = [source.row_pitch, source.pixel_pitch, 1]
        first = sum(
            (s.extent - 1) * p for s, p, step in zip(spans_in, pitches, steps[1:], strict=True) if step < 0
        )
        row, pixel, element_pitch = (p * s for p, s in zip(pitches, steps[1:], strict=True))
        levels = [(cs.extent, pixel, target.pixel_pitch), (rs.extent, row, target.row_pitch)]
        run = ch.extent
        if element_pitch != 1 and run > 1:
            levels, run = [(run, element_pitch, 1), *levels], 1
        bind = {"src": source.ref.shifted(first), "dst": target.ref}
        b.emit(move(run, levels), bind, ("dst",), stored=stored(out, n, rs, cs, ch, "dst"))
        b.deliver(out, target, n, rs, cs, ch)


def _span_of(span: Span, start: int, step: int) -> Span:
    """The elements of the operand between the first and the last that a span of the result takes."""
    ends = start + span.start * step, start + (span.stop - 1) * step
    return Span(min(ends), max(ends) + 1)


@tiles_of(QPad)
def plan_pad(b: Builder, node: Node, view: Callable[[int], View], out: Tensor, budget: int) -> None:
    """Slices of the operand or of the constant, each to its place."""
    operation = node.op
    assert isinstance(operation, QPad)
    lead = 4 - len(node.shape)
    x = view(0)
    axes = [
        _segments(extent, before, after, operation.mode)
        for extent, before, after in zip(
            x.shape, (0,) * lead + operation.before, (0,) * lead + operation.after, strict=True
        )
    ]
    for box in itertools.product(*axes):
        to = [piece[0] for piece in box]
        if any(piece[1] is None for piece in box):
            _fill(b, node, out, to, operation.value, budget)
            continue
        sources = [piece[1] for piece in box if piece[1] is not None]
        _copy_box(b, node, x, out, sources, to, [piece[2] for piece in box], budget)


Segment = tuple[Span, Span | None, int]
"""A range of the result, the range of the operand that it copies (None: the constant), and the step."""


def _segments(extent: int, before: int, after: int, mode: str) -> list[Segment]:
    middle = Span(before, before + extent)
    found: list[Segment] = [(middle, Span(0, extent), 1)]
    for count, at, low in ((before, 0, True), (after, before + extent, False)):
        if count == 0:
            continue
        place = Span(at, at + count)
        match mode:
            case "constant":
                found.append((place, None, 1))
            case "edge":
                found.append((place, Span(0, 1) if low else Span(extent - 1, extent), 0))
            case "reflect":
                source = Span(1, count + 1) if low else Span(extent - 1 - count, extent - 1)
                found.append((place, source, -1))
            case _:
                found.append((place, Span(extent - count, extent) if low else Span(0, count), 1))
    return found


def _fill(b: Builder, node: Node, out: Tensor, to: Sequence[Span], value: int, budget: int) -> None:
    """A constant, from one byte of the weights."""
    content = bytes([value & 0xFF])
    extents = [s.extent for s in to]
    size = fit_box(
        node, (extents[1], extents[2], extents[3]), dense(0 if out.resident else 1), _move_limits, budget
    )
    byte = b.buffer("constant", Memory.SPM, 1)
    b.load(Ref(b.image(Memory.WEIGHTS, content, f"{node.name}.value")), Ref(byte), 1, [])
    for n, rs, cs, ch in tiles(b, (extents[0], extents[1], extents[2], extents[3]), size):
        place = to[0].start + n, rs.shifted(to[1].start), cs.shifted(to[2].start), ch.shifted(to[3].start)
        target = b.result(out, *place, "output")
        levels = [(ch.extent, 0, 1), (cs.extent, 0, target.pixel_pitch), (rs.extent, 0, target.row_pitch)]
        bind = {"src": Ref(byte), "dst": target.ref}
        b.emit(move(1, levels), bind, ("dst",), stored=stored(out, *place, "dst"))
        b.deliver(out, target, *place)


def _copy_box(
    b: Builder,
    node: Node,
    x: View,
    out: Tensor,
    sources: Sequence[Span],
    to: Sequence[Span],
    steps: Sequence[int],
    budget: int,
) -> None:
    """A box of the operand, along each axis forwards (1), backwards (-1) or one element repeated (0)."""
    extents = (to[0].extent, to[1].extent, to[2].extent, to[3].extent)
    copies = (not x.tensor.resident) + (not out.resident)
    size = fit_box(node, extents[1:], dense(copies), _move_limits, budget)
    for n, rs, cs, ch in tiles(b, extents, size):
        taken = [
            _taken(s, source, step)
            for s, source, step in zip((rs, cs, ch), sources[1:], steps[1:], strict=True)
        ]
        image = _taken(Span(n, n + 1), sources[0], steps[0]).start
        source = b.fetch(x, image, taken[0], taken[1], taken[2], "input")
        place = to[0].start + n, rs.shifted(to[1].start), cs.shifted(to[2].start), ch.shifted(to[3].start)
        target = b.result(out, *place, "output")
        pitches = [source.row_pitch, source.pixel_pitch, 1]
        first = sum((t.extent - 1) * p for t, p, s in zip(taken, pitches, steps[1:], strict=True) if s < 0)
        row, pixel, run_pitch = (p * s for p, s in zip(pitches, steps[1:], strict=True))
        levels = [(cs.extent, pixel, target.pixel_pitch), (rs.extent, row, target.row_pitch)]
        run = ch.extent
        if run_pitch != 1 and run > 1:
            levels, run = [(run, run_pitch, 1), *levels], 1
        bind = {"src": source.ref.shifted(first), "dst": target.ref}
        b.emit(move(run, levels), bind, ("dst",), stored=stored(out, *place, "dst"))
        b.deliver(out, target, *place)


def _taken(span: Span, source: Span, step: int) -> Span:
    """What a range of the result takes of the operand's range."""
    if step == 0:
        return source
    if step > 0:
        return span.shifted(source.start)
    return Span(source.stop - span.stop, source.stop - span.start)
