"""A program: instructions, data, interface and debug map, as the container stores them.

The interface (`Abi`) says how the host places inputs and finds outputs. The debug map says which
instruction belongs to which operator and tile, and which tensor a storing instruction completes;
from it every intermediate tensor of a run can be rebuilt.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.accesses import AccessTable, tabulate
from isa.memory_map import Region
from isa.spec import Access, Instruction
from isa.support.records import Frozen, field, replace
from isa.target import Target

MAIN_STREAM: Final = "core0"
"""The stream of a program that is alone in its binary."""
HOST_DTYPES: Final = ("float32", "int8", "uint8", "int32", "int64")
Box = tuple[tuple[int, int], ...]


Steps = tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
"""How one tensor becomes another: (shape, perm) each, reshape to the shape, then transpose by perm."""


def taken_through(value: NDArray[Any], steps: Steps, shape: Sequence[int]) -> NDArray[Any]:
    """An array after its steps, reshaped to `shape`."""
    for held, perm in steps:
        value = value.reshape(held).transpose(perm)
    return value.reshape(shape)


def joined(steps: Steps) -> Steps:
    """The same steps without those that do nothing; transposes that follow one another become one."""
    result: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for shape, perm in steps:
        if result and shape == tuple(result[-1][0][p] for p in result[-1][1]):
            held, before = result.pop()
            shape, perm = held, tuple(before[p] for p in perm)
        if perm != tuple(range(len(perm))):
            result.append((shape, perm))
    return tuple(result)


def float_bits(value: float | np.float32) -> int:
    """The u32 bit pattern of a float32."""
    return int(np.float32(value).view(np.uint32))


def bits_float(bits: int) -> np.float32:
    """The float32 of a u32 bit pattern."""
    return np.uint32(bits & 0xFFFFFFFF).view(np.float32)


class Interface(Frozen):
    """A graph input or output: the host's view and the device's.

    The device tensor is the host tensor permuted by `perm` and quantized; its channels are
    `pixel_stride` bytes apart from pixel to pixel. `tensor` is its row in `.x1.ops`. Of several devices each
    has a row for every input and output, and holds a half-open box of the device tensor, perhaps an empty
    one.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    device_dtype: str
    device_shape: tuple[int, ...]
    perm: tuple[int, ...]
    pixel_stride: int
    scale_bits: int | None
    zero_point: int
    region: int
    offset: int
    bytes: int
    tensor: int | None = None
    device: int = 0
    box: Box | None = None
    """What the device holds; all of it where it is not given."""

    def without_content(self) -> Interface:
        """The row of a device that holds nothing of the tensor."""
        return replace(self, box=tuple((0, 0) for _ in self.device_shape), offset=0, bytes=0)

    @property
    def held_shape(self) -> tuple[int, ...]:
        """The shape of what the device holds."""
        return self.device_shape if self.box is None else box_shape(self.box)

    @property
    def element_bytes(self) -> int:
        """Bytes of an element on the device."""
        return np.dtype(self.device_dtype).itemsize

    @property
    def scale(self) -> np.float32 | None:
        """The scale of the device tensor; None where the host gives its integers untouched."""
        return None if self.scale_bits is None else bits_float(self.scale_bits)


class RegionRow(Frozen):
    """A DRAM region of the program."""

    region: int
    section: str
    bytes: int
    access: str
    device: int = 0


class Abi(Frozen):
    """The interface between host and device.

    An input that layers take with several scales has a row for each; the host gives it once.
    """

    inputs: tuple[Interface, ...] = ()
    outputs: tuple[Interface, ...] = ()
    regions: tuple[RegionRow, ...] = ()

    @property
    def host_inputs(self) -> tuple[Interface, ...]:
        """What the host gives: the first row of each input."""
        first = {row.name: row for row in reversed(self.inputs)}
        return tuple(row for row in self.inputs if first[row.name] is row)

    def returned_input(self, output: Interface) -> Interface | None:
        """The input that the host gives back, as it came, for an output; its row is the output's."""
        found = (i for i in self.inputs if (i.region, i.offset) == (output.region, output.offset))
        return next((i for i in found if replace(i, name=output.name) == output), None)


class MapRow(Frozen):
    """Instructions first..first+count of a core, and what they are part of.

    A row of a phase that completes part of a tensor names the tensor, the half-open box of its
    device shape, and the operand whose footprint holds that box.
    """

    first: int
    count: int
    core: int
    op: int
    tile: tuple[int, ...]
    phase: str
    tensor: int | None = None
    box: Box | None = None
    operand: str | None = None


class OpRow(Frozen):
    """A fused operator: the source nodes it computes, and the least work that it is on the target.

    No schedule needs fewer cycles of the matrix array, fewer lanes x cycles of the vector unit, or fewer
    bytes of DRAM: constants, graph inputs that it is the first to read, graph outputs that it writes.
    """

    id: int
    name: str
    nodes: tuple[str, ...]
    op_types: tuple[str, ...]
    outputs: tuple[str, ...]
    source: tuple[str, ...]
    mx_cycles: int = 0
    vx_lanes: int = 0
    dram_bytes: int = 0


class TensorRow(Frozen):
    """A tensor: bytes of the device, or a tensor of the source model that is an alias of such bytes.

    A row without `alias_of` is a device tensor (n, h, w, c), which instructions of the debug map
    store; it has no name. A source tensor is the device tensor `alias_of`, or a box of it, taken through
    `steps`, then reshaped to `shape`.
    """

    id: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    steps: Steps
    scale_bits: int | None
    zero_point: int
    alias_of: int | None = None
    box: Box | None = None


