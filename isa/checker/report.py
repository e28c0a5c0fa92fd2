"""What the checker finds."""

from __future__ import annotations

from isa.program import Program
from isa.spec import Trap
from isa.support.records import Frozen, Struct, field


class Violation(Frozen):
    """Why a program is rejected: the rule, the instruction, and the other one of a conflict."""

    rule: str
    pc: int
    message: str
    other: int | None = None
    nodes: tuple[str, ...] = ()
    device: int = 0


class CheckReport(Frozen):
    """What the checker found; no violation means that the program is safe."""

    instructions: int
    tokens: int
    violations: tuple[Violation, ...]
    rewritten: tuple[str, ...] = ()
    """Graph outputs of which a byte is written more than once: allowed, but no compiled program does it."""

    def __repr__(self) -> str:
        found = f"{len(self.violations)} violations" if self.violations else "safe"
        return f"<CheckReport: {self.instructions} instructions, {self.tokens} tokens, {found}>"


class Violations(Struct):
    """Violations as they are found, up to about a limit."""

    program: Program
    limit: int
    found: list[Violation] = field(default_factory=list[Violation])

    def add(self, trap: Trap, pc: int, message: str, other: int | None = None) -> None:
        """Note a violation at an instruction."""
        op = self.program.op_of(pc)
        self.found.append(
            Violation(trap.name, pc, message, other, op.nodes if op else (), self.program.device)
        )

    @property
    def full(self) -> bool:
        """Whether no more are wanted."""
        return len(self.found) >= self.limit
