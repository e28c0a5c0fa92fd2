"""A value that the instruction has no meaning for, or only with an extension, is refused by its operand's name."""

from __future__ import annotations

import pytest

from isa.instructions.dma import OnChip, Store
from isa.instructions.matrix import ArrayGemm, Conv
from isa.instructions.vector import Requant, Requantize, VectorMove
from isa.instructions.vector_elementwise import VectorElementwise
from isa.instructions.vector_reduce import VectorReduce
from isa.spec import ElementType, Instruction, Trap
from isa.target import load_target

S16, S32 = ElementType.S16, ElementType.S32
REFUSED: list[tuple[Instruction, str]] = [
    (Store(space=OnChip.PRM), "space"),
    *((Conv(ips=1, irs=1, xt=kind), "xt") for kind in (S16, S32)),
    *((Conv(ips=1, irs=1, wt=kind), "wt") for kind in (S16, S32)),
    *((ArrayGemm(ap=1, bp=1, xt=kind), "xt") for kind in (S16, S32)),
    *((ArrayGemm(ap=1, bp=1, wt=kind), "wt") for kind in (S16, S32)),
    (Requantize(ot=S16), "ot"),
    (Requantize(mode=Requant.FIX), "mode"),
    (VectorMove(xt=S16), "xt"),
    *((VectorElementwise(at=kind), "at") for kind in (S16, S32)),
    *((VectorElementwise(bt=kind), "bt") for kind in (S16, S32)),
    *((VectorElementwise(ot=kind), "ot") for kind in (S16, S32)),
    (VectorReduce(xt=S16), "xt"),
    (VectorReduce(ot=S16), "ot"),
]


@pytest.mark.parametrize(("instr", "operand"), REFUSED, ids=[f"{i.mnemonic} {o}" for i, o in REFUSED])
def test_values_without_meaning_are_refused(instr: Instruction, operand: str) -> None:
    extended = any(getattr(instr, operand) is value for value in (S16, Requant.FIX))
    faults = [(f.trap, f.operand) for f in instr.check(load_target("edge32"))]
    assert (Trap.EXT_MISSING if extended else Trap.BAD_ENUM, operand) in faults
