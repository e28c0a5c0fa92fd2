"""Tiles of copies within the scratchpad: tables, transposes, concatenation."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Node
from compiler.ir.op import StridedCopy
from compiler.ops.activation import ClampCodes, QTable, requantizing_table
from compiler.ops.concat import QConcat
from compiler.ops.shapes import Transpose
from compiler.ops.slices import QPad
from compiler.schedule.builder import Builder, Span, View, Views, Window, same_rows, stored, tiles_of
from compiler.schedule.tile_graph import Memory, Piece, Ref, Stored, Tensor
from compiler.schedule.tiles.boxes import dense, fit_box, tiles
from compiler.schedule.tiles.placement import placed
from isa.instructions.dma import merge_rows
from isa.instructions.vector import VectorMove
from isa.memory_map import TABLE_BYTES
from isa.spec import greatest

MAX_RUN: Final = greatest(VectorMove, "n0")
MAX_MOVE: Final = tuple(greatest(VectorMove, f"n{level}") for level in (1, 2, 3))
MAX_MOVE_PITCH: Final = greatest(VectorMove, "ss1")


@tiles_of(QTable, reads=same_rows)
def plan_table(b: Builder, node: Node, operation: QTable, view: Views, out: Tensor, budget: int) -> None:
    """A function of one value: every byte through a table."""
    codes = operation.codes(node.inputs[0].quant, node.quant)
    copy_elements(b, node, view(0), out, whole_of(out.shape), ALL, budget, codes)


@tiles_of(ClampCodes, reads=same_rows)
def plan_clamp(b: Builder, node: Node, operation: ClampCodes, view: Views, out: Tensor, budget: int) -> None:
    """A clamp of codes, as a table."""
    every = np.arange(TABLE_BYTES, dtype=np.uint8).view(node.type.dtype.numpy)
    codes = operation.evaluate([every], [node.type], node.type).view(np.uint8)
    copy_elements(b, node, view(0), out, whole_of(out.shape), ALL, budget, codes)


def _concatenated_rows(node: Node, index: int) -> Window | None:
    """Concatenation goes row by row along the channels alone."""
    operation = node.op
    assert isinstance(operation, QConcat)
    return same_rows(node, index) if operation.axis == len(node.shape) - 1 else None


@tiles_of(QConcat, reads=_concatenated_rows)
def plan_concat(b: Builder, node: Node, operation: QConcat, view: Views, out: Tensor, budget: int) -> None:
    """Every operand copied to its place if it is not there, through a table where its scale is another."""
    del operation
    for index, (operand, start) in enumerate(placed(node)):
        x = view(index)
        if x.tensor.part_of is out:
            continue
        codes = None if operand.quant == node.quant else requantizing_table(operand.quant, node.quant)
        to = [s.shifted(by) for s, by in zip(whole_of(x.shape), start, strict=True)]
        copy_elements(b, node, x, out, to, ALL, budget, codes)


Strides = Sequence[tuple[int, int]]
"""For every axis: the first element of the operand, and the distance to the next; 0 repeats it."""
ALL: Final[Strides] = ((0, 1),) * 4


def copy_elements(
    b: Builder,
    node: Node,
    x: View,
    out: Tensor,
    to: Sequence[Span],
    strides: Strides,
    budget: int,
    codes: NDArray[np.uint8] | None = None,
) -> None:
    """Copy elements of an image to a box of a result, through a table if one is given."""
    table: dict[str, Ref] = {}
    if codes is not None:
        table["lut"] = Ref(b.parameters(codes.tobytes(), "table", align=TABLE_BYTES).buffer, 0, TABLE_BYTES)
    inner = strides[1:]

    def needed(*size: int) -> int:
        box = math.prod((t - 1) * abs(step) + 1 for t, (_, step) in zip(size, inner, strict=True))
        return (0 if x.tensor.resident else box) + (0 if out.resident else math.prod(size))

    def allowed(th: int, tw: int, tc: int) -> bool:
        wide, deep = ((t - 1) * abs(step) + 1 for t, (_, step) in zip((tw, tc), inner[1:], strict=True))
        levels = (tc, tw, th, 1) if inner[2][1] == 1 else (1, tc, tw, th)
        fits = all(t <= most for t, most in zip(levels, (MAX_RUN, *MAX_MOVE), strict=True))
        return fits and max(wide * deep, tw * tc) <= MAX_MOVE_PITCH

    extents = (to[0].extent, to[1].extent, to[2].extent, to[3].extent)
    size = fit_box(node, (b.height(extents[1]), *extents[2:]), needed, allowed, budget)
    for n, rs, cs, ch in tiles(b, extents, size):
        taken = [_taken(s, *stride) for s, stride in zip((rs, cs, ch), inner, strict=True)]
        source = b.fetch(x, strides[0][0] + n * strides[0][1], taken[0], taken[1], taken[2], "input")
        place = to[0].start + n, rs.shifted(to[1].start), cs.shifted(to[2].start), ch.shifted(to[3].start)
        target = b.result(out, *place, "output")
        steps = [step for _, step in inner]
        pitches = (source.row_pitch, source.pixel_pitch, 1)
        first = sum((s.extent - 1) * p for s, p, step in zip(taken, pitches, steps, strict=True) if step < 0)
        row, pixel, element = (p * step for p, step in zip(pitches, steps, strict=True))
        levels = [(cs.extent, pixel, target.pixel_pitch), (rs.extent, row, target.row_pitch)]
        run = ch.extent
        if element != 1 and run > 1:
            levels, run = [(run, element, 1), *levels], 1
        bind = {"src": source.ref.shifted(first), "dst": target.ref, **table}
        b.emit(move(run, levels), bind, stored=stored(out, *place, "dst"))
        b.deliver(out, target, *place)


def _taken(span: Span, first: int, step: int) -> Span:
    """The elements of the operand between the first and the last that a span of the result takes."""
    ends = first + span.start * step, first + (span.stop - 1) * step
    return Span(min(ends), max(ends) + 1)


def whole_of(shape: Sequence[int]) -> list[Span]:
    """The spans of all of a tensor."""
    return [Span(0, extent) for extent in shape]


@tiles_of(Transpose)
def plan_transpose(
    b: Builder, node: Node, operation: Transpose, view: Views, out: Tensor, budget: int
) -> None:
    """A transpose by strided copies within the scratchpad; the first input dimension is a loop."""
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


def _fill_limits(th: int, tw: int, tc: int) -> bool:
    """Every level repeats one byte: channels are a level too."""
    fits = all(t <= most for t, most in zip((tc, tw, th), MAX_MOVE, strict=True))
    return fits and tw * tc <= MAX_MOVE_PITCH


def _transpose_limits(th: int, tw: int, tc: int) -> bool:
    return max(th, tw, tc) <= MAX_MOVE[2] and th * tw * tc <= MAX_MOVE_PITCH


@tiles_of(StridedCopy)
def plan_strided_copy(
    b: Builder, node: Node, operation: StridedCopy, view: Views, out: Tensor, budget: int
) -> None:
    """Elements of the operand, copied; distances become pitches within the scratchpad."""
    taken = operation.taken(node.inputs[0].shape)
    strides = [*ALL[len(node.shape) :], *((start, step) for start, _, step in taken)]
    copy_elements(b, node, view(0), out, whole_of(out.shape), strides, budget)


@tiles_of(QPad)
def plan_pad(b: Builder, node: Node, operation: QPad, view: Views, out: Tensor, budget: int) -> None:
    """Slices of the operand or of the constant, each to its place."""
    lead = 4 - len(node.shape)
    x = view(0)
    axes = [
        _segments(extent, before, after, operation.mode)
        for extent, before, after in zip(
            x.shape, (0,) * lead + operation.before, (0,) * lead + operation.after, strict=True
        )
    ]
    for box in itertools.product(*axes):
        to, strides = [place for place, _ in box], [stride for _, stride in box if stride is not None]
        if len(strides) < len(box):
            _fill(b, node, out, to, operation.value, budget)
        elif x.tensor.part_of is not out:
            copy_elements(b, node, x, out, to, strides, budget)


Segment = tuple[Span, tuple[int, int] | None]
"""A range of the result, and which elements it copies, as in Strides; None: the constant."""


def _segments(extent: int, before: int, after: int, mode: str) -> list[Segment]:
    found: list[Segment] = [(Span(before, before + extent), (0, 1))]
    for count, at, low in ((before, 0, True), (after, before + extent, False)):
        strides: dict[str, tuple[int, int] | None] = {
            "constant": None,
            "edge": (0 if low else extent - 1, 0),
            "reflect": (count if low else extent - 2, -1),
            "wrap": (extent - count if low else 0, 1),
        }
        if count:
            found.append((Span(at, at + count), strides[mode]))
    return found


def _fill(b: Builder, node: Node, out: Tensor, to: Sequence[Span], value: int, budget: int) -> None:
    """A constant, from one byte of the weights."""
    content = bytes([value & 0xFF])
    extents = [s.extent for s in to]
    size = fit_box(
        node, (extents[1], extents[2], extents[3]), dense(0 if out.resident else 1), _fill_limits, budget
    )
    byte = b.buffer("constant", Memory.SPM, 1)
    b.load(Ref(b.image(Memory.WEIGHTS, content, f"{node.name}.value")), Ref(byte), 1, [])
    for n, rs, cs, ch in tiles(b, (extents[0], extents[1], extents[2], extents[3]), size):
        place = to[0].start + n, rs.shifted(to[1].start), cs.shifted(to[2].start), ch.shifted(to[3].start)
        target = b.result(out, *place, "output")
        levels = [(ch.extent, 0, 1), (cs.extent, 0, target.pixel_pitch), (rs.extent, 0, target.row_pitch)]
        bind = {"src": Ref(byte), "dst": target.ref}
        b.emit(move(1, levels), bind, stored=stored(out, *place, "dst"))
        b.deliver(out, target, *place)
