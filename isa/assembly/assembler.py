"""Assembly text to programs.

Every mistake of a text is reported. Instructions are put together at the end, so that a symbol may
be used before its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from isa.assembly.operands import build_instruction
from isa.assembly.reader import MAX_TEXT, Reader, noted, ordered, placed
from isa.assembly.state import Assembly, Line, Mistake, StreamText, default_target
from isa.executable import STREAMS, Executable
from isa.memory_map import SIZED_REGIONS, Region
from isa.program import (
    MAIN_STREAM,
    Abi,
    DebugMap,
    MapRow,
    Note,
    Operators,
    Program,
    Symbol,
    text_section,
)
from isa.spec import INSTRUCTIONS, Instruction
from isa.support.diagnostics import MAX_FOUND, AssemblyError, Diagnostic
from isa.support.locations import FileLoc
from isa.support.records import Frozen, replace
from isa.target import Target
from isa.validate import instruction_faults


def assemble(text: str, path: str = "<text>", folder: Path | None = None) -> Assembled:
    """The program that the text describes; `folder` is where `.incbin` may read.

    Raises:
        AssemblyError: every mistake of the text.
    """
    place = folder or Path()
    state = Assembly(path, place, place)
    if len(text) > MAX_TEXT:
        raise AssemblyError(
            Diagnostic(
                "asm.size", f"the text has {len(text)} characters", FileLoc(path), f"at most {MAX_TEXT}"
            )
        )
    Reader(state).read_text(text, path)
    executable = _finish(state)
    if state.diagnostics:
        raise AssemblyError(ordered(state))
    assert executable is not None
    return Assembled(executable, state.raw, state.taken)


class Assembled(Frozen):
    """The programs of a text, and the sections that it takes from files as they are."""

    executable: Executable
    raw: Mapping[str, bytes]
    files: Sequence[Path]
    """The files that it was made from, besides the text itself."""

    @property
    def program(self) -> Program:
        """The program that a run executes where no stream is named."""
        return self.executable.main


def read_instruction(text: str) -> Instruction:
    """The instruction of one line that uses no symbols.

    Raises:
        AssemblyError: the line is no instruction.
    """
    state = Assembly("<text>", Path(), Path())
    Reader(state).read_text(text, "<text>")
    instrs = _built(state, state.text)
    if state.diagnostics or len(instrs) != 1:
        raise AssemblyError(state.diagnostics or Diagnostic("asm.error", "the line is no instruction"))
    return instrs[0]


def _finish(state: Assembly) -> Executable | None:
    target = state.target or default_target()
    _check_deferred(state, target)
    complete = not state.diagnostics
    texts = state.streams or {MAIN_STREAM: state.text}
    built = {name: _built(state, text) for name, text in texts.items()}
    for text in texts.values():
        _check_halt(state, text, complete=complete)
    if state.diagnostics:
        return None
    sizes = {r: state.sizes.get(r, _needed(state, r)) for r in SIZED_REGIONS}
    shared = Program(
        target,
        (),
        weights=_data(state, Region.WEIGHTS),
        params=_data(state, Region.PARAMS),
        state=_data(state, Region.STATE),
        arena_bytes=sizes[Region.ARENA],
        input_bytes=sizes[Region.INPUT],
        output_bytes=sizes[Region.OUTPUT],
        note=Note("x1 asm"),
    )
    symbols = sorted(state.listed, key=lambda s: (s.section, s.value, s.name))
    names = [name for name in STREAMS if name in texts]
    programs = tuple(_stream(replace(shared, stream=n), texts[n], built[n], symbols) for n in names)
    if not state.raw:  # a text that takes its sections from files is validated with them
        for program in programs:
            _validate(state, texts[program.stream], program)
    return Executable(programs)


def _stream(shared: Program, text: StreamText, instrs: list[Instruction], symbols: list[Symbol]) -> Program:
    """The program of one stream of the text."""
    others = {text_section(s) for s in STREAMS} - {text_section(shared.stream)}
    return replace(
        shared,
        instructions=tuple(instrs),
        abi=Abi(
            tuple(t for d, t in text.tensors if d == "in"), tuple(t for d, t in text.tensors if d == "out")
        ),
        debug=DebugMap(tuple(_map_rows(text))),
        operators=Operators(tuple(text.ops[n] for n in sorted(text.ops))),
        symbols=tuple(s for s in symbols if s.section not in others),
    )


def _check_deferred(state: Assembly, target: Target) -> None:
    for line, check in state.deferred:
        try:
            check(target)
        except Mistake as mistake:
            state.diagnostics.append(placed(line, mistake))


def _check_halt(state: Assembly, text: StreamText, *, complete: bool) -> None:
    """The last instruction, and no other, ends a stream; which is the last is known of complete texts."""
    halts = [p for p in text.pending if INSTRUCTIONS[str(p.tree.children[0])].is_terminator]
    for early in halts:
        if early is not text.pending[-1]:
            mistake = Mistake(
                "the program goes on after its halt", early.tree, remedy="halt once, at the end"
            )
            state.diagnostics.append(placed(early.line, mistake))
    if complete and (not halts or halts[-1] is not text.pending[-1]):
        last = text.pending[-1] if text.pending else None
        at = Mistake("the program does not end in halt", last and last.tree, remedy="end it with halt")
        state.diagnostics.append(placed(last.line if last else Line(state.path, 1, ""), at))


def _built(state: Assembly, text: StreamText) -> list[Instruction]:
    """The instructions of a stream's lines, their symbols resolved; mistakes are noted."""
    instrs: list[Instruction] = []
    for pending in text.pending:
        state.variables = pending.variables
        with noted(state, pending.line, pending.tree):
            instrs.append(build_instruction(state, pending.tree))
        if len(state.diagnostics) >= MAX_FOUND:
            break
    return instrs


def _data(state: Assembly, region: Region) -> bytes:
    """The bytes of a data region, zeros after them up to the size that `.region` gives."""
    return bytes(state.sections.get(region.section, b"")).ljust(state.sizes.get(region, 0), b"\0")


def _needed(state: Assembly, region: Region) -> int:
    """Bytes that the declared tensors of a region need."""
    tensors = [t for text in state.streams.values() for _, t in text.tensors]
    return max((t.offset + t.bytes for t in tensors if t.region == region), default=0)


def _validate(state: Assembly, text: StreamText, program: Program) -> None:
    sizes = program.region_sizes()
    for pending, instr in zip(text.pending, program.instructions, strict=True):
        for fault in instruction_faults(instr, program.target, sizes):
            mistake = Mistake(f"{fault.trap.name}: {fault.message}", pending.tree)
            state.diagnostics.append(placed(pending.line, mistake))


def _map_rows(text: StreamText) -> Iterator[MapRow]:
    first = 0
    ops = [p.op for p in text.pending]
    while first < len(ops):
        last = first
        while last < len(ops) and ops[last] == ops[first]:
            last += 1
        op = ops[first]
        if op is not None:
            yield MapRow(first, last - first, 0, op, (), "compute")
        first = last
