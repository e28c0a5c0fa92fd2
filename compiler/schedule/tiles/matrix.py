"""Tiles of matrix products: cut over rows and columns, and over the depth of the sum."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.types import Shape
from compiler.ops.gemm import QGemm
from compiler.ops.matmul import QMatMul
from compiler.ops.sliding_window import zero_of
from compiler.schedule.builder import (
    Builder,
    Span,
    View,
    Views,
    element,
    packed_bytes,
    spans,
    stored,
    tiles_of,
)
from compiler.schedule.tile_graph import ALIGNMENT, Buffer, Memory, Piece, Ref, Tensor, aligned
from compiler.schedule.tiles.limits import does_not_fit
from compiler.schedule.tiles.products import (
    MAX_GROUP_ROWS,
    TileExit,
    cuts,
    record_groups,
    requant_records,
    requantize,
    waiting_cycles,
)
from isa.instructions.matrix import ArrayGemm
from isa.instructions.vector import Requantize
from isa.memory_map import REQUANT_RECORD
from isa.spec import greatest
from isa.support.records import Frozen
from isa.target import Target

MAX_DEPTH: Final = greatest(ArrayGemm, "k")
MAX_COLUMNS: Final = greatest(Requantize, "c")
MAX_ROW: Final = greatest(ArrayGemm, "ap")
STREAMED: Final = 4
"""Divides a tile's bytes, for those that weights may take: they arrive in portions, and some are ahead.

A compromise: larger portions start later, smaller ones make more instructions.
"""
SLACK: Final = 2 * ALIGNMENT
"""Bytes kept for the alignment of a tile's operand and of its result."""


class GemmTile(Frozen):
    """The sizes of a tile: rows, columns, depth."""

    m: int
    n: int
    k: int


