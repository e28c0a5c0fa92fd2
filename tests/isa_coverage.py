"""Which opcodes, enumerated values and trap codes the tests of a run have hit.

Recorded where they happen: an instruction that executes to its end, an instruction whose `check` objects
to an operand, a fault or trap that is made. What a run of the whole suite has hit is compared with
`tests/golden/isa/coverage.txt`; what nothing has hit fails it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

import isa.instructions  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from isa.checker.report import Violations
from isa.spec import INSTRUCTIONS, Fault, Instruction, Operand, Trap, TrapError
from isa.target import Target

EXECUTED, REFUSED, TRAPPED = "executed", "refused", "trapped"
Hit = tuple[str, ...]
"""What happened; mnemonic, then operand and value where it is one; or a trap code."""


class IsaCoverage:
    """Collects hits, its own and those of other processes."""

    def __init__(self) -> None:
        self.hits: set[Hit] = set()

    def watch(self) -> None:
        """Record from now on, in this process."""
        for cls in INSTRUCTIONS.values():
            cls.execute = self._executing(cls, cls.execute)
            cls.check = self._checking(cls.check)
        TrapError.__init__ = self._making(TrapError.__init__)
        Violations.add = self._making(Violations.add)
        for name, module in list(sys.modules.items()):
            if name.partition(".")[0] == "isa" and getattr(module, "Fault", None) is Fault:
                module.__dict__["Fault"] = self._fault

    def missing(self) -> list[str]:
        """What nothing has hit."""
        opcodes = [m for m in INSTRUCTIONS if not {(EXECUTED, m), (REFUSED, m)} & self.hits]
        values = [
            ".".join(value) for value in _values() if not {(EXECUTED, *value), (REFUSED, *value)} & self.hits
        ]
        traps = [t.name for t in Trap if (TRAPPED, t.name) not in self.hits]
        return opcodes + values + traps

    def report(self) -> str:
        """Every opcode and value, and whether it was executed or at least refused; every trap code."""
        lines: list[str] = []
        for mnemonic, cls in INSTRUCTIONS.items():
            lines.append(f"{mnemonic:12} {self._state(mnemonic)}")
            for spec in _enumerated(cls):
                states = [
                    (str(m.name).lower(), self._state(mnemonic, spec.name, m.name)) for m in spec.members()
                ]
                for state in (EXECUTED, REFUSED, "missing"):
                    names = [name for name, found in states if found == state]
                    if names:
                        lines.append(f"  {spec.name:10} {state}: {' '.join(names)}")
        hit = [t.name for t in Trap if (TRAPPED, t.name) in self.hits]
        return "\n".join([*lines, f"{'traps':12} {' '.join(hit)}"]) + "\n"

    def summary(self) -> str:
        """The report in a line."""
        values = list(_values())
        executed = sum((EXECUTED, *v) in self.hits for v in values)
        refused = sum((EXECUTED, *v) not in self.hits and (REFUSED, *v) in self.hits for v in values)
        opcodes = sum((EXECUTED, m) in self.hits for m in INSTRUCTIONS)
        rejected = sum((EXECUTED, m) not in self.hits and (REFUSED, m) in self.hits for m in INSTRUCTIONS)
        traps = sum((TRAPPED, t.name) in self.hits for t in Trap)
        return (
            f"ISA coverage: {opcodes} opcodes executed and {rejected} refused of {len(INSTRUCTIONS)}, "
            f"{executed} values executed and {refused} refused of {len(values)}, {traps} of {len(Trap)} traps"
        )

    def _state(self, *what: str) -> str:
        return next((s for s in (EXECUTED, REFUSED) if (s, *what) in self.hits), "missing")

    def _executing(self, cls: type[Instruction], execute: Callable[..., None]) -> Callable[..., None]:
        opcode = (EXECUTED, cls.mnemonic)
        still = [(spec.name, {int(v): v.name for v in spec.members()}) for spec in _enumerated(cls)]

        @wraps(execute)
        def wrapped(instr: Instruction, m: Any) -> None:
            execute(instr, m)
            self.hits.add(opcode)
            for name, values in still:  # what has not been hit yet: most instructions are done with here
                value = getattr(instr, name)
                if value in values and name not in instr.unused():
                    self.hits.add((*opcode, name, values.pop(value)))

        return wrapped

    def _checking(self, check: Callable[..., Iterator[Fault]]) -> Callable[..., Iterator[Fault]]:
        def wrapped(instr: Instruction, t: Target) -> Iterator[Fault]:
            for fault in check(instr, t):
                self.hits.add((REFUSED, instr.mnemonic))
                value = getattr(instr, fault.operand, None)
                name = getattr(value, "name", None)
                if name is not None:
                    self.hits.add((REFUSED, instr.mnemonic, fault.operand, name))
                yield fault

        return wrapped

    def _making(self, make: Callable[..., None]) -> Callable[..., None]:
        def wrapped(made: object, trap: Trap, *arguments: Any, **named: Any) -> None:
            self.hits.add((TRAPPED, trap.name))
            make(made, trap, *arguments, **named)

        return wrapped

    def _fault(self, trap: Trap, operand: str, message: str) -> Fault:
        """A fault, made in place of the class: the methods of a struct cannot be watched."""
        self.hits.add((TRAPPED, trap.name))
        return Fault(trap, operand, message)


def _enumerated(cls: type[Instruction]) -> list[Operand]:
    """Operands with enumerated values; not those that a format has and this instruction never uses."""
    return [o for o in cls.operands if o.enum is not None and o.name not in cls().unused()]


def _values() -> Iterator[tuple[str, str, str]]:
    for mnemonic, cls in INSTRUCTIONS.items():
        for spec in _enumerated(cls):
            for member in spec.members():
                yield mnemonic, spec.name, member.name
