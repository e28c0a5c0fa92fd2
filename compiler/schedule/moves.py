"""Tiles of copies within the scratchpad: tables, transposes, concatenation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Node
from compiler.ops.activation import ClampCodes, QTable, requantizing_table
from compiler.ops.concat import QConcat
from compiler.ops.shapes import Transpose
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
    (n1, ss1, dd1), (n2, ss2, dd2), (n3, ss3, dd3) = [*rest, (1, 0, 0), (1, 0, 0), (1, 0, 0)][:3]
    return VectorMove(n0=run, n1=n1, n2=n2, n3=n3, ss1=ss1, ss2=ss2, ss3=ss3, dd1=dd1, dd2=dd2, dd3=dd3)


def _move_limits(th: int, tw: int, tc: int) -> bool:
    return tc <= MAX_RUN and tw <= MAX_MOVE[0] and th <= MAX_MOVE[1] and tw * tc <= MAX_MOVE_PITCH


def _transpose_limits(th: int, tw: int, tc: int) -> bool:
    return max(th, tw, tc) <= MAX_MOVE[2] and th * tw * tc <= MAX_MOVE_PITCH
