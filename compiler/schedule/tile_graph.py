"""The tile graph: what the scheduler's stages hand to one another.

*plan* makes tile operations on buffers without addresses; *order* puts them in a row; *allocate*
gives buffers addresses; the tokens and the words come last. A tile operation is an instruction
whose addresses are relative to the buffers that its operands are bound to.

An image that passes from layer to layer inside a segment never exists as a whole. Every stripe of its rows
gets a buffer of its own in a `LineBuffer`, which begins with those earlier rows that a reader of the stripe
needs too.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from compiler.ir.work import LowerBound
from isa.memory_map import TABLE_BYTES, Region
from isa.program import Box
from isa.spec import Engine, Instruction
from isa.support.locations import Loc
from isa.support.records import Frozen, Struct, field, replace


class Memory(StrEnum):
    """Where a buffer lives."""

    SPM = "spm"
    ACC = "acc"
    PRM = "prm"
    SREG = "sreg"
    WEIGHTS = "weights"
    ARENA = "arena"
    INPUT = "input"
    OUTPUT = "output"
    PARAMS = "params"
    STATE = "state"


ALIGNMENT: Final = 64
"""Bytes at multiples of which buffers begin: a burst and a port word of edge32, on every target."""
ON_CHIP: Final = (Memory.SPM, Memory.ACC, Memory.PRM, Memory.SREG)
UNPLACED: Final = 1
"""What a register operand holds whose buffer has no place yet: 0 would mean that it has none."""
REGION: Final = {
    Memory.WEIGHTS: Region.WEIGHTS,
    Memory.ARENA: Region.ARENA,
    Memory.INPUT: Region.INPUT,
    Memory.OUTPUT: Region.OUTPUT,
    Memory.PARAMS: Region.PARAMS,
    Memory.STATE: Region.STATE,
}


class Buffer(Struct, eq=False):
    """A run of memory: bytes, rows in the accumulators, or scalar registers.

    `content` is what a read-only DRAM region holds there.
    """

    name: str
    memory: Memory
    size: int
    align: int = ALIGNMENT
    content: bytes | None = None
    address: int | None = None

    @property
    def room(self) -> int:
        """The size, up to where another buffer can start."""
        return aligned(self.size, self.align)

    @property
    def lowest(self) -> int:
        """The first address it may have: a table's number is its address / 256, and number 0 means none.

        So does register 0.
        """
        if self.memory is Memory.SREG:
            return 1
        return TABLE_BYTES if self.memory is Memory.PRM and self.align == TABLE_BYTES else 0


KEPT: Final = 16
"""Stripes whose buffers are remembered: more than a segment has layers, and no reader is further behind."""


class Rows(Frozen):
    """The rows from `base` to before `stop`, in a buffer."""

    buffer: Buffer
    base: int
    stop: int


class LineBuffer(Struct, eq=False):
    """The latest stripes of an image with rows of `row` bytes."""

    row: int
    stripes: list[Rows] = field(default_factory=list[Rows])

    def add(self, buffer: Buffer, base: int, stop: int) -> Rows:
        """A buffer for the rows up to `stop`."""
        self.stripes = [*self.stripes[-KEPT:], Rows(buffer, base, stop)]
        return self.stripes[-1]

    def find(self, start: int, stop: int) -> Rows:
        """The buffer that holds these rows: the first that does, since later ones take rows over from it."""
        for stripe in self.stripes:
            if stripe.base <= start and stop <= stripe.stop:
                return stripe
        raise AssertionError(f"rows {start} to {stop} are in no line buffer")


class Ref(Frozen):
    """A place in a buffer, counted in the buffer's units; an operand stores it divided by `unit`."""

    buffer: Buffer
    offset: int = 0
    unit: int = 1

    def shifted(self, by: int) -> Ref:
        """The place `by` units further."""
        return Ref(self.buffer, self.offset + by, self.unit)


class Touch(Frozen):
    """A part of a buffer that an operation reads or writes, in the buffer's units."""

    buffer: Buffer
    low: int
    high: int
    write: bool


class Stored(Frozen):
    """The part of a tensor that a tile operation completes, and the operand that holds it."""

    tensor: int
    box: Box
    operand: str


class TileOp(Frozen):
    """One instruction of one tile of one layer."""

    instr: Instruction
    bind: dict[str, Ref]
    layer: int
    tile: tuple[int, ...]
    phase: str
    stored: Stored | None = None

    @property
    def engine(self) -> Engine:
        """The engine that executes it."""
        return self.instr.engine

    def resolved(self) -> Instruction:
        """The instruction with its addresses, every buffer placed."""
        values: dict[str, Any] = {}
        for operand, ref in self.bind.items():
            assert ref.buffer.address is not None
            address, rest = divmod(ref.buffer.address + ref.offset, ref.unit)
            assert rest == 0, f"{operand} of {self.instr.mnemonic} is misplaced"
            values[operand] = address
        return replace(self.instr, **values)


class Layer(Frozen):
    """A fused operator: a node of the device graph."""

    id: int
    name: str
    kind: str
    """The operation, as the compiler calls it."""
    loc: Loc
    outputs: tuple[str, ...]
    bound: LowerBound


class Piece(Frozen):
    """A box of an image in the scratchpad: its first byte and its pitches."""

    ref: Ref
    pixel_pitch: int
    row_pitch: int


class Tensor(Struct, eq=False):
    """The value of a node on the device: a dense (n, h, w, c) array of bytes in one home.

    Elements of more than one byte lie next to one another: the shape counts bytes.
    """

    id: int
    name: str
    shape: tuple[int, int, int, int]
    home: Buffer
    item: int = 1
    """Bytes of an element."""
    line: LineBuffer | None = None
    """The line buffer that it passes through, within a segment."""
    tile: Piece | None = None
    """The only tile of it that there is at the moment, where the next layer takes it from its maker."""
    part_of: Tensor | None = None
    """The tensor of which this one is a box, and whose home is also its own."""
    start: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Where in that tensor it begins."""
    delivered: bool = True
    """Whether it goes to its home at all: what only passes through a line buffer does not."""

    @property
    def elements(self) -> tuple[int, int, int, int]:
        """The shape in elements."""
        n, h, w, c = self.shape
        return n, h, w, c // self.item

    @property
    def resident(self) -> bool:
        """Whether instructions find the tensor in the scratchpad, whole or the rows that they need."""
        return self.line is not None or self.home.memory is Memory.SPM


class TileGraph(Struct):
    """The plan of a program."""

    ops: list[TileOp] = field(default_factory=list[TileOp])
    layers: list[Layer] = field(default_factory=list[Layer])
    tensors: list[Tensor] = field(default_factory=list[Tensor])
    given: list[Buffer] = field(default_factory=list[Buffer])
    """What the host is given as it is: constants, and inputs that no layer reads."""

    def homes(self) -> list[Buffer]:
        """Where tensors lie, and what the host is given as it is."""
        return [*(t.home for t in self.tensors), *self.given]

    def buffers(self) -> list[Buffer]:
        """Every buffer, in order of first touch; homes that no operation touches come last."""
        seen: dict[int, Buffer] = {}
        for op in self.ops:
            for ref in op.bind.values():
                seen.setdefault(id(ref.buffer), ref.buffer)
        for home in self.homes():
            seen.setdefault(id(home), home)
        return list(seen.values())


def aligned(size: int, unit: int = ALIGNMENT) -> int:
    """The next multiple of a unit."""
    return -(-size // unit) * unit
