"""Proof that a decoded program cannot race, deadlock or read what nothing has written.

Sees only the binary. Legality and bounds come from the declared accesses; the token rules R1 to R4
(docs/isa) exclude deadlock; races are excluded by vector clocks: every two conflicting accesses of
different engines must be ordered by program order within an engine, by a signal and its wait, or
by control instructions. Then every execution computes what program order computes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.assembly.text import format_instruction
from isa.footprint import box
from isa.program import Program, is_read_only
from isa.spec import Access, Engine, Instruction, Space, Trap
from isa.target import Target
from isa.validate import instruction_faults, memory_size

ENGINES: Final = len(Engine)
GRAIN: Final = {Space.SPM: 1, Space.ACC: 4, Space.PRM: 8, Space.DRAM: 1, Space.SREG: 4}
"""Bytes that are always accessed together, and share one entry of a shadow memory."""
GIVEN: Final = 1
"""The writer of what is there from the start."""
INPUT_REGION: Final = 2
OUTPUT_REGION: Final = 3
STATE_REGION: Final = 4
Clock = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Violation:
    """Why a program is rejected: the rule, the instruction, and the other one of a conflict."""

    rule: str
    pc: int
    message: str
    other: int | None = None
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What the checker found; no violation means that the program is safe."""

    instructions: int
    tokens: int
    violations: tuple[Violation, ...]


@dataclass
class _Findings:
    program: Program
    limit: int
    found: list[Violation] = field(default_factory=list[Violation])

    def add(self, trap: Trap, pc: int, message: str, other: int | None = None) -> None:
        op = self.program.op_of(pc)
        self.found.append(Violation(trap.name, pc, message, other, op.nodes if op else ()))

    @property
    def full(self) -> bool:
        return len(self.found) >= self.limit


def check(program: Program, *, limit: int = 20) -> CheckReport:
    """Check a program; at most about `limit` violations are reported."""
    stream = program.instructions
    tokens = sum(len(i.waits) for i in stream)
    findings = _Findings(program, limit)
    _check_halt(stream, findings)
    _check_legality(program, findings)
    matches = _check_tokens(stream, program.target, findings)
    if not findings.found:
        clocks = _clocks(stream, matches)
        _Shadows(program, clocks, findings).run()
        if not findings.found:
            _check_outputs(program, findings)
    return CheckReport(len(stream), tokens, tuple(findings.found))


def _check_halt(stream: Sequence[Instruction], findings: _Findings) -> None:
    halts = [pc for pc, i in enumerate(stream) if i.ends]
    if halts != [len(stream) - 1]:
        findings.add(Trap.NO_HALT, max(len(stream) - 1, 0), "the stream does not end in its only halt")


def _check_legality(program: Program, findings: _Findings) -> None:
    regions = program.regions()
    for pc, instr in enumerate(program.instructions):
        for fault in instruction_faults(instr, program.target, regions):
            findings.add(fault.trap, pc, fault.message)
        if findings.full:
            return


def _check_tokens(stream: Sequence[Instruction], target: Target, findings: _Findings) -> dict[int, list[int]]:
    """Rules R1 to R4 by one scan; gives for every instruction those whose signals it waits for."""
    producer: dict[int, Engine] = {}
    consumer: dict[int, Engine] = {}
    pending: dict[int, deque[int]] = {}
    matches: dict[int, list[int]] = {}
    for pc, instr in enumerate(stream):
        for semaphore in instr.waits:
            if consumer.setdefault(semaphore, instr.engine) is not instr.engine:
                findings.add(
                    Trap.SEM_OWNER,
                    pc,
                    f"semaphore {semaphore} is waited for by "
                    f"{consumer[semaphore].name} and {instr.engine.name}",
                )
            queue = pending.setdefault(semaphore, deque())
            if queue:
                matches.setdefault(pc, []).append(queue.popleft())
            else:
                findings.add(
                    Trap.SEM_UNDERFLOW,
                    pc,
                    f"waits for semaphore {semaphore}, which no earlier signal has raised",
                )
        for semaphore in instr.signals:
            if producer.setdefault(semaphore, instr.engine) is not instr.engine:
                findings.add(
                    Trap.SEM_OWNER,
                    pc,
                    f"semaphore {semaphore} is signalled by "
                    f"{producer[semaphore].name} and {instr.engine.name}",
                )
            queue = pending.setdefault(semaphore, deque())
            queue.append(pc)
            if len(queue) > target.ctl.sem_max:
                findings.add(
                    Trap.SEM_OVERFLOW, pc, f"raises semaphore {semaphore} above {target.ctl.sem_max}"
                )
        if findings.full:
            return matches
    for semaphore, queue in sorted(pending.items()):
        if queue:
            findings.add(Trap.SEM_LEFT, queue[0], f"semaphore {semaphore} is {len(queue)} at the end")
    return matches


