"""Programs to assembly text.

The text alone gives back the instructions; together with the files of the other sections, which
it names by `.incbin`, the whole binary, byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, cast

from isa.assembly.assembler import Assembled
from isa.assembly.text import format_instruction
from isa.container import SCHEME, TEXT, assemble_sections, program_sections, save
from isa.memory_map import SIZED_REGIONS
from isa.program import Note, Program
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


def disassemble(program: Program, *, with_sections: bool = False) -> Disassembly:
    """The canonical text of a program, with comments from its debug map."""
    files: dict[str, bytes] = {}
    lines = [f".isa x1 {ISA_VERSION}", _target_line(program.target)]
    lines += [
        f".region {region} {size}"
        for region, size in program.region_sizes().items()
        if region in SIZED_REGIONS or not with_sections
    ]
    if with_sections:
        for name, content in _section_files(program):
            file = name.removeprefix(".") + ".bin"
            files[file] = content
            lines += [f".section {name}", f'.incbin "{file}"']
        lines.append(".section .text")
    lines += _instruction_lines(program)
    return Disassembly("\n".join(lines) + "\n", files)


def binary_of(assembled: Assembled, path: str = "<text>") -> bytes:
    """The file of an assembled text; sections that it takes from files stand as they are.

    Raises:
        AssemblyError: a section's file does not hold what the section needs.
    """
    program, raw = assembled.program, dict(assembled.raw)
    if not raw:
        return save(program)
    try:
        note = from_json(Note, raw.pop(NOTE_SECTION), NOTE_SECTION) if NOTE_SECTION in raw else program.note
    except RecordError as error:
        raise AssemblyError(Diagnostic("asm.section", str(error), FileLoc(path))) from None
    try:
        program = replace(program, scheme=raw.get(SCHEME, b"").decode())
    except UnicodeDecodeError:
        raise AssemblyError(Diagnostic("asm.section", f"{SCHEME} is not UTF-8", FileLoc(path))) from None
    sections = program_sections(program)
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
    return assemble_sections([replace(s, data=raw.get(s.name, s.data)) for s in sections], note)


def _section_files(program: Program) -> Iterator[tuple[str, bytes]]:
    for section in program_sections(program):
        if section.name != TEXT and section.data:
            yield section.name, section.data
    yield NOTE_SECTION, to_json(program.note)


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


def _instruction_lines(program: Program) -> Iterator[str]:
    rows = {r.first: r for r in program.debug.rows}
    ops = {o.id: o for o in program.operators.ops}
    labels = {s.value // WORD_BYTES: s.name for s in program.symbols if s.section == TEXT}
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
