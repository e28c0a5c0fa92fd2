"""A trap: what stopped the machine, and where."""

from __future__ import annotations

from isa.assembly.text import format_instruction
from isa.program import Program
from isa.spec import TrapError
from isa.support.diagnostics import Diagnostic, ExitCode, X1Error
from isa.support.locations import NodeLoc
from isa.support.records import Frozen, asdict


class TrapRecord(Frozen):
    """Everything known about a trap; `op` and `nodes` come from the debug map."""

    code: str
    message: str
    core: int
    pc: int
    engine: str
    instruction: str
    operand: str
    address: int | None
    op: int | None
    nodes: tuple[str, ...]
    source: tuple[str, ...]

    def as_json(self) -> dict[str, object]:
        """The record as JSON."""
        return asdict(self)


class MachineTrap(X1Error):
    """The program stopped before its halt (exit code 6)."""

    exit_code = ExitCode.TRAP

    def __init__(self, record: TrapRecord) -> None:
        self.record = record
        node = " + ".join(record.nodes) or f"instruction {record.pc}"
        at = f", operand {record.operand}" if record.operand else ""
        address = f", address {record.address}" if record.address is not None else ""
        super().__init__(
            Diagnostic(
                f"trap.{record.code.lower()}",
                f"{record.code} at instruction {record.pc} on {record.engine}{at}{address}: "
                f"{record.message}\n"
                f"  instruction: {record.instruction}",
                NodeLoc("trap", node, record.code),
            )
        )


def trap_at(program: Program, pc: int, error: TrapError) -> MachineTrap:
    """The trap of an instruction, with its place in the source model."""
    instr = program.instructions[pc]
    op = program.op_of(pc)
    return MachineTrap(
        TrapRecord(
            error.trap.name,
            error.message,
            0,
            pc,
            instr.engine.name,
            format_instruction(instr),
            error.operand,
            error.address,
            op.id if op else None,
            op.nodes if op else (),
            op.source if op else (),
        )
    )
