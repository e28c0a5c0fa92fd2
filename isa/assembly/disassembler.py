"""Programs to assembly text.

The text alone gives back the instructions; together with the files of the other sections, which
it names by `.incbin`, the whole binary, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, cast

from isa.assembly.assembler import Assembled
from isa.assembly.text import format_instruction
from isa.container import (
    DEVICES,
    SCHEME,
    TEXTS,
    TRAINING,
    assemble_sections,
    executable_sections,
    save,
)
from isa.elf import PROGBITS, Section
from isa.encoding import decode_all
from isa.executable import Executable, as_executable
from isa.memory_map import SIZED_REGIONS, Region
from isa.program import MAIN_STREAM, Note, Program, text_section
from isa.spec import WORD_BYTES
from isa.support.diagnostics import AssemblyError, Diagnostic, one_line
from isa.support.locations import FileLoc
from isa.support.record_json import RecordError, from_json, to_json
from isa.support.records import Frozen, replace
from isa.target import Target, load_target, shipped_targets
from isa.versions import ISA_VERSION

NOTE_SECTION: Final = ".x1.note"
"""In text form, the part of the note that is not a digest."""


class Disassembly(Frozen):
    """The text of a program and the files that it names: file name to content."""

    text: str
    files: dict[str, bytes]


def disassemble(what: Program | Executable, *, with_sections: bool = False) -> Disassembly:
    """The canonical text of a program, or of all streams of a binary, with comments from the debug maps."""
    executable = as_executable(what)
    shared = executable.programs[0]
    files: dict[str, bytes] = {}
    lines = [f".isa x1 {ISA_VERSION}", _target_line(shared.target)]
    if executable.device_count > 1 and not with_sections:
        lines.append(f".devices {executable.device_count}")
    lines += [
        f".region {region} {size}"
        for region, size in _region_sizes(executable).items()
        if region in SIZED_REGIONS or not with_sections
    ]
    if with_sections:
        for name, content in _section_files(executable):
            file = name.removeprefix(".") + ".bin"
            files[file] = content
            lines += [f".section {name}", f'.incbin "{file}"']
        lines.append(".section .text")
    pools = _pools(executable) if with_sections and executable.device_count > 1 else {}
    for stream in executable.names:
        if stream != MAIN_STREAM:
            lines.append(f".stream {stream}")
        lines += _stream_lines(executable.devices(stream)) if not pools else pools[stream]
    return Disassembly("\n".join(lines) + "\n", files)


def binary_of(assembled: Assembled, path: str = "<text>") -> bytes:
    """The file of an assembled text; sections that it takes from files stand as they are.

    Raises:
        AssemblyError: a section's file does not hold what the section needs.
    """
    executable, raw = assembled.executable, dict(assembled.raw)
    if not raw:
        return save(executable)
    shared = executable.programs[0]
    try:
        note = from_json(Note, raw.pop(NOTE_SECTION), NOTE_SECTION) if NOTE_SECTION in raw else shared.note
    except RecordError as error:
        raise AssemblyError(Diagnostic("asm.section", str(error), FileLoc(path))) from None
    scheme, training = (_text_of(raw, name, path) for name in (SCHEME, TRAINING))
    programs = tuple(replace(p, scheme=scheme) for p in executable.programs)
    sections = executable_sections(Executable(programs, training))
    if DEVICES in raw:
        after = next(n for n, s in enumerate(sections, 1) if s.name == ".x1.target")
        sections.insert(after, Section(DEVICES, PROGBITS))
    known = {s.name for s in sections}
    if unknown := sorted(set(raw) - known):
        raise AssemblyError(
            Diagnostic(
                "asm.section",
                f"a binary has no section '{unknown[0]}'",
                FileLoc(path),
                ", ".join(sorted(known | {NOTE_SECTION})),
            )
        )
    taken = [replace(s, data=raw.get(s.name, s.data)) for s in sections]
    return assemble_sections(taken, note, executable.extensions)


def _text_of(raw: Mapping[str, bytes], name: str, path: str) -> str:
    """A section of text that a file holds; empty where none does.

    Raises:
        AssemblyError: it is not UTF-8.
    """
    try:
        return raw.get(name, b"").decode()
    except UnicodeDecodeError:
        raise AssemblyError(Diagnostic("asm.section", f"{name} is not UTF-8", FileLoc(path))) from None


def _section_files(executable: Executable) -> Iterator[tuple[str, bytes]]:
    for section in executable_sections(executable):
        if section.name not in TEXTS and section.data:
            yield section.name, section.data
    yield NOTE_SECTION, to_json(executable.programs[0].note)


def _target_line(target: Target) -> str:
    """`.target NAME`, with the keys that differ from the shipped target of that name or base."""
    base = target.name if target.name in shipped_targets() else "edge32"
    shipped = load_target(base).flat()
    differing = {k: v for k, v in target.flat().items() if v != shipped[k]}
    return " ".join([f".target {base}", *(f'"{k}={_toml(v)}"' for k, v in differing.items())])


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(f"'{v}'" for v in cast("list[object]", value)) + "]"
    return f"'{value}'" if isinstance(value, str) else str(value)


def _pools(executable: Executable) -> dict[str, list[str]]:
    """The instructions of the sections, of which `.x1.devices` says what each device has."""
    texts = {s.name: s.data for s in executable_sections(executable) if s.name in TEXTS}
    return {
        stream: [f"        {format_instruction(i)}" for i in decode_all(texts[text_section(stream)])[0]]
        for stream in executable.names
    }


def _region_sizes(executable: Executable) -> dict[Region, int]:
    """The most bytes that a device needs of every region."""
    found: dict[Region, int] = {}
    for program in executable.programs:
        for region, size in program.region_sizes().items():
            found[region] = max(size, found.get(region, 0))
    return found


def _stream_lines(programs: Sequence[Program]) -> Iterator[str]:
    """The instructions of a stream: once, where all devices execute the same, else by device."""
    lines = [list(_instruction_lines(p)) for p in programs]
    if all(each == lines[0] for each in lines):
        yield from lines[0]
        return
    for program, each in zip(programs, lines, strict=True):
        yield f".device {program.device}"
        yield from each


def _instruction_lines(program: Program) -> Iterator[str]:
    rows = {r.first: r for r in program.debug.rows}
    ops = {o.id: o for o in program.operators.ops}
    labels = {
        s.value // WORD_BYTES: s.name for s in program.symbols if s.section == text_section(program.stream)
    }
    current: int | None = None
    for pc, instr in enumerate(program.instructions):
        row = rows.get(pc)
        if row is not None and row.op != current:
            current = row.op
            yield one_line(f"; {ops[current].name}: {' + '.join(ops[current].source or ops[current].nodes)}")
        note = one_line(f"  ; {row.phase} {list(row.tile)}") if row is not None and row.tile else ""
        if pc in labels:
            yield one_line(f"; {labels[pc]}:")
        yield f"        {format_instruction(instr)}{note}"
