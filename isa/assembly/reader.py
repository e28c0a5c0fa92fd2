"""Reads the lines of assembly text: includes and repetitions are followed as they come.

Directives act in order; instructions are kept until every symbol is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import PurePath
from typing import Final, cast

from lark import Token, Tree

from isa.assembly.directives import DIRECTIVES
from isa.assembly.state import (
    REGION_SYMBOLS,
    TEXT_SECTION,
    Assembly,
    BadTarget,
    Line,
    Mistake,
    Pending,
    data_before,
    data_section,
    define,
    evaluate,
    named_file,
)
from isa.program import Symbol, text_section
from isa.spec import INSTRUCTIONS, WORD_BYTES
from isa.support.diagnostics import MAX_FOUND, AssemblyError, Diagnostic, X1Error, did_you_mean
from isa.support.locations import FileLoc
from isa.support.parsing import Parsed as Node
from isa.support.parsing import SyntaxProblem, grammar, grammar_text, lines_of, parse
from isa.support.paths import read_file
from isa.support.records import replace

WORDS: Final = tuple(sorted(set(re.findall(r'"(\.[a-z]+)"', grammar_text("isa", "assembly")))))
"""The directives of the grammar."""
_DEFINED: Final = re.compile(r"\s*\.(?:equ|buf)\s+([A-Za-z_][A-Za-z0-9_.]*)")
MAX_TEXT: Final = 64 << 20
MAX_LINES: Final = 1 << 20
MAX_REPEATED: Final = 1 << 18
"""Lines and rounds of all repetitions together."""
MAX_DEPTH: Final = 16


def ordered(state: Assembly) -> list[Diagnostic]:
    """The findings by place; one in the body of a repetition is reported once."""

    def place(d: Diagnostic) -> tuple[int, int, int]:
        if not isinstance(d.loc, FileLoc) or d.loc.path not in state.files:
            return 0, 0, 0
        return state.files.index(d.loc.path), d.loc.line, d.loc.column

    return sorted(dict.fromkeys(state.diagnostics), key=place)


class Reader:
    """Reads lines into the state: includes and repetitions are followed as they come."""

    def __init__(self, state: Assembly) -> None:
        self.state = state
        self.parser = grammar("isa", "assembly")
        self.trees: dict[str, Node | SyntaxProblem] = {}
        self.depth = 0
        self.repeating = 0

    def read_text(self, text: str, path: str) -> None:
        """Read a file."""
        if path not in self.state.files:
            self.state.files.append(path)
        self.read([Line(path, number, content) for number, content in enumerate(lines_of(text), 1)])

    def read(self, lines: Sequence[Line]) -> None:
        """Read lines of a file, or of the body of a repetition."""
        state, index = self.state, 0
        while index < len(lines):
            line = lines[index]
            index += 1
            if len(state.diagnostics) >= MAX_FOUND:
                raise AssemblyError(ordered(state))
            if not line.text.strip() or line.text.lstrip().startswith(";"):
                continue
            self.count(line)
            state.line = line
            tree = self.parsed(line)
            directive = str(tree.children[-1].data) if tree and isinstance(tree.children[-1], Tree) else ""
            if tree is not None and directive in ("repeat", "repeat_counted"):
                end = _end_of_repeat(lines, index)
                body, closed = lines[index:end], end < len(lines)
                self.attempt(line, tree, partial(self.repeat, body=body, closed=closed))
                index = end + 1
            elif tree is not None and directive == "include":
                self.attempt(line, tree, self.include)
            elif tree is not None:
                _read_line(state, line, tree)

    def count(self, line: Line) -> None:
        """Count a line, or a round of a repetition, towards what a text may expand to."""
        state = self.state
        state.lines_read += 1
        state.lines_repeated += self.repeating
        for number, most in ((state.lines_read, MAX_LINES), (state.lines_repeated, MAX_REPEATED)):
            if number > most:
                place = FileLoc(line.path, line.number)
                text = "the text expands to too many lines"
                raise AssemblyError(Diagnostic("asm.size", text, place, f"at most {most}"))

    def parsed(self, line: Line) -> Node | None:
        """The tree of a line, each text parsed once; None where it is no line of assembly."""
        if line.text not in self.trees:
            try:
                self.trees[line.text] = parse(self.parser, line.text)
            except SyntaxProblem as problem:
                self.trees[line.text] = problem
        found = self.trees[line.text]
        if isinstance(found, SyntaxProblem):
            self.state.diagnostics.append(_unknown_directive(line) or _syntax(line, found))
            if name := _DEFINED.match(line.text):
                self.state.broken.add(name[1])
            return None
        return found if found.children else None

    def attempt(self, line: Line, tree: Node, act: Callable[[Node], None]) -> None:
        """Let a directive act; mistakes are noted at the line."""
        with noted(self.state, line, tree):
            if len(tree.children) > 1:
                raise Mistake("a label cannot stand before this directive", tree)
            act(cast("Node", tree.children[-1]))

    def repeat(self, directive: Node, *, body: Sequence[Line], closed: bool) -> None:
        """Read the body again and again, the counter from 0 upward."""
        if not closed:
            raise Mistake("'.rep' has no '.endrep'", directive)
        *name, count = directive.children
        number = evaluate(self.state, count)
        if not 0 <= number <= MAX_REPEATED:
            raise Mistake(f"the count {number} is not allowed", directive, allowed=f"0 to {MAX_REPEATED}")
        if name and str(name[0]) in {**self.state.symbols, **self.state.variables}:
            raise Mistake(f"the symbol '{name[0]}' is defined twice", directive)
        if name and str(name[0]) in REGION_SYMBOLS:
            raise Mistake(f"'{name[0]}' stands for a region", directive, remedy="choose another name")
        outer, line = self.state.variables, self.state.line
        with self.deeper(directive):
            self.repeating += 1
            for index in range(number):
                self.count(line)
                self.state.variables = {**outer, **({str(name[0]): index} if name else {})}
                self.read(body)
            self.repeating -= 1
        self.state.variables = outer

    def include(self, directive: Node) -> None:
        """Read another file of the project's folder in the place of the line."""
        name = str(directive.children[0])[1:-1]
        place = named_file(self.state, name, directive)
        if place.stat().st_size > MAX_TEXT:
            raise Mistake(f"'{name}' is too large", directive, allowed=f"at most {MAX_TEXT} bytes")
        try:
            text = read_file(place).decode("utf-8")
        except UnicodeDecodeError:
            raise Mistake(f"'{name}' is not UTF-8 text", directive) from None
        outer = self.state.here
        with self.deeper(directive):
            self.state.here = place.parent
            self.read_text(
                text, str(PurePath(self.state.path).parent / place.relative_to(self.state.folder.resolve()))
            )
        self.state.here = outer

    @contextmanager
    def deeper(self, directive: Node) -> Generator[None]:
        """One level further in."""
        if self.depth >= MAX_DEPTH:
            raise Mistake(
                "repetitions and includes are nested too deeply", directive, allowed=f"{MAX_DEPTH} levels"
            )
        self.depth += 1
        yield
        self.depth -= 1


