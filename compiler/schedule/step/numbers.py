"""Whole numbers of a step in scalar registers: computed or brought when they are first needed, and kept.

There are few registers. What has been used least recently gives its own up, and is stored first if the memory
does not have it; so a program may need any number of them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from compiler.ir.graph import Input, Node
from compiler.schedule.builder import Builder
from compiler.schedule.tile_graph import REGION, UNPLACED, Buffer, Memory, Ref
from compiler.train.scalars import ScalarFunction
from isa.instructions.control import ScalarOperation, ScalarSet
from isa.instructions.dma import Load, OnChip, Store
from isa.memory_map import SREG_BYTES, SREGS
from isa.support.records import Struct

KEPT: Final = SREGS - 12
"""Registers in use at most: s0 reads 0, and some are still read when others take their place."""


class _Kept(Struct, eq=False):
    """A number in a register; `changed` says that the memory does not have it."""

    ref: Ref
    changed: bool


class Numbers:
    """The numbers of a plan.

    Args:
        b: the plan being made.
        homes: where numbers lie that the program does not compute, by node.
    """

    def __init__(self, b: Builder, homes: dict[int, Ref]) -> None:
        self.b, self.homes = b, homes
        self.kept: OrderedDict[int, _Kept] = OrderedDict()
        self.spilled: list[Ref] = []
        """Places of numbers that had to give their register up."""

    def read(self, node: Node) -> Ref:
        """The register that holds a number."""
        if node.id in self.kept:
            self.kept.move_to_end(node.id)
            return self.kept[node.id].ref
        if node.id in self.homes:
            return self._load(node.id)
        if node.is_constant:
            ref = self._take(node.id, changed=False)
            self.b.emit(ScalarSet(rd=UNPLACED, imm=int(node.constant)), {"rd": ref})
            del self.kept[node.id]  # it is as easily set again
            return ref
        assert isinstance(node.op, ScalarFunction), f"{node.name} has not been computed"
        return self._compute(node, node.op)

    def observer(self, node: Node) -> Ref:
        """The register in which a maximum is being found; 0 at first."""
        if node.id not in self.kept and node.id not in self.homes:
            ref = self._take(node.id, changed=True)
            self.b.emit(ScalarSet(rd=UNPLACED, imm=0), {"rd": ref})
        ref = self.read(node)
        self.kept[node.id].changed = True
        return ref

    def given(self, key: int, home: Ref) -> Ref:
        """A register with a word of DRAM that is no node's."""
        self.homes[key] = home
        return self.kept[key].ref if key in self.kept else self._load(key)

    def store(self, node: Node, to: Ref) -> None:
        """Store a number to a place in DRAM."""
        self._copy(Store, self.read(node), to)

    def _compute(self, node: Node, operation: ScalarFunction) -> Ref:
        operands = [self.read(i) for i in node.inputs]
        names = ("ra", "rb") if len(operands) > 1 else (("rb",) if operation.right else ("ra",))
        ref = self._take(node.id, changed=True)
        fields: dict[str, Any] = dict.fromkeys(names, UNPLACED)
        instr = ScalarOperation(fn=operation.scalar, rd=UNPLACED, imm=operation.imm, **fields)
        self.b.emit(instr, {"rd": ref, **dict(zip(names, operands, strict=True))})
        return ref

    def _load(self, key: int) -> Ref:
        ref = self._take(key, changed=False)
        self._copy(Load, ref, self.homes[key])
        return ref

    def _take(self, key: int, *, changed: bool) -> Ref:
        """A register for a number; another may have to give up its own."""
        while len(self.kept) >= KEPT:
            oldest, kept = self.kept.popitem(last=False)
            if kept.changed:
                if oldest not in self.homes:
                    self.homes[oldest] = Ref(self.b.buffer("number", Memory.ARENA, SREG_BYTES))
                    self.spilled.append(self.homes[oldest])
                self._copy(Store, kept.ref, self.homes[oldest])
        self.kept[key] = _Kept(Ref(Buffer(f"number.{key}", Memory.SREG, 1, 1)), changed)
        return self.kept[key].ref

    def _copy(self, kind: type[Load] | type[Store], register: Ref, dram: Ref) -> None:
        instr = kind(space=OnChip.SREG, region=REGION[dram.buffer.memory], n0=SREG_BYTES)
        self.b.emit(instr, {"loc": register, "dram": dram}, "load" if kind is Load else "store")


def is_number(node: Node) -> bool:
    """Whether a node is a whole number and not a tensor."""
    return not node.shape and (isinstance(node.op, ScalarFunction | Input) or node.is_constant)
