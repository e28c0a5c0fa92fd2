"""Sums over a batch in accumulators, in two words where they may be beyond int32.

Parts that an int32 holds are split, high = rsh(part, 16) and low = part - high*2^16, and the words summed:
together they are the exact sum, whatever the parts were.
"""

from __future__ import annotations

from typing import Final

from compiler.ir.graph import Node
from compiler.ir.types import DType
from compiler.schedule.builder import spans
from compiler.schedule.step.builder import MAX_WORD_ROWS, Constant, StepBuilder
from compiler.schedule.step.rows import WORD
from compiler.schedule.tile_graph import Buffer, Ref
from compiler.train.integer.sums import most_products
from isa.instructions.vector_words import Function32
from isa.support.records import Struct

F = Function32
WORD_BITS: Final = 16
"""Of the low word."""
BLOCKS: Final = 3
"""Blocks of rows that a sum of two words needs."""


class BatchSums(Struct, eq=False):
    """Rows that are summed over a batch: the present part, and the words of those before."""

    rows: Buffer
    most: int
    """Products that a part may have."""
    high: Buffer | None = None
    low: Buffer | None = None
    count: int = 0

    @staticmethod
    def of(s: StepBuilder, node: Node, count: int, role: str) -> BatchSums:
        """Zeros, for sums of the products of a node's operands."""
        most = most_products(*(i.type for i in node.inputs))
        made = BatchSums(s.zeroed(role, count), most)
        if node.type.dtype is DType.I64:
            made.high, made.low = s.zeroed(f"{role}_high", count), s.zeroed(f"{role}_low", count)
        return made

    def expect(self, s: StepBuilder, products: int) -> None:
        """So many products are added next; the present part is split first if they do not fit in."""
        if self.high is not None and self.count + products > self.most:
            self._split(s)
            s.fill(Ref(self.rows), s.cols * WORD, self.rows.size)
        self.count += products

    def finish(self, s: StepBuilder) -> None:
        """All products have been added."""
        if self.high is not None:
            self._split(s)

    def _split(self, s: StepBuilder) -> None:
        assert self.high is not None
        assert self.low is not None
        down, up = s.number_of(WORD_BITS), s.number_of(-WORD_BITS)
        for part in spans(self.rows.size, MAX_WORD_ROWS):
            rows, high, low = (Ref(b, part.start) for b in (self.rows, self.high, self.low))
            word = Ref(s.rows_of("word", part.extent))
            s.words(F.ISHADD, word, Constant(0), rows, rows=part.extent, shift=down)
            s.words(F.IADD, high, high, word, rows=part.extent)
            s.words(F.ISHSUB, rows, rows, word, rows=part.extent, shift=up)
            s.words(F.IADD, low, low, rows, rows=part.extent)
        self.count = 0

    def real(self, s: StepBuilder, first: int, count: int) -> Ref:
        """Some rows as float32, rounded once; in their place."""
        rows = Ref(self.rows, first)
        if self.high is None or self.low is None:
            s.words(F.I2F, rows, rows, rows=count)
            return rows
        high, low = Ref(self.high, first), Ref(self.low, first)
        s.words(F.I2F, high, high, rows=count)
        s.words(F.FMUL, high, high, Constant(float(1 << WORD_BITS)), rows=count)
        s.words(F.I2F, low, low, rows=count)
        s.words(F.FADD, rows, high, low, rows=count)
        return rows
