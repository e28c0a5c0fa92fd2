"""Proof that a decoded program cannot race, deadlock or read what nothing has written.

Sees only the binary. Legality and bounds come from the declared accesses; the token rules R1 to R4
(docs/isa/machine.md) exclude deadlock; races are excluded by vector clocks: every two conflicting accesses of
different engines must be ordered by program order within an engine, by a signal and its wait, or
by control instructions. Then every execution computes what program order computes. Transfers between
devices must match, and end (`transfers`).

Quick proofs over the columns of the whole stream come first (`legality`, `proof`). What they do not
clear is looked at closely (`isa.validate`, `shadows`): from there come all messages.
"""

from __future__ import annotations

from collections.abc import Sequence

from isa.accesses import AccessTable
from isa.checker.legality import suspects
from isa.checker.parameters import check_parameters
from isa.checker.proof import is_defined, is_ordered, rewritten, unwritten
from isa.checker.report import CheckReport, Violation, Violations
from isa.checker.shadows import Shadows
from isa.checker.tokens import Matches, check_tokens, happens_before
from isa.checker.transfers import check_transfers
from isa.executable import Executable
from isa.program import Program
from isa.spec import Trap
from isa.support.records import Frozen, replace
from isa.validate import instruction_faults

__all__ = ["CheckReport", "Violation", "check", "check_devices", "check_executable"]


class _Alone(Frozen):
    """What is found of a device by itself."""

    found: tuple[Violation, ...]
    matches: Matches
    rewritten: tuple[str, ...]


def check(program: Program, *, limit: int = 20) -> CheckReport:
    """Check the program of an only device; at most about `limit` violations are reported."""
    return check_devices([program], limit=limit)


def check_devices(programs: Sequence[Program], *, limit: int = 20) -> CheckReport:
    """Check what devices execute together: each by itself, those that are alike once, then all transfers."""
    known: dict[object, _Alone] = {}
    alone: list[_Alone] = []
    for program in programs:
        key = _likeness(program)
        if key not in known:
            known[key] = _check_alone(program, limit)
        alone.append(known[key])
    findings = [
        Violations(p, limit, [replace(v, device=p.device) for v in a.found])
        for p, a in zip(programs, alone, strict=True)
    ]
    if not any(a.found for a in alone):
        check_transfers(programs, [a.matches for a in alone], findings)
    return CheckReport(
        sum(len(p.instructions) for p in programs),
        sum(len(i.waits) for p in programs for i in p.instructions),
        tuple(v for f in findings for v in f.found),
        tuple(dict.fromkeys(name for a in alone for name in a.rewritten)),
    )


def _likeness(program: Program) -> object:
    """Equal for programs of which the same is to be said."""
    if program.devices == 1:
        return 0
    tensors = tuple((t.region, t.offset, t.bytes) for t in (*program.abi.inputs, *program.abi.outputs))
    sizes = tuple(program.region_sizes().items())
    return program.instructions, program.weights, program.params, tensors, sizes


def _check_alone(program: Program, limit: int) -> _Alone:
    stream = program.instructions
    findings = Violations(program, limit)
    table = program.accesses
    _check_legality(table, findings)
    legal = not findings.found
    _check_halt(findings)
    matches = check_tokens(stream, program.target, findings)
    if legal and not findings.full:
        clocks = happens_before(stream, matches)
        if not (is_defined(program, table) and is_ordered(program, table, clocks)):
            Shadows(program, clocks, findings).run()
        _check_outputs(table, findings)
        if not findings.found:
            check_parameters(program, table, findings)
    again = tuple(rewritten(program, table)) if legal else ()
    return _Alone(tuple(findings.found), matches, again)


def check_executable(executable: Executable, *, limit: int = 20) -> CheckReport:
    """Check every stream of a binary by itself: the state region is defined where each begins."""
    reports = [check_devices(executable.devices(name), limit=limit) for name in executable.names]
    if len(reports) == 1:
        return reports[0]
    named = [
        replace(v, message=f"{name}: {v.message}")
        for name, report in zip(executable.names, reports, strict=True)
        for v in report.violations
    ]
    return CheckReport(
        sum(r.instructions for r in reports),
        sum(r.tokens for r in reports),
        tuple(named),
        tuple(name for r in reports for name in r.rewritten),
    )


def _check_halt(findings: Violations) -> None:
    stream = findings.program.instructions
    halts = [pc for pc, i in enumerate(stream) if i.is_terminator]
    if halts != [len(stream) - 1]:
        findings.add(Trap.NO_HALT, max(len(stream) - 1, 0), "the stream does not end in its only halt")


def _check_legality(table: AccessTable, findings: Violations) -> None:
    program = findings.program
    sizes = program.region_sizes()
    for pc in suspects(program, table):
        for fault in instruction_faults(program.instructions[pc], program.target, sizes):
            findings.add(fault.trap, pc, fault.message)
        if findings.full:
            return


def _check_outputs(table: AccessTable, findings: Violations) -> None:
    """Every byte of every graph output is written."""
    last = len(findings.program.instructions) - 1
    for name in unwritten(findings.program, table):
        findings.add(Trap.UNINIT_READ, last, f"not every byte of the output '{name}' is written")
