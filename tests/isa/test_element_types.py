"""Where an operand has no meaning with 32-bit elements, the instruction is refused and says which operand."""

from __future__ import annotations

import pytest

from isa.instructions.matrix import Conv, Gemm
from isa.instructions.vector_elementwise import VectorElementwise
from isa.spec import ElementType, Instruction, Trap
from isa.target import load_target

WIDE = ElementType.S32


@pytest.mark.parametrize(
    ("instr", "operand"),
    [
        (Conv(ips=1, irs=1, xt=WIDE), "xt"),
        (Conv(ips=1, irs=1, wt=WIDE), "wt"),
        (Gemm(ap=1, bp=1, xt=WIDE), "xt"),
        (Gemm(ap=1, bp=1, wt=WIDE), "wt"),
        (VectorElementwise(at=WIDE), "at"),
        (VectorElementwise(bt=WIDE), "bt"),
    ],
)
def test_elements_of_32_bits_are_refused(instr: Instruction, operand: str) -> None:
    faults = [(f.trap, f.operand) for f in instr.check(load_target("edge32"))]
    assert (Trap.BAD_ENUM, operand) in faults
