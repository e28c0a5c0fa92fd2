"""Makes tile operations: buffers, copies in and out, the bookkeeping of what stores what."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Node
from compiler.ir.op import Op
from compiler.ir.types import DType, Shape
from compiler.ops.sliding_window import rows_read
from compiler.schedule.options import ScheduleOptions
from compiler.schedule.tile_graph import (
    ALIGNMENT,
    REGION,
    Buffer,
    Layer,
    LineBuffer,
    Memory,
    Piece,
    Ref,
    Stored,
    Tensor,
    TileGraph,
    TileOp,
)
from isa.instructions.dma import Fill, Load, OnChip, Store, merge_rows
from isa.memory_map import GRANULE_BYTES
from isa.program import Box
from isa.spec import ElementType, Instruction, greatest
from isa.support.records import Frozen, Struct, field
from isa.target import Target

RANK: Final = 4
MAX_RUN: Final = greatest(Load, "n0")
MAX_ROWS: Final = greatest(Load, "n1")
COPY_LEVELS: Final = tuple(
    tuple(greatest(Load, f"{field}{level}") for field in ("n", "ds", "ls")) for level in (1, 2)
)
"""(count, DRAM pitch, pitch on the chip) that the levels of a copy can express, innermost first."""
DMA_SPACES: Final = {
    Memory.SPM: OnChip.SPM,
    Memory.ACC: OnChip.ACC,
    Memory.PRM: OnChip.PRM,
    Memory.SREG: OnChip.SREG,
}

T = TypeVar("T")
Level = tuple[int, int, int]
"""(count, DRAM pitch, pitch on the chip), both in bytes."""


class Span(Frozen):
    """A half-open range of one dimension."""

    start: int
    stop: int

    @property
    def extent(self) -> int:
        """How many."""
        return self.stop - self.start

    def shifted(self, by: int) -> Span:
        """The range that lies `by` further."""
        return Span(self.start + by, self.stop + by)


def spans(extent: int, size: int) -> list[Span]:
    """A dimension cut into pieces of at most `size`."""
    return [Span(a, min(a + size, extent)) for a in range(0, extent, size)]


class Window(Frozen):
    """The geometry of a sliding window along one dimension."""

    extent: int
    taps: int = 1
    stride: int = 1
    dilation: int = 1
    pad: int = 0

    @property
    def field(self) -> int:
        """From the first to the last position that one output reads, all its taps counted."""
        return (self.taps - 1) * self.dilation + 1

    def read(self, out: Span) -> Span:
        """The input that these outputs read; none where all of it is padding."""
        span, _ = self.valid(out, Span(0, self.taps))
        return span if out.extent and span.extent > 0 else Span(0, 0)

    def valid(self, out: Span, taps: Span) -> tuple[Span, int]:
        """The input that these outputs read through these taps, and the padding before it."""
        before = self.pad - taps.start * self.dilation
        span, padding, _ = rows_read(
            (out.start, out.stop), self.extent, taps.extent, self.stride, self.dilation, before
        )
        return Span(*span), padding

    def reach(self, outputs: int, taps: int) -> int:
        """The most input that so many outputs and taps read."""
        return min((outputs - 1) * self.stride + (taps - 1) * self.dilation + 1, self.extent)


class View(Frozen):
    """A tensor under a shape of the same elements in the same order."""

    tensor: Tensor
    shape: tuple[int, int, int, int]


Views = Callable[[int], View]
"""Where the operands of a node are, by their index."""


class Stripe(Frozen):
    """Some rows of one image of a batch."""

    image: int
    rows: Span


TileMaker = Callable[[int, Span, Span, Span], None]
"""Makes one tile of a result: image, rows, columns, channels."""


class Joined(Frozen):
    """A layer that takes the tiles of another's result, one by one, as they are made."""

    tensor: Tensor
    layer: Layer
    emit: TileMaker
    copies: int
    """Tiles that it has in the scratchpad beside the one it takes."""