def _clocks(stream: Sequence[Instruction], matches: dict[int, list[int]]) -> list[Clock]:
    """For every instruction and engine the last instruction that happens before it, itself included."""
    clocks: list[Clock] = []
    latest: list[list[int]] = [[-1] * ENGINES for _ in Engine]
    for pc, instr in enumerate(stream):
        if instr.drains:
            clock = [pc if e is Engine.CTL else _last_of(latest, e) for e in Engine]
        else:
            clock = list(latest[instr.engine])
            for signaller in matches.get(pc, ()):
                clock = [max(a, b) for a, b in zip(clock, clocks[signaller], strict=True)]
            clock[instr.engine] = pc
        frozen = tuple(clock)
        clocks.append(frozen)
        latest[instr.engine] = clock
        if instr.engine is Engine.CTL:  # dispatch waits for it: it happens before every later instruction
            latest = [[max(a, b) for a, b in zip(own, frozen, strict=True)] for own in latest]
    return clocks


def _last_of(latest: list[list[int]], engine: Engine) -> int:
    return latest[engine][engine]


class _Shadows:
    """Shadow memories: the last writer of every entry, and the last reader by engine.

    A writer is its index + 2, a reader its index + 1; 0 means none. Memories of zeros cost nothing where
    they are not touched, however large a region a file declares.
    """

    def __init__(self, program: Program, clocks: list[Clock], findings: _Findings) -> None:
        self.program, self.clocks, self.findings = program, clocks, findings
        self.engine_of = np.array([i.engine for i in program.instructions], np.int8)
        self.written: dict[tuple[Space, int], NDArray[np.int32]] = {}
        self.read: dict[tuple[Space, int, Engine], NDArray[np.int32]] = {}
        self.sizes = program.region_sizes()
        self.placed: NDArray[np.bool_] | None = None

    def run(self) -> None:
        target = self.program.target
        for pc, instr in enumerate(self.program.instructions):
            accesses = [_coarse(a) for a in instr.accesses(target)]
            for access in accesses:
                self._check(pc, instr, access)
            for access in accesses:
                self._record(pc, instr, access)
            if self.findings.full:
                return

    def _writers(self, access: Access) -> NDArray[np.int32]:
        key = (access.space, access.region)
        if key not in self.written:
            self.written[key] = np.zeros(self._entries(access), np.int32)
            if access.space is Space.DRAM and access.region == STATE_REGION:
                self.written[key].fill(GIVEN)
            if access.space is Space.SREG:
                self.written[key][0] = GIVEN  # s0 reads 0
        return self.written[key]

    def _entries(self, access: Access) -> int:
        if access.space is Space.DRAM:
            return self.sizes[access.region]
        return memory_size(self.program.target, access.space) // GRAIN[access.space]

    def _check(self, pc: int, instr: Instruction, access: Access) -> None:
        if is_read_only(access):
            if access.region == INPUT_REGION and not self._given(access):
                self._undefined(pc, instr, access, "that belong to no input")
            return
        last = box(self._writers(access), access)
        if not access.write and not last.all():
            self._undefined(pc, instr, access, "that nothing has written")
        self._require_order(pc, instr, access, self._unordered_writers(pc, instr, last), "writes")
        if access.write:
            for engine in Engine:
                shadow = self.read.get((access.space, access.region, engine))
                if shadow is not None and engine is not instr.engine:
                    reader = int(box(shadow, access).max()) - 1
                    if reader > self.clocks[pc][engine]:
                        self._require_order(pc, instr, access, reader, "reads")

    def _given(self, access: Access) -> bool:
        """Whether the host places every byte of an access to the input region."""
        low, high = access.span()
        inputs = [(t.offset, t.offset + t.bytes) for t in self.program.abi.inputs]
        if any(start <= low and high <= stop for start, stop in inputs):
            return True
        if self.placed is None:
            self.placed = np.zeros(self.sizes[INPUT_REGION], np.bool_)
            for start, stop in inputs:
                self.placed[start:stop] = True
        return bool(box(self.placed, access).all())

    def _undefined(self, pc: int, instr: Instruction, access: Access, why: str) -> None:
        text = f"{access.operand} of '{format_instruction(instr)}' reads {_place(access)} {why}"
        self.findings.add(Trap.UNINIT_READ, pc, text)

    def _unordered_writers(self, pc: int, instr: Instruction, last: NDArray[Any]) -> int:
        """The last writer that this instruction does not come after, or -1."""
        clock = np.array(self.clocks[pc], np.int32)
        newest = int(last.max()) - GIVEN - 1
        if newest < 0 or newest <= int(clock.min()):
            return -1
        writers = np.unique(last).astype(np.int64) - GIVEN - 1
        writers = writers[writers >= 0]
        engines = self.engine_of[writers]
        late = writers[(writers > clock[engines]) & (engines != instr.engine)]
        return int(late[-1]) if late.size else -1

    def _require_order(self, pc: int, instr: Instruction, access: Access, other: int, verb: str) -> None:
        if other < 0:
            return
        earlier = self.program.instructions[other]
        self.findings.add(
            Trap.RACE,
            pc,
            f"{access.operand} of '{format_instruction(instr)}' touches {_place(access)} that "
            f"instruction {other} '{format_instruction(earlier)}' {verb}; a token {earlier.engine.name} -> "
            f"{instr.engine.name} is missing",
            other,
        )

    def _record(self, pc: int, instr: Instruction, access: Access) -> None:
        if is_read_only(access):
            return
        if access.write:
            box(self._writers(access), access)[...] = pc + GIVEN + 1
            return
        key = (access.space, access.region, instr.engine)
        if key not in self.read:
            self.read[key] = np.zeros(self._entries(access), np.int32)
        box(self.read[key], access)[...] = pc + 1


