"""Instructions of the control engine: order, scalar registers, assertions.

They run at dispatch: each happens before every later instruction of its core.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import ClassVar, Final

import numpy as np

from isa.arithmetic import INT32_MAX, INT32_MIN
from isa.instructions.dma import WORD
from isa.instructions.footprints import register
from isa.spec import (
    Access,
    Engine,
    Fault,
    Instruction,
    MachineState,
    Trap,
    TrapError,
    instruction,
    operand,
)
from isa.target import Target

BAR_CYCLES: Final = 20
CARRIER_CYCLES: Final = 1
"""Of an instruction that only carries waits and signals."""


class Scalar(IntEnum):
    """The function of `sop`."""

    MOV = 0
    ADD = 1
    SUB = 2
    MIN = 3
    MAX = 4
    SHL = 5
    SHR = 6
    CLZ = 7
    SEL = 8


class Relation(IntEnum):
    """What `assert` compares."""

    EQ = 0
    NE = 1
    LT = 2
    LE = 3
    GT = 4
    GE = 5


def _wrapped(value: int) -> int:
    """Two's complement modulo 2^32."""
    return (value - INT32_MIN) % (1 << 32) + INT32_MIN


def _amount(value: int) -> int:
    """A shift amount, clamped to 0..31."""
    return min(max(value, 0), 31)


def _leading_zeros(value: int) -> int:
    return 32 - (value % (1 << 32)).bit_length()


SCALAR: Final[dict[Scalar, Callable[[int, int], int]]] = {
    Scalar.MOV: lambda _, b: b,
    Scalar.ADD: lambda a, b: _wrapped(a + b),
    Scalar.SUB: lambda a, b: _wrapped(a - b),
    Scalar.MIN: min,
    Scalar.MAX: max,
    Scalar.SHL: lambda a, b: _wrapped(a << _amount(b)),
    Scalar.SHR: lambda a, b: a >> _amount(b),
    Scalar.CLZ: lambda a, _: _leading_zeros(a),
}
"""Functions of ra and b = rb + imm."""
RELATIONS: Final[dict[Relation, Callable[[int, int], bool]]] = {
    Relation.EQ: lambda a, b: a == b,
    Relation.NE: lambda a, b: a != b,
    Relation.LT: lambda a, b: a < b,
    Relation.LE: lambda a, b: a <= b,
    Relation.GT: lambda a, b: a > b,
    Relation.GE: lambda a, b: a >= b,
}


@instruction("halt", opcode=0x02, engine=Engine.CTL)
class Halt(Instruction):
    """End the program.

    Completes when every earlier instruction of the core has. A stream has exactly one, its last
    word.
    """

    is_barrier: ClassVar[bool] = True
    is_terminator: ClassVar[bool] = True


@instruction("nop", opcode=0x03, engine=Engine.CTL)
class Nop(Instruction):
    """Do nothing for one dispatch slot."""


@instruction("fence", opcode=0x04, engine=Engine.CTL)
class Fence(Instruction):
    """Hold back every later instruction until every earlier one of the core has completed."""

    is_barrier: ClassVar[bool] = True

    mask: int = operand(16, doc="free for tools; does not change the effect")


@instruction("bar", opcode=0x05, engine=Engine.CTL)
class Barrier(Instruction):
    """Wait at a barrier until every core of the mask has come to it, and drain as `fence` does.

    With one core it is a fence that costs some cycles more.
    """

    is_barrier: ClassVar[bool] = True

    mask: int = operand(16, doc="cores that take part, bit k for core k")

    def check(self, t: Target) -> Iterator[Fault]:
        if self.mask >> t.cores:
            yield Fault(
                Trap.EXT_MISSING, "mask", f"mask={self.mask} names cores that the target does not have"
            )

    def cycles(self, t: Target) -> int:
        return t.ctl.issue + BAR_CYCLES


@instruction("assert", opcode=0x06, engine=Engine.CTL)
class Assert(Instruction):
    """Trap unless a scalar register stands in a relation to a number."""

    fn: Relation = operand(3, enum=Relation, doc="the relation")
    ra: int = operand(6, doc="the register on the left")
    imm: int = operand(32, signed=True, doc="the number on the right")

    shorthands = ("{fn}",)

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        yield register("ra", self.ra)

    def execute(self, m: MachineState) -> None:
        value = int(m.read(register("ra", self.ra), WORD)[0])
        if not RELATIONS[self.fn](value, self.imm):
            raise TrapError(
                Trap.ASSERT, "ra", f"s{self.ra} is {value}, not {self.fn.name.lower()} {self.imm}"
            )


