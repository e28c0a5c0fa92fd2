"""What the planners of a step share beside tiles: numbers, rows of the state, sums in accumulators."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from compiler.ir.graph import Node, TupleElement
from compiler.ir.op import Op
from compiler.schedule.builder import Builder, Span, View, Views, spans, tiles_of
from compiler.schedule.options import StepOptions
from compiler.schedule.step.numbers import Numbers
from compiler.schedule.step.rows import WORD, StateRows
from compiler.schedule.tile_graph import REGION, UNPLACED, Buffer, Memory, Ref, Tensor
from isa.instructions.control import ScalarSet
from isa.instructions.dma import Load, OnChip, Store
from isa.instructions.vector import Requant, Requantize
from isa.instructions.vector_words import Function32, Source32, Vector32
from isa.memory_map import GRANULE_BYTES
from isa.spec import greatest
from isa.support.records import Frozen, field, replace

ACC_SHARE: Final = 4
"""Divides the accumulators, for the sums of a tile: one is emptied while the next are made."""
MAX_ROWS = greatest(Load, "n1")
MAX_WORD_ROWS = greatest(Vector32, "rows")


class Row(Frozen):
    """One accumulator row that stands for all."""

    ref: Ref


class Constant(Frozen):
    """A float32 number that the compiler knows."""

    value: float


Words = Ref | Row | Constant
"""Where `v32` finds an operand: rows or a register, one row, a constant."""


class StepBuilder(Builder):
    """The plan of a step being made."""

    homes: dict[int, Ref] = field(default_factory=dict[int, Ref])
    """Where numbers and tensors of the state lie, by node."""
    layouts: dict[int, StateRows] = field(default_factory=dict[int, StateRows])
    """The rows of the tensors of the state, by node."""
    sums: dict[int, Buffer] = field(default_factory=dict[int, Buffer])
    """Rows of accumulators that hold words or numbers, by node."""
    totals: dict[int, Any] = field(default_factory=dict[int, Any])
    """Sums of products over a batch, by node."""
    choices: StepOptions = field(default_factory=StepOptions)
    constants: dict[bytes, Ref] = field(default_factory=dict[bytes, Ref])
    """What the parameter memory holds for the whole program."""
    deferred: set[int] = field(default_factory=set[int])
    """Sums that are made where they are needed: the accumulators have no room for them until then."""
    find: Callable[[Node], View] | None = None
    """Where the values of the plan are."""
    numbers_: Any = None

    @property
    def numbers(self) -> Numbers:
        """The numbers in registers."""
        if self.numbers_ is None:
            self.numbers_ = Numbers(self, self.homes)
        return self.numbers_

    @property
    def cols(self) -> int:
        """Lanes of an accumulator row."""
        return self.target.mx.cols

    def view_of(self, node: Node) -> View:
        """Where a value is."""
        assert self.find is not None
        return self.find(node)

    def number_given(self, numbers: Node, index: int) -> Ref:
        """The register with one of the numbers that the host gives for a step."""
        home = self.view_of(numbers).tensor.home
        return self.numbers.given(-1 - (numbers.id << 8) - index, Ref(home, index * WORD))

    # --- codes -----------------------------------------------------------------------------------

    def codes_of(self, out: Tensor, offset: int, size: int, role: str = "codes") -> Ref:
        """Bytes of a result: at home, or a buffer from which `bring` takes them there."""
        if out.home.memory is Memory.SPM:
            return Ref(out.home, offset)
        return Ref(self.buffer(role, Memory.SPM, size))

    def bring(self, out: Tensor, codes: Ref, offset: int, size: int) -> None:
        """Store bytes of a result, unless they are at home."""
        if out.home.memory is not Memory.SPM:
            self.store(codes, Ref(out.home, offset), size, [])

    # --- rows of words ---------------------------------------------------------------------------

    def rows_of(self, role: str, rows: int) -> Buffer:
        """Accumulator rows."""
        return self.buffer(role, Memory.ACC, rows, 1)

    def load_words(self, source: Ref, to: Ref, rows: int, pitch: int = 1) -> None:
        """Copy rows of the state, `pitch` from one to the next, to the accumulators."""
        self._copy_words(Load, source, to, rows, pitch)

    def store_words(self, source: Ref, to: Ref, rows: int, pitch: int = 1) -> None:
        """Copy rows of accumulators to the state."""
        self._copy_words(Store, to, source, rows, pitch)

    def _copy_words(self, kind: type[Load] | type[Store], dram: Ref, acc: Ref, rows: int, pitch: int) -> None:
        row = self.cols * WORD
        for part in spans(rows, MAX_ROWS):
            more = part.extent > 1
            instr = kind(
                space=OnChip.ACC,
                region=REGION[dram.buffer.memory],
                n0=row,
                n1=part.extent,
                ds1=row * pitch if more else 0,
                ls1=1 if more else 0,
            )
            bind = {"dram": dram.shifted(part.start * row * pitch), "loc": acc.shifted(part.start)}
            self.emit(instr, bind, "load" if kind is Load else "store")

    def words(
        self,
        function: Function32,
        d: Ref,
        a: Words,
        b: Words | None = None,
        *,
        rows: int,
        lanes: int | None = None,
        observer: Ref | None = None,
        shift: Ref | None = None,
    ) -> None:
        """Compute rows of words; functions that shift have a register that says by how much."""
        assert rows <= MAX_WORD_ROWS
        fields: dict[str, Any] = {}
        bind: dict[str, Ref] = {"d": d}
        for name, operand in (("a", a), ("b", b)):
            if isinstance(operand, Constant):
                fields[f"s{name}"] = Source32.PRM
                bind["prm"] = self.constant(struct.pack("<ff", operand.value, operand.value))
            elif isinstance(operand, Row):
                fields[f"s{name}"] = Source32.ROW
                bind[name] = operand.ref
            elif operand is not None and operand.buffer.memory is Memory.SREG:
                fields |= {f"s{name}": Source32.REG, f"sr{name}": UNPLACED}
                bind[f"sr{name}"] = operand
            elif operand is not None:
                bind[name] = operand
        if observer is not None:
            fields["obs"] = UNPLACED
            bind["obs"] = observer
        if shift is not None:
            fields["sra"] = UNPLACED
            bind["sra"] = shift
        instr = Vector32(fn=function, rows=rows, lanes=lanes or self.cols, **fields)
        self.emit(instr, bind)

    def unit(self, exponent: Ref, factor: float) -> Ref:
        """A row of F(F(factor) * 2^exponent), the exponent in a register."""
        row = Ref(self.rows_of("unit", 1))
        self.words(Function32.P2F, row, exponent, rows=1)
        self.words(Function32.FMUL, row, row, Constant(factor), rows=1)
        return row

    def constant(self, content: bytes) -> Ref:
        """A few bytes in the parameter memory, brought once for the whole program."""
        if content not in self.constants:
            padded = content + bytes(-len(content) % GRANULE_BYTES)
            buffer = self.buffer("constant", Memory.PRM, len(padded), GRANULE_BYTES)
            self.load(Ref(self.image(Memory.PARAMS, padded, "constant")), Ref(buffer), len(padded), [])
            self.constants[content] = Ref(buffer, 0, GRANULE_BYTES)
        return self.constants[content]

    def zeroed(self, role: str, rows: int) -> Buffer:
        """Accumulator rows of zeros."""
        made = self.rows_of(role, rows)
        self.fill(Ref(made), self.cols * WORD, rows)
        return made

    def quantize(self, shape: Requantize, acc: Ref, out: Ref, exponent: Ref) -> None:
        """Rows of float32 to codes by an exponent."""
        instr = replace(shape, mode=Requant.FLOAT, lo=-127, hi=127, sreg=UNPLACED)
        self.emit(instr, {"acc": acc, "out": out, "sreg": exponent})

    def number_of(self, value: int) -> Ref:
        """A register with a number that the compiler knows."""
        ref = Ref(Buffer("number", Memory.SREG, 1, 1))
        self.emit(ScalarSet(rd=UNPLACED, imm=value), {"rd": ref})
        return ref

    def seen(self, node: Node, index: int = 1) -> Ref | None:
        """The register that observes a result, if the step needs to know it."""
        for user in node.graph.users(node):
            if user.op == TupleElement(index):
                return self.numbers.observer(user)
        return None


Tiles = Callable[["StepBuilder", Node, Views, Tensor, int], Sequence[Callable[[], None]]]
"""(builder, node, where its operands are, its result, bytes of the scratchpad it may use) to its tiles."""
GRADUAL: Final[dict[type[Op], Tiles]] = {}
"""Operations that can be made tile by tile beside others."""
TilesT = TypeVar("TilesT", bound=Tiles)


def gradual(kind: type[Op]) -> Callable[[TilesT], TilesT]:
    """Register what gives the tiles of an operation that can be made beside others."""

    def declare(make: TilesT) -> TilesT:
        GRADUAL[kind] = make

        def plan(b: Builder, node: Node, operation: Op, view: Views, out: Tensor, budget: int) -> None:
            del operation
            for tile in make(step_of(b), node, view, out, budget):
                tile()

        tiles_of(kind)(plan)
        return make

    return declare


def step_of(b: Builder) -> StepBuilder:
    """The builder of a step: its operations have no other."""
    assert isinstance(b, StepBuilder)
    return b


def pieces(extent: int, most: int) -> list[Span]:
    """A dimension cut into nearly equal pieces of at most so many."""
    count = -(-extent // most)
    return spans(extent, -(-extent // count))