def _end_of_repeat(lines: Sequence[Line], start: int) -> int:
    """The index of the `.endrep` that ends the body which begins at `start`, or the number of lines."""
    depth = 0
    for index in range(start, len(lines)):
        word = lines[index].text.split(maxsplit=1)[:1]
        if word in ([".rep"], [".endrep"]):
            depth += 1 if word == [".rep"] else -1
            if depth < 0:
                return index
    return len(lines)


@contextmanager
def noted(state: Assembly, line: Line, tree: Node) -> Generator[None]:
    """Turn mistakes into findings at a line."""
    try:
        yield
    except BadTarget as mistake:
        at = placed(line, mistake)
        state.diagnostics += [replace(d, loc=at.loc, source_line=at.source_line) for d in mistake.reasons]
    except Mistake as mistake:
        if tree.data in ("equ", "buf") and isinstance(tree.children[0], Token):
            state.broken.add(str(tree.children[0]))
        if not mistake.follows:
            state.diagnostics.append(placed(line, mistake))
    except RecursionError:
        deep = Mistake("the expression is nested too deeply", tree, remedy="name parts of it with .equ")
        state.diagnostics.append(placed(line, deep))
    except AssemblyError:
        raise
    except X1Error as error:
        state.diagnostics += [replace(d, loc=FileLoc(line.path, line.number)) for d in error.diagnostics]


def _read_line(state: Assembly, line: Line, tree: Node) -> None:
    for child in tree.children:
        assert isinstance(child, Tree)
        with noted(state, line, child):
            if child.data == "label":
                _label(state, cast("Token", child.children[0]))
            elif child.data == "instruction":
                _instruction_line(state, line, child)
            elif child.data == "end_repeat":
                raise Mistake("'.endrep' without '.rep'", child)
            elif child.data in DIRECTIVES:
                DIRECTIVES[str(child.data)](state, child)
            else:
                raise Mistake("this directive stands alone on its line", child)


def _unknown_directive(line: Line) -> Diagnostic | None:
    word = line.text.split(maxsplit=1)[0]
    if not word.startswith(".") or word in WORDS:
        return None
    column = line.text.index(word) + 1
    return Diagnostic(
        "asm.directive",
        f"there is no directive '{word}'",
        FileLoc(line.path, line.number, column, column + len(word)),
        ", ".join(WORDS),
        did_you_mean(word, WORDS),
        source_line=line.text,
    )


def _syntax(line: Line, problem: SyntaxProblem) -> Diagnostic:
    loc = FileLoc(line.path, line.number, problem.column, problem.column + problem.width)
    message = problem.message.replace("the text ends", "the line ends")
    allowed = "label:, mnemonic name=value, ..., wait(n), signal(n), or a directive"
    return Diagnostic("asm.syntax", message, loc, allowed, source_line=line.text)


def placed(line: Line, mistake: Mistake) -> Diagnostic:
    """A mistake as a finding, with its line and a caret."""
    column = end = 0
    at = mistake.at
    if isinstance(at, Token):
        column, end = at.column or 0, at.end_column or 0
    elif at is not None and not at.meta.empty:
        column, end = at.meta.column, at.meta.end_column
    return Diagnostic(
        "asm.error",
        mistake.message,
        FileLoc(line.path, line.number, column, end),
        mistake.allowed,
        mistake.remedy,
        source_line=line.text,
    )


def _label(state: Assembly, name: Token) -> None:
    if state.section == TEXT_SECTION:
        count = len(state.before().pending) + len(state.text.pending)
        value, section = count * WORD_BYTES, text_section(state.stream)
    else:
        value, section = data_before(state) + len(data_section(state, name)), state.section
    define(state, name, value)
    state.listed.append((state.device, Symbol(str(name), section, value, 0)))


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
    state.text.pending.append(Pending(line, tree, state.text.current_op, state.variables))