def _check_outputs(program: Program, findings: _Findings) -> None:
    """Every byte of every graph output is written."""
    if not program.output_bytes:
        return
    written = np.zeros(program.output_bytes, np.bool_)
    for instr in program.instructions:
        for access in instr.accesses(program.target):
            if access.space is Space.DRAM and access.region == OUTPUT_REGION and access.write:
                box(written, access)[...] = True
    for tensor in program.abi.outputs:
        pixels = written[tensor.offset : tensor.offset + tensor.bytes].reshape(-1, tensor.pixel_stride)
        if not pixels[:, : tensor.device_shape[3] * tensor.element_bytes].all():
            findings.add(
                Trap.UNINIT_READ,
                len(program.instructions) - 1,
                f"not every byte of the output '{tensor.name}' is written",
            )


def _coarse(access: Access) -> Access:
    """The access counted in entries of its shadow memory."""
    grain = GRAIN[access.space]
    if grain == 1:
        return access
    *outer, (run, _) = access.dims
    dims = (*((n, p // grain) for n, p in outer), (run // grain, 1))
    return Access(access.operand, access.space, access.base // grain, dims, access.write, access.region)


def _place(access: Access) -> str:
    grain = GRAIN[access.space]
    low, high = access.span()
    name = f"region {access.region}" if access.space is Space.DRAM else access.space.name
    return f"bytes of {name} within {low * grain}..{high * grain - 1}"
