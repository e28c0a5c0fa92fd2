"""Instructions that order other instructions."""

from __future__ import annotations

from typing import ClassVar

from isa.spec import Engine, Instruction, instruction, operand


@instruction("halt", opcode=0x02, engine=Engine.CTL)
class Halt(Instruction):
    """End the program.

    Completes when every earlier instruction of the core has. A stream has exactly one, its last
    word.
    """

    drains: ClassVar[bool] = True
    ends: ClassVar[bool] = True


@instruction("nop", opcode=0x03, engine=Engine.CTL)
class Nop(Instruction):
    """Do nothing for one dispatch slot."""


@instruction("fence", opcode=0x04, engine=Engine.CTL)
class Fence(Instruction):
    """Hold back every later instruction until every earlier one of the core has completed."""

    drains: ClassVar[bool] = True

    mask: int = operand(16, doc="free for tools; does not change the effect")


@instruction("wait", opcode=0x01, engine=None)
class Wait(Instruction):
    """Carry waits and signals on an engine's queue, and do nothing else.

    Used where an instruction needs a third wait or signal.
    """

    tag: int = operand(32, doc="free for tools; the compiler writes 0")
