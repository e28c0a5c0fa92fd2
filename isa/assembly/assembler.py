"""Assembly text to programs.

Every mistake of a text is reported. Instructions are put together at the end, so that a symbol may
be used before its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from isa.assembly.operands import build_instruction
from isa.assembly.reader import MAX_TEXT, Reader, noted, ordered, placed
from isa.assembly.state import ALL, Assembly, Line, Mistake, StreamText, default_target
from isa.container import DEVICES
from isa.executable import STREAMS, Executable
from isa.memory_map import SIZED_REGIONS, Region
from isa.program import (
    MAIN_STREAM,
    Abi,
    DebugMap,
    Interface,
    MapRow,
    Note,
    Operators,
    OpRow,
    Program,
    Symbol,
    text_section,
    whole_box,
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
    names = [name for name in STREAMS if any(stream == name for stream, _ in state.streams)]
    streams = {(n, d): _of_device(state, n, d) for n in names or [MAIN_STREAM] for d in range(state.devices)}
    built = {key: _built(state, text) for key, text in state.streams.items()}
    for text in () if DEVICES in state.raw else streams.values():  # pieces of devices end as they do
        _check_halt(state, text, complete=complete)
    if state.diagnostics:
        return None
    programs = tuple(
        _stream(state, target, key, text, [*built.get((key[0], ALL), ()), *built.get(key, ())])
        for key, text in streams.items()
    )
    if not state.raw:  # a text that takes its sections from files is validated with them
        for program in programs:
            _validate(state, streams[program.stream, program.device], program)
    return Executable(programs)


def _of_device(state: Assembly, stream: str, device: int) -> StreamText:
    """What the lines have said of a stream on a device: those for all, then its own."""
    common, own = (state.streams.get((stream, d), StreamText()) for d in (ALL, device))
    return StreamText(
        ops={}, pending=[*common.pending, *own.pending], tensors=[*common.tensors, *own.tensors]
    )


def _stream(
    state: Assembly, target: Target, key: tuple[str, int], text: StreamText, instrs: list[Instruction]
) -> Program:
    """The program of one stream on one device."""
    stream, device = key
    others = {text_section(s) for s in STREAMS} - {text_section(stream)}
    ops: dict[int, OpRow] = {}
    for (name, _), each in state.streams.items():
        if name == stream:
            ops = {**each.ops, **ops}
    listed = sorted((s for d, s in state.listed if d in (ALL, device)), key=_place)
    sizes = {r: state.sizes.get(r, _needed(state, r)) for r in SIZED_REGIONS}
    return Program(
        target,
        tuple(instrs),
        weights=_data(state, Region.WEIGHTS, device),
        params=_data(state, Region.PARAMS, device),
        state=_data(state, Region.STATE, device),
        arena_bytes=sizes[Region.ARENA],
        input_bytes=sizes[Region.INPUT],
        output_bytes=sizes[Region.OUTPUT],
        abi=_interface(state, stream, device, text),
        debug=DebugMap(tuple(_map_rows(text))),
        operators=Operators(tuple(ops[n] for n in sorted(ops))),
        symbols=tuple(s for s in listed if s.section not in others and (s.section or state.devices == 1)),
        note=Note("x1 asm"),
        stream=stream,
        device=device,
        devices=state.devices,
    )


def _place(symbol: Symbol) -> tuple[str, int, str]:
    return symbol.section, symbol.value, symbol.name


def _interface(state: Assembly, stream: str, device: int, text: StreamText) -> Abi:
    """The interface of a device; of several, every tensor of any, of which it may hold nothing."""
    if state.devices == 1:
        return Abi(
            tuple(t for d, t in text.tensors if d == "in"), tuple(t for d, t in text.tensors if d == "out")
        )
    all_of = [pair for (name, _), each in state.streams.items() if name == stream for pair in each.tensors]

    def rows(side: str) -> tuple[Interface, ...]:
        mine = {t.name: t for d, t in text.tensors if d == side}
        declared = {t.name: t for d, t in reversed(all_of) if d == side}
        names = dict.fromkeys(t.name for d, t in all_of if d == side)
        return tuple(_held(mine.get(name), declared[name], device) for name in names)

    return Abi(rows("in"), rows("out"))


def _held(mine: Interface | None, other: Interface, device: int) -> Interface:
    """The row of a device for a tensor that it has declared, or that another has."""
    if mine is None:
        return replace(other.without_content(), device=device)
    return replace(mine, device=device, box=mine.box or whole_box(mine.device_shape))


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


def _data(state: Assembly, region: Region, device: int) -> bytes:
    """The bytes of a data region, zeros after them up to the size that `.region` gives."""
    common, own = (bytes(state.sections.get((region.section, d), b"")) for d in (ALL, device))
    return (common + own).ljust(state.sizes.get(region, 0), b"\0")


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