@tiles_of(QGemm)
def plan_gemm(b: Builder, node: Node, operation: QGemm, view: Views, out: Tensor, budget: int) -> None:
    """A matrix product with constant weights: tiles over columns and rows, sums over depth."""
    del operation
    x, weights = view(0), node.inputs[1]
    depth, columns = weights.shape
    rows = out.shape[2]
    most = budget // STREAMED if b.options.overlap else budget
    tile = choose_gemm_tile(node, (rows, columns, depth), b.target, (budget, most), x.tensor.resident)
    image = _packed_matrix(b, weights)
    for n in spans(columns, tile.n):
        params = requant_records(b, node, n)
        held: Buffer | None = None
        for m in spans(rows, tile.m):
            b.tile = (m.start, n.start)
            acc = b.buffer("acc", Memory.ACC, -(-n.extent // b.target.mx.cols) * m.extent, 1)
            parts = spans(depth, tile.k)
            for index, k in enumerate(parts):
                piece = b.fetch(x, 0, Span(0, 1), m, k, "input")
                if held is None or len(parts) > 1:
                    held = _load_matrix(b, image, weights.shape, n, k)
                lanes = min(b.target.mx.cols, columns)
                factors = Factors(piece, Ref(held), lanes, k.extent * lanes)
                _emit_gemm(b, node, factors, acc, (m, n, k), accum=index > 0)
            place = 0, Span(0, 1), m, n
            piece = b.result(out, *place, "output")
            requantize(b, node, acc, TileExit(piece, params, place, stored(out, *place)))
            b.deliver(out, piece, *place)


def choose_gemm_tile(
    node: Node,
    size: tuple[int, int, int],
    target: Target,
    budgets: tuple[int, int],
    resident: bool,
) -> GemmTile:
    """The tile that moves the fewest bytes and needs the fewest instructions.

    `budgets` are the bytes that a tile may take, and those that its weights may take.

    Raises:
        FitError: not even the smallest fits.
    """
    rows, columns, depth = size
    cols = target.mx.cols
    budget, most = budgets
    groups = min(-(-columns // cols), record_groups(target), MAX_COLUMNS // cols)
    best: tuple[float, GemmTile] | None = None
    for g, k in itertools.product(cuts(groups), _depth_cuts(depth, target.mx.rows)):
        n = min(g * cols, columns)
        per_row = (0 if resident else k) + n
        weights = g * cols * k
        m = min(
            rows, target.acc.rows // g, MAX_GROUP_ROWS, max(budget - aligned(weights) - SLACK, 0) // per_row
        )
        if m < 1 or (weights > most and g > 1):
            continue
        tile = GemmTile(-(-rows // -(-rows // m)), n, k)
        cost = _gemm_cost(tile, size, target)
        if best is None or cost < best[0]:
            best = (cost, tile)
    if best is None:
        k = min(depth, target.mx.rows)
        least = aligned(cols * k) + SLACK + (0 if resident else k) + min(cols, columns)
        raise does_not_fit(node, least, budget)
    return best[1]


def _gemm_cost(t: GemmTile, size: tuple[int, int, int], target: Target) -> float:
    rows, columns, depth = size
    m_tiles, n_tiles, parts = -(-rows // t.m), -(-columns // t.n), -(-depth // t.k)
    weights = columns * depth * (m_tiles if parts > 1 else 1)
    moved = weights + n_tiles * rows * depth
    return moved / target.dram.bytes_per_cycle + waiting_cycles(m_tiles * n_tiles, parts, target)


def _depth_cuts(depth: int, rows: int) -> list[int]:
    blocks = -(-depth // rows)
    return sorted({min(c * rows, depth) for c in cuts(blocks) if c * rows <= MAX_DEPTH}, reverse=True)


def _packed_matrix(b: Builder, weights: Node) -> Buffer:
    """The weights in DRAM as `[group][k][C]`, padded columns 0; fewer columns than C as they are."""
    depth, columns = weights.shape
    cols = min(b.target.mx.cols, columns)
    groups = -(-columns // cols)
    padded = np.zeros((depth, groups * cols), weights.type.dtype.numpy)
    padded[:, :columns] = weights.constant
    return b.image(
        Memory.WEIGHTS, packed_bytes(padded.reshape(depth, groups, cols).transpose(1, 0, 2)), weights.name
    )


def _load_matrix(b: Builder, image: Buffer, shape: Shape, n: Span, k: Span) -> Buffer:
    depth, columns = shape
    cols = min(b.target.mx.cols, columns)
    groups = -(-n.extent // cols)
    run = k.extent * cols
    buffer = b.buffer("weights", Memory.SPM, groups * run)
    offset = (n.start // cols * depth + k.start) * cols
    b.load(Ref(image, offset), Ref(buffer), run, [(groups, depth * cols, run)])
    return buffer


class Factors(Frozen):
    """Two matrices: the right one has pitches from row to row, and from column group to column group."""

    left: Piece
    right: Ref
    row_pitch: int
    group_pitch: int


def _emit_gemm(
    b: Builder, node: Node, factors: Factors, acc: Buffer, tile: Sequence[Span], *, accum: bool
) -> None:
    """One product."""
    m, n, k = (s.extent for s in tile)
    several = n > b.target.mx.cols
    instr = ArrayGemm(
        m=m,
        n=n,
        k=k,
        ap=factors.left.pixel_pitch,
        bp=factors.row_pitch,
        bg=factors.group_pitch if several else 0,
        zx=node.inputs[0].quant.zero_point,
        zw=zero_of(node.inputs[1].type),
        xt=element(node.inputs[0]),
        wt=element(node.inputs[1]),
        accum=int(accum),
        ags=m if several else 0,
    )
    b.emit(instr, {"a": factors.left.ref, "b": factors.right, "acc": Ref(acc)})


@tiles_of(QMatMul)
def plan_matmul(b: Builder, node: Node, operation: QMatMul, view: Views, out: Tensor, budget: int) -> None:
    """A product of two computed matrices for every index of the batch; both are read as they lie."""
    left, right = view(0), view(1)
    _, _, rows, columns = out.shape
    depth, cols = left.shape[3], b.target.mx.cols
    size = _fitting_product(node, (rows, columns, depth), b.target, budget)
    record = np.zeros(1, REQUANT_RECORD)
    record["m"] = operation.constants([i.type for i in node.inputs], node.type)[0]
    params = b.parameters(record.tobytes(), "record")
    for n, h in itertools.product(range(out.shape[0]), range(out.shape[1])):
        for m, columns_of in itertools.product(spans(rows, size.m), spans(columns, size.n)):
            b.tile = (n, h, m.start, columns_of.start)
            acc = b.buffer("acc", Memory.ACC, -(-columns_of.extent // b.target.mx.cols) * m.extent, 1)
            for index, k in enumerate(spans(depth, size.k)):
                a = b.fetch(left, *_batch(left, n, h), m, k, "a")
                other = b.fetch(right, *_batch(right, n, h), k, columns_of, "b")
                factors = Factors(a, other.ref, other.pixel_pitch, cols)
                _emit_gemm(b, node, factors, acc, (m, columns_of, k), accum=index > 0)
            place = n, Span(h, h + 1), m, columns_of
            piece = b.result(out, *place, "output")
            way = TileExit(piece, params, place, stored(out, *place), per_channel=False)
            requantize(b, node, acc, way)
            b.deliver(out, piece, *place)


def _batch(x: View, n: int, h: int) -> tuple[int, Span]:
    """The indices of a batch, 0 where the operand is broadcast."""
    row = h if x.shape[1] > 1 else 0
    return n if x.shape[0] > 1 else 0, Span(row, row + 1)


def _fitting_product(node: Node, extents: tuple[int, int, int], target: Target, budget: int) -> GemmTile:
    """The largest tile that fits, halving the largest extent until it does."""
    m, n, k = extents
    cols = target.mx.cols
    while True:
        k = min(k, MAX_DEPTH)
        n, m = min(n, MAX_COLUMNS), min(m, MAX_GROUP_ROWS)
        groups = -(-n // cols)
        needed = aligned(m * k) + aligned(k * n) + aligned(m * n)
        if needed <= budget and groups * m <= target.acc.rows and max(k, n) <= MAX_ROW:
            return GemmTile(m, n, k)
        if (m, n, k) == (1, 1, 1):
            raise does_not_fit(node, needed, budget)
        if groups * m > target.acc.rows or (m >= k and m >= n):
            m = -(-m // 2) if m > 1 else m
            n = n if m > 1 or groups * m <= target.acc.rows else -(-n // 2)
        elif k >= n:
            k = -(-k // 2)
        else:
            n = -(-n // 2)
