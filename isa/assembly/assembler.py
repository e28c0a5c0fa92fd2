"""Assembly text to programs.

The text is read line by line, so that every mistake of a file is reported. Directives act in
order; instructions are put together at the end, so that a symbol may be used before its line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from lark import Lark, Token, Tree

from isa.assembly.directives import DIRECTIVES
from isa.assembly.operands import build_instruction
from isa.assembly.state import (
    SIZED_REGIONS,
    TEXT_SECTION,
    Assembly,
    Line,
    Mistake,
    Pending,
    data_section,
    define,
)
from isa.diagnostics import MAX_FOUND, AssemblyError, Diagnostic, X1Error, did_you_mean
from isa.locations import FileLoc
from isa.parsing import Parsed as Node
from isa.parsing import SyntaxProblem, grammar, lines_of, parse
from isa.program import Abi, DebugMap, MapRow, Note, Operators, Program, Symbol
from isa.spec import INSTRUCTIONS, WORD_BYTES, Instruction
from isa.target import load_target
from isa.validate import instruction_faults

MAX_TEXT: Final = 64 << 20


def assemble(text: str, path: str = "<text>", folder: Path | None = None) -> Assembled:
    """The program that the text describes; `folder` is where `.incbin` may read.

    Raises:
        AssemblyError: every mistake of the text.
    """
    state = Assembly(path, folder or Path())
    if len(text) > MAX_TEXT:
        raise AssemblyError(
            Diagnostic(
                "asm.size", f"the text has {len(text)} characters", FileLoc(path), f"at most {MAX_TEXT}"
            )
        )
    parser = grammar("isa", "assembly")
    for number, content in enumerate(lines_of(text), 1):
        if content.strip() and not content.lstrip().startswith(";"):
            _read_line(state, parser, Line(number, content))
        if len(state.diagnostics) >= MAX_FOUND:
            raise AssemblyError(state.diagnostics)
    program = _finish(state)
    if state.diagnostics:
        raise AssemblyError(sorted(state.diagnostics, key=_order))
    assert program is not None
    return Assembled(program, state.raw)


@dataclass(frozen=True, slots=True)
class Assembled:
    """The program of a text, and the sections that it takes from files as they are."""

    program: Program
    raw: Mapping[str, bytes]


def _order(d: Diagnostic) -> tuple[int, int]:
    return (d.loc.line, d.loc.column) if isinstance(d.loc, FileLoc) else (0, 0)


def _read_line(state: Assembly, parser: Lark, line: Line) -> None:
    try:
        tree = parse(parser, line.text)
    except SyntaxProblem as problem:
        state.diagnostics.append(_syntax(state, line, problem))
        return
    for child in tree.children:
        assert isinstance(child, Tree)
        try:
            if child.data == "label":
                _label(state, cast("Token", child.children[0]))
            elif child.data == "instruction":
                _instruction_line(state, line, child)
            else:
                DIRECTIVES[str(child.data)](state, child)
        except Mistake as mistake:
            state.diagnostics.append(_place(state, line, mistake))
        except RecursionError:
            mistake = Mistake(
                "the expression is nested too deeply", child, remedy="name parts of it with .equ"
            )
            state.diagnostics.append(_place(state, line, mistake))
        except X1Error as error:
            state.diagnostics += [replace(d, loc=FileLoc(state.path, line.number)) for d in error.diagnostics]


def _syntax(state: Assembly, line: Line, problem: SyntaxProblem) -> Diagnostic:
    loc = FileLoc(state.path, line.number, problem.column, problem.column + problem.width)
    message = problem.message.replace("the text ends", "the line ends")
    allowed = "label:, mnemonic name=value, ..., wait(n), signal(n), or a directive"
    return Diagnostic("asm.syntax", message, loc, allowed, source_line=line.text)


def _place(state: Assembly, line: Line, mistake: Mistake) -> Diagnostic:
    column = end = 0
    at = mistake.at
    if isinstance(at, Token):
        column, end = at.column or 0, at.end_column or 0
    elif at is not None and not at.meta.empty:
        column, end = at.meta.column, at.meta.end_column
    return Diagnostic(
        "asm.error",
        mistake.message,
        FileLoc(state.path, line.number, column, end),
        mistake.allowed,
        mistake.remedy,
        source_line=line.text,
    )


def _label(state: Assembly, name: Token) -> None:
    if state.section == TEXT_SECTION:
        value, section = len(state.pending) * WORD_BYTES, ".text.core0"
    else:
        value, section = len(data_section(state, name)), state.section
    define(state, name, value)
    state.listed.append(Symbol(str(name), section, value, 0))


def _instruction_line(state: Assembly, line: Line, tree: Node) -> None:
    name = cast("Token", tree.children[0])
    if state.section != TEXT_SECTION:
        raise Mistake(f"instructions belong into .text, not {state.section}", name)
    if name not in INSTRUCTIONS:
        raise Mistake(
            f"there is no instruction '{name}'",
            name,
            remedy=did_you_mean(name, INSTRUCTIONS) or "docs/isa lists them",
        )
    state.pending.append(Pending(line, tree, state.current_op))


def read_instruction(text: str) -> Instruction:
    """The instruction of one line that uses no symbols.

    Raises:
        AssemblyError: the line is no instruction.
    """
    state, line = Assembly("<text>", Path()), Line(1, text)
    _read_line(state, grammar("isa", "assembly"), line)
    instrs = _built(state)
    if state.diagnostics or len(instrs) != 1:
        raise AssemblyError(state.diagnostics or Diagnostic("asm.error", "the line is no instruction"))
    return instrs[0]


def _finish(state: Assembly) -> Program | None:
    target = state.target or load_target("edge32")
    instrs = _built(state)
    if not state.diagnostics and [i for i, instr in enumerate(instrs) if instr.ends] != [len(instrs) - 1]:
        last = state.pending[-1].line.number if state.pending else 1
        state.diagnostics.append(
            Diagnostic(
                "asm.halt",
                "the program does not end in its only halt",
                FileLoc(state.path, last),
                remedy="end it with halt",
            )
        )
    if state.diagnostics:
        return None
    sizes = {r: state.sizes.get(r, _needed(state, r)) for r in SIZED_REGIONS}
    program = Program(
        target,
        tuple(instrs),
        bytes(state.sections.get(".weights", b"")),
        bytes(state.sections.get(".params", b"")),
        sizes[1],
        sizes[2],
        sizes[3],
        Abi(
            tuple(t for d, t in state.tensors if d == "in"), tuple(t for d, t in state.tensors if d == "out")
        ),
        DebugMap(tuple(_map_rows(state))),
        Operators(tuple(state.ops[n] for n in sorted(state.ops))),
        tuple(sorted(state.listed, key=lambda s: (s.section, s.value, s.name))),
        Note("x1 asm"),
    )
    if not state.raw:  # a text that takes its sections from files is validated with them
        _validate(state, program)
    return program


def _built(state: Assembly) -> list[Instruction]:
    """The instructions of all lines, their symbols resolved; mistakes are noted."""
    instrs: list[Instruction] = []
    for pending in state.pending:
        try:
            instrs.append(build_instruction(state, pending.tree))
        except Mistake as mistake:
            state.diagnostics.append(_place(state, pending.line, mistake))
        except RecursionError:
            mistake = Mistake("an expression is nested too deeply", pending.tree)
            state.diagnostics.append(_place(state, pending.line, mistake))
        if len(state.diagnostics) >= MAX_FOUND:
            break
    return instrs


def _needed(state: Assembly, region: int) -> int:
    """Bytes that the declared tensors of a region need."""
    return max((t.offset + t.bytes for _, t in state.tensors if t.region == region), default=0)


def _validate(state: Assembly, program: Program) -> None:
    regions = program.regions()
    for pending, instr in zip(state.pending, program.instructions, strict=True):
        for fault in instruction_faults(instr, program.target, regions):
            mistake = Mistake(f"{fault.trap.name}: {fault.message}", pending.tree)
            state.diagnostics.append(_place(state, pending.line, mistake))


def _map_rows(state: Assembly) -> Iterator[MapRow]:
    first = 0
    ops = [p.op for p in state.pending]
    while first < len(ops):
        last = first
        while last < len(ops) and ops[last] == ops[first]:
            last += 1
        op = ops[first]
        if op is not None:
            yield MapRow(first, last - first, 0, op, (), "compute")
        first = last