class Builder(Struct):
    """The plan being made for one target."""

    target: Target
    options: ScheduleOptions
    graph: TileGraph = field(default_factory=TileGraph)
    layer: int = -1
    tile: tuple[int, ...] = ()
    stripe: Stripe | None = None
    """The rows of the result that are made now; None means all of every image."""
    joined: Joined | None = None
    """What takes every tile of a layer's result at once."""
    kept: dict[Any, Any] = field(default_factory=dict[Any, Any])
    """Constants on the chip, while a segment lasts."""
    _images: dict[tuple[Memory, bytes], Buffer] = field(default_factory=dict[tuple[Memory, bytes], Buffer])

    def begin(self, layer: Layer) -> None:
        """Operations from here on belong to this layer."""
        self.graph.layers.append(layer)
        self.resume(layer)

    def resume(self, layer: Layer) -> None:
        """Operations from here on belong to this layer again."""
        self.layer = layer.id
        self.tile = ()

    def images(self, count: int) -> Iterable[int]:
        """The images of the batch that are made now."""
        return range(count) if self.stripe is None else (self.stripe.image,)

    def rows(self, extent: int, size: int) -> list[Span]:
        """The rows that are made now, in pieces of at most `size`."""
        if self.stripe is None:
            return spans(extent, size)
        first = self.stripe.rows.start
        return [s.shifted(first) for s in spans(self.stripe.rows.extent, size)]

    def height(self, extent: int) -> int:
        """How many rows are made now."""
        return extent if self.stripe is None else self.stripe.rows.extent

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What `make` puts on the chip, kept while a segment lasts; outside of one, made anew."""
        if self.stripe is None:
            return make()
        if (self.layer, key) not in self.kept:
            self.kept[self.layer, key] = make()
        return self.kept[self.layer, key]

    def buffer(self, role: str, memory: Memory, size: int, align: int = ALIGNMENT) -> Buffer:
        """A working buffer of the layer."""
        return Buffer(f"{self.layer}.{role}", memory, size, align)

    def image(self, memory: Memory, content: bytes, name: str) -> Buffer:
        """Read-only bytes in DRAM; equal bytes are kept once."""
        key = (memory, content)
        if key not in self._images:
            self._images[key] = Buffer(name, memory, len(content), content=content)
        return self._images[key]

    def emit(
        self,
        instr: Instruction,
        bind: dict[str, Ref],
        phase: str = "compute",
        stored: Stored | None = None,
    ) -> None:
        """Add an operation, its operands bound to buffers."""
        self.graph.ops.append(TileOp(instr, bind, self.layer, self.tile, phase, stored))

    # --- copies ----------------------------------------------------------------------------------

    def load(self, source: Ref, destination: Ref, run: int, levels: list[Level]) -> None:
        """Copy a strided box from DRAM to the chip."""
        for instr, bind in self._copies(Load, source, destination, *merge_rows(run, levels)):
            self.emit(instr, bind, "load")

    def store(self, source: Ref, destination: Ref, run: int, levels: list[Level]) -> None:
        """Copy a strided box from the chip to DRAM."""
        for instr, bind in self._copies(Store, destination, source, *merge_rows(run, levels)):
            self.emit(instr, bind, "store")

    def fill(self, destination: Ref, unit_bytes: int, count: int) -> None:
        """Zero accumulator rows."""
        for rows in spans(count, MAX_ROWS):
            instr = Fill(space=OnChip.ACC, n0=unit_bytes, n1=rows.extent, ls1=1 if rows.extent > 1 else 0)
            self.emit(instr, {"loc": destination.shifted(rows.start)}, "load")

    def parameters(self, content: bytes, role: str, align: int = GRANULE_BYTES) -> Ref:
        """Parameters brought into PRM; the place counts bytes."""
        return self.once((role, content), lambda: self._parameters(content, role, align))

    def _parameters(self, content: bytes, role: str, align: int) -> Ref:
        padded = content + bytes(-len(content) % GRANULE_BYTES)
        source = self.image(Memory.PARAMS, padded, f"{role}.image")
        buffer = self.buffer(role, Memory.PRM, len(padded), align)
        self.load(Ref(source), Ref(buffer), len(padded), [])
        return Ref(buffer, 0, GRANULE_BYTES)

    def _copies(
        self,
        kind: type[Load] | type[Store],
        dram: Ref,
        chip: Ref,
        run: int,
        rest: list[Level],
    ) -> Iterator[tuple[Instruction, dict[str, Ref]]]:
        """The instructions of one box of merged rows: what is too long or too deep is split."""
        if run > MAX_RUN:
            whole, tail = divmod(run, MAX_RUN)
            if tail:
                yield from self._copies(
                    kind, dram.shifted(whole * MAX_RUN), chip.shifted(whole * MAX_RUN), tail, rest
                )
            yield from self._copies(kind, dram, chip, MAX_RUN, _unmerged(whole, rest))
            return
        unit = GRANULE_BYTES if chip.buffer.memory is Memory.PRM else 1
        for index, (count, dram_pitch, chip_pitch) in enumerate(rest):
            limit = _copy_limit(index, dram_pitch, chip_pitch // unit)
            if count > limit:
                for part in spans(count, limit):
                    level = [(part.extent, dram_pitch, chip_pitch)] if part.extent > 1 else []
                    yield from self._copies(
                        kind,
                        dram.shifted(part.start * dram_pitch),
                        chip.shifted(part.start * chip_pitch),
                        run,
                        [*rest[:index], *level, *rest[index + 1 :]],
                    )
                return
        (n1, ds1, ls1), (n2, ds2, ls2) = [*rest, (1, 0, 0), (1, 0, 0)][:2]
        instr = kind(
            space=DMA_SPACES[chip.buffer.memory],
            region=REGION[dram.buffer.memory],
            n0=run,
            n1=n1,
            n2=n2,
            ds1=ds1,
            ds2=ds2,
            ls1=ls1 // unit,
            ls2=ls2 // unit,
        )
        yield instr, {"dram": dram, "loc": Ref(chip.buffer, chip.offset, unit)}

    # --- images ----------------------------------------------------------------------------------

    def fetch(self, view: View, n: int, h: Span, w: Span, c: Span, role: str) -> Piece:
        """A box of an image in the scratchpad: where it already is, or copied into a working buffer."""
        if view.tensor.tile is not None:
            return view.tensor.tile
        if view.tensor.line is not None:
            return _in_line(view.tensor, view.tensor.line, view.shape, h, w, c)
        home = _at_home(view.tensor, view.shape, n, h, w, c)
        if view.tensor.resident:
            return home
        buffer = self.buffer(role, Memory.SPM, h.extent * w.extent * c.extent)
        self._load_box(home, Ref(buffer), h, w, c)
        return Piece(Ref(buffer), c.extent, w.extent * c.extent)

    def load_rows(self, tensor: Tensor, n: int, rows: Span, to: Ref) -> None:
        """Copy whole rows of an image from DRAM, one after another."""
        _, _, width, channels = tensor.shape
        box = rows, Span(0, width), Span(0, channels)
        self._load_box(_at_home(tensor, tensor.shape, n, *box), to, *box)

    def _load_box(self, source: Piece, to: Ref, h: Span, w: Span, c: Span) -> None:
        """Copy a box of an image from DRAM to a dense buffer."""
        levels = [
            (w.extent, source.pixel_pitch, c.extent),
            (h.extent, source.row_pitch, w.extent * c.extent),
        ]
        self.load(source.ref, to, c.extent, levels)

    def result(self, tensor: Tensor, n: int, h: Span, w: Span, c: Span, role: str) -> Piece:
        """Where a box of a result is to be written: its home, or a working buffer to be stored."""
        if tensor.line is not None:
            return _in_line(tensor, tensor.line, tensor.shape, h, w, c)
        if tensor.resident:
            return _at_home(tensor, tensor.shape, n, h, w, c)
        buffer = self.buffer(role, Memory.SPM, h.extent * w.extent * c.extent)
        return Piece(Ref(buffer), c.extent, w.extent * c.extent)

    def deliver(self, tensor: Tensor, piece: Piece, n: int, h: Span, w: Span, c: Span) -> None:
        """Store a box of a result, unless it is at home already or goes no further."""
        if tensor.delivered and tensor.home.memory is not Memory.SPM:
            home = _at_home(tensor, tensor.shape, n, h, w, c)
            levels = [
                (w.extent, home.pixel_pitch, piece.pixel_pitch),
                (h.extent, home.row_pitch, piece.row_pitch),
            ]
            self.store(piece.ref, home.ref, c.extent, levels)
        if self.joined is not None and self.joined.tensor is tensor:
            layer, tile = self.layer, self.tile
            self.layer, tensor.tile = self.joined.layer.id, piece
            self.joined.emit(n, h, w, c)
            self.layer, self.tile, tensor.tile = layer, tile, None


Shape4 = tuple[int, int, int, int]
Place = tuple[int, Span, Span, Span]


def _in_whole(tensor: Tensor, shape: Shape4, n: int, h: Span, w: Span, c: Span) -> tuple[Shape4, Place]:
    """The shape at a tensor's home, and where a box of the tensor is in that: elsewhere if it is a part."""
    if tensor.part_of is None:
        return shape, (n, h, w, c)
    assert shape == tensor.shape, f"{tensor.name} is a part, and read under another shape"
    image, row, column, channel = tensor.start
    return tensor.part_of.shape, (n + image, h.shifted(row), w.shifted(column), c.shifted(channel))