class DebugMap(Frozen):
    """The rows of `.x1.map`."""

    rows: tuple[MapRow, ...] = ()


class Operators(Frozen):
    """The rows of `.x1.ops`."""

    ops: tuple[OpRow, ...] = ()
    tensors: tuple[TensorRow, ...] = ()


class Note(Frozen):
    """How the program came to be; no paths and no times."""

    compiler: str = ""
    options: tuple[tuple[str, str], ...] = ()
    calibration: str = ""


class Symbol(Frozen):
    """A name for bytes: of a section, or of the scratchpad where the section is empty."""

    name: str
    section: str
    value: int
    size: int


class Program(Frozen, dict=True):
    """One stream of instructions, and everything in a binary that it works on."""

    target: Target
    instructions: tuple[Instruction, ...]
    weights: bytes = b""
    params: bytes = b""
    arena_bytes: int = 0
    input_bytes: int = 0
    output_bytes: int = 0
    abi: Abi = field(default_factory=Abi)
    debug: DebugMap = field(default_factory=DebugMap)
    operators: Operators = field(default_factory=Operators)
    symbols: tuple[Symbol, ...] = ()
    note: Note = field(default_factory=Note)
    scheme: str = ""
    """The text of the scheme that a float network was quantized by."""
    state: bytes = b""
    """What the state region holds before the first run."""
    stream: str = MAIN_STREAM
    """The name of its instructions among those of a binary."""
    device: int = 0
    """The number of the device that executes it."""
    devices: int = 1
    """How many devices execute the stream, each its own program."""

    @cached_property
    def accesses(self) -> AccessTable:
        """The accesses of all instructions, found once: checker and cycle model both need them."""
        return tabulate(self.instructions, self.target)

    def __repr__(self) -> str:
        return f"<Program for {self.target.name}: {len(self.instructions)} instructions>"

    def region_sizes(self) -> dict[Region, int]:
        """Bytes of every region that the program has."""
        sizes = {
            Region.WEIGHTS: len(self.weights),
            Region.ARENA: self.arena_bytes,
            Region.INPUT: self.input_bytes,
            Region.OUTPUT: self.output_bytes,
            Region.PARAMS: len(self.params),
            Region.STATE: len(self.state),
        }
        return {r: n for r, n in sizes.items() if n}

    def region_contents(self) -> dict[Region, bytes]:
        """The bytes of the regions that the binary holds."""
        return {Region.WEIGHTS: self.weights, Region.PARAMS: self.params, Region.STATE: self.state}

    def region_rows(self) -> tuple[RegionRow, ...]:
        """The region table of the interface."""
        return tuple(
            RegionRow(r, r.section, n, "rw" if r.writable else "r", self.device)
            for r, n in sorted(self.region_sizes().items())
        )

    def row_of(self, pc: int) -> MapRow | None:
        """The row of the debug map that an instruction belongs to."""
        return next((r for r in self.debug.rows if r.first <= pc < r.first + r.count), None)

    def row_of_each(self) -> list[MapRow | None]:
        """For every instruction the row of the debug map that it belongs to."""
        rows: list[MapRow | None] = [None] * len(self.instructions)
        for row in self.debug.rows:
            rows[row.first : row.first + row.count] = [row] * row.count
        return rows

    def op_of(self, pc: int) -> OpRow | None:
        """The fused operator that an instruction belongs to."""
        row = self.row_of(pc)
        return next((o for o in self.operators.ops if row and o.id == row.op), None)


def text_section(stream: str) -> str:
    """The section that holds a stream's instructions."""
    return f".text.{stream}"


def stored_access(instr: Instruction, target: Target, row: MapRow) -> Access | None:
    """The footprint in which an instruction holds the box of its row; None where it does not hold it."""
    if row.box is None:
        return None
    elements = volume(box_shape(row.box))
    found = (a for a in instr.accesses(target) if a.write and a.operand == row.operand)
    return next((a for a in found if a.size() in (elements, 4 * elements)), None)


def first_overlap(tensors: Iterable[Interface]) -> tuple[Interface, Interface] | None:
    """Two tensors of one region that share bytes, or None."""
    placed = sorted(tensors, key=lambda t: (t.region, t.offset))
    for one, other in itertools.pairwise(placed):
        if one.region == other.region and other.offset < one.offset + one.bytes:
            return one, other
    return None


def is_read_only(access: Access) -> bool:
    """Whether an access is to a region that no instruction may write: nothing can conflict there."""
    return access.region is not None and not access.region.writable


def box_shape(box: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The extents of a half-open box."""
    return tuple(stop - start for start, stop in box)


def whole_box(shape: Sequence[int]) -> Box:
    """The half-open box that is all of a shape."""
    return tuple((0, extent) for extent in shape)


def lies_in(box: Box, shape: Sequence[int], *, least: int = 1) -> bool:
    """Whether a box has at least so many elements along each dimension, and lies within a shape."""
    return len(box) == len(shape) and all(
        a >= 0 and a + least <= b <= n for (a, b), n in zip(box, shape, strict=True)
    )


def hull(one: Box | None, other: Box) -> Box:
    """The smallest box that holds both; the other where there is only one."""
    if one is None:
        return other
    return tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(one, other, strict=True))


def box_slices(box: Sequence[tuple[int, int]]) -> tuple[slice, ...]:
    """A half-open box as an index of an array."""
    return tuple(slice(start, stop) for start, stop in box)


def volume(shape: Sequence[int]) -> int:
    """The number of elements of a shape."""
    return math.prod(shape)