@instruction("mark", opcode=0x07, engine=Engine.CTL)
class Mark(Instruction):
    """Leave a mark in traces; nothing else happens."""

    tag: int = operand(32, doc="free for tools; the compiler writes 0")

    def execute(self, m: MachineState) -> None:
        m.mark(self.tag)


class ScalarFormat(Instruction):
    """Operands of the scalar instructions."""

    rd: int = operand(6, doc="register written, s1 to s63")
    ra: int = operand(6, doc="first register read")
    rb: int = operand(6, doc="second register read")
    fn: Scalar = operand(5, enum=Scalar, doc="the function")
    imm: int = operand(32, signed=True, doc="a number")

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        if self.rd == 0:
            yield Fault(Trap.LIMIT, "rd", "rd=0 is the register that reads 0; allowed: 1 to 63")


@instruction("sset", opcode=0x08, engine=Engine.CTL)
class ScalarSet(ScalarFormat):
    """Set a scalar register to a number."""

    def unused(self) -> frozenset[str]:
        return frozenset({"ra", "rb", "fn"})

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        yield register("rd", self.rd, write=True)

    def execute(self, m: MachineState) -> None:
        m.write(register("rd", self.rd, write=True), np.array(self.imm), WORD)


@instruction("sop", opcode=0x09, engine=Engine.CTL)
class ScalarOperation(ScalarFormat):
    """Compute a scalar register from others: rd = fn(ra, b) with b = rb + imm, modulo 2^32.

    mov gives b. add and sub wrap modulo 2^32; min and max compare signed. shl and shr shift ra by b,
    clamped to 0..31: by 0 where b is negative, by 31 where it is larger; shl wraps, shr keeps the sign
    and rounds down. clz counts the leading zeros of ra. sel gives rb where ra is not 0, else imm. s0
    reads 0, so that any of them may be left out.
    """

    shorthands = ("{fn}",)

    def unused(self) -> frozenset[str]:
        match self.fn:
            case Scalar.MOV:
                return frozenset({"ra"})
            case Scalar.CLZ:
                return frozenset({"rb", "imm"})
            case _:
                return frozenset()

    def _sources(self) -> tuple[Access, Access]:
        return register("ra", self.ra), register("rb", self.rb)

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        left, right = self._sources()
        if self.fn is not Scalar.MOV:
            yield left
        if self.fn is not Scalar.CLZ:
            yield right
        yield register("rd", self.rd, write=True)

    def may_alias(self, read: Access, write: Access) -> bool:
        return True

    def execute(self, m: MachineState) -> None:
        used = {a.operand for a in self.accesses(m.target)}
        a, b = (int(m.read(s, WORD)[0]) if s.operand in used else 0 for s in self._sources())
        if self.fn is Scalar.SEL:
            result = b if a else self.imm
        else:
            result = SCALAR[self.fn](a, _wrapped(b + self.imm))
        assert INT32_MIN <= result <= INT32_MAX
        m.write(register("rd", self.rd, write=True), np.array(result), WORD)


@instruction("wait", opcode=0x01, engine=None)
class Wait(Instruction):
    """Carry waits and signals on an engine's queue, and do nothing else.

    Used where an instruction needs a third wait or signal. CTL has no queue: its instructions act at
    dispatch, so that `wait.ctl`, and any wait of another control instruction, holds back every later
    instruction of every engine.
    """

    tag: int = operand(32, doc="free for tools; the compiler writes 0")

    def cycles(self, t: Target) -> int:
        del t
        return CARRIER_CYCLES


@instruction("xsig", opcode=0x1F, engine=None)
class RemoteSignal(Instruction):
    """Signal a semaphore of another core; needs a machine with several."""

    core: int = operand(4, doc="the core that is signalled")
    sem: int = operand(5, doc="its semaphore")

    def cycles(self, t: Target) -> int:
        del t
        return CARRIER_CYCLES

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        yield Fault(Trap.EXT_MISSING, "core", "a remote signal needs several cores")