def _in_line(tensor: Tensor, line: LineBuffer, shape: Shape4, h: Span, w: Span, c: Span) -> Piece:
    """Rows of a tensor in its line buffer; those of another shape are sought in the whole image."""
    _, _, width, channels = shape
    same = shape[1:] == tensor.shape[1:]
    held = line.find(h.start, h.stop) if same else line.find(0, tensor.shape[1])
    offset = (h.start - held.base) * width * channels + w.start * channels + c.start
    return Piece(Ref(held.buffer, offset), channels, width * channels)


def _at_home(tensor: Tensor, shape: Shape4, n: int, h: Span, w: Span, c: Span) -> Piece:
    """A box of a tensor under a shape where the whole of it is, in the scratchpad or in DRAM."""
    (_, height, width, channels), (n, h, w, c) = _in_whole(tensor, shape, n, h, w, c)
    offset = ((n * height + h.start) * width + w.start) * channels + c.start
    return Piece(Ref(tensor.home, offset), channels, width * channels)


OpT = TypeVar("OpT", bound=Op)
Planner = Callable[[Builder, Node, OpT, Views, Tensor, int], None]
"""(builder, node, its operation, where its operands are, its result, bytes of the scratchpad it may use)."""
PLANNERS: Final[dict[type[Op], Planner[Any]]] = {}


Reads = Callable[[Node, int], Window | None]
"""(node, which operand) to how its rows are read; None: not row by row."""
READS: Final[dict[type[Op], Reads]] = {}


Single = Callable[[Builder, Node, Views, Tensor], TileMaker]
"""(builder, node, where its operands are, its result) to what makes one tile of it."""
SINGLE: Final[dict[type[Op], Single]] = {}


def planner_of(operation: Op) -> Planner[Any]:
    """What makes the tiles of an operation: registered for its class, or for the nearest of its bases."""
    return next(PLANNERS[kind] for kind in type(operation).__mro__ if kind in PLANNERS)


def tiles_of(
    *kinds: type[OpT], reads: Reads | None = None, single: Single | None = None
) -> Callable[[Planner[OpT]], Planner[OpT]]:
    """Register what makes the tiles of these operations.

    With `reads`, a result can be made some rows at a time, as a builder's stripe says. With `single`,
    an element by itself: a tile can be made as soon as that of an operand is, and in its place.
    """

    def declare(planner: Planner[OpT]) -> Planner[OpT]:
        for kind in kinds:
            assert kind not in PLANNERS
            PLANNERS[kind] = planner
            if reads is not None:
                READS[kind] = reads
            if single is not None:
                SINGLE[kind] = single
        return planner

    return declare


def same_rows(node: Node, index: int) -> Window | None:
    """Every row of the result needs the same row of the operand, which must have as many."""
    extent = device_shape(node.inputs[index].shape)[1]
    return Window(extent) if extent == device_shape(node.shape)[1] else None


def device_shape(shape: Shape) -> Shape4:
    """A shape as (n, h, w, c): ones in front, or the first dimensions as one."""
    if len(shape) > RANK:
        shape = (math.prod(shape[: 1 - RANK]), *shape[1 - RANK :])
    n, h, w, c = (*(1,) * (RANK - len(shape)), *shape)
    return n, h, w, c


def element(node: Node) -> ElementType:
    """The type of a node's codes, as operands name it."""
    return ElementType.U8 if node.type.dtype is DType.U8 else ElementType.S8


def stored(tensor: Tensor, n: int, h: Span, w: Span, c: Span, operand: str = "out") -> Stored:
    """The box that an operand completes, of the whole where the tensor is a part."""
    _, (n, h, w, c) = _in_whole(tensor, tensor.shape, n, h, w, c)
    box: Box = ((n, n + 1), (h.start, h.stop), (w.start, w.stop), (c.start, c.stop))
    return Stored((tensor.part_of or tensor).id, box, operand)


def packed_bytes(values: NDArray[Any]) -> bytes:
    """The bytes of an array in C order."""
    return np.ascontiguousarray(values).tobytes()


def _copy_limit(level: int, dram_pitch: int, chip_pitch: int) -> int:
    """How many rows one copy can have at a level, with these pitches."""
    if level >= len(COPY_LEVELS):
        return 1
    count, dram_most, chip_most = COPY_LEVELS[level]
    return count if dram_pitch <= dram_most and chip_pitch <= chip_most else 1


def _unmerged(count: int, rest: list[Level]) -> list[Level]:
    return [(count, MAX_RUN, MAX_RUN), *rest] if count > 1 else rest
