"""What the lines of an assembly file have said so far, and the values of their expressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

from lark import Token, Tree

from isa.diagnostics import Diagnostic, did_you_mean
from isa.parsing import Parsed as Node
from isa.paths import is_file, resolved
from isa.program import REGION_SHIFT, Interface, OpRow, Symbol
from isa.target import Target

TEXT_SECTION: Final = ".text"
DATA_REGION: Final = {".weights": 0, ".params": 5}
SIZED_REGIONS: Final = (0, 1, 2, 3, 5)
MAX_DATA: Final = 1 << 32


class Mistake(Exception):
    """A mistake at a place of a line; becomes a diagnostic."""

    def __init__(
        self, message: str, at: Node | Token | None = None, *, allowed: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.message, self.at, self.allowed, self.remedy = message, at, allowed, remedy


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a text; numbers count from 1."""

    path: str
    number: int
    text: str


@dataclass(slots=True)
class Pending:
    """An instruction that waits for its symbols."""

    line: Line
    tree: Node
    op: int | None
    variables: Mapping[str, int]


@dataclass
class Assembly:
    """What the lines of a file have said so far."""

    path: str
    folder: Path
    here: Path
    """The folder of the file that is being read; it lies in `folder`, and so do the files that it names."""
    variables: Mapping[str, int] = field(default_factory=dict[str, int])
    """The counters of the repetitions around the present line."""
    files: list[str] = field(default_factory=list[str])
    lines_read: int = 0
    taken: list[Path] = field(default_factory=list[Path])
    """Files that directives have named."""
    target: Target | None = None
    symbols: dict[str, int] = field(default_factory=dict[str, int])
    listed: list[Symbol] = field(default_factory=list[Symbol])
    semaphores: dict[str, int] = field(default_factory=dict[str, int])
    sections: dict[str, bytearray] = field(default_factory=dict[str, bytearray])
    raw: dict[str, bytes] = field(default_factory=dict[str, bytes])
    sizes: dict[int, int] = field(default_factory=dict[int, int])
    section: str = TEXT_SECTION
    ops: dict[int, OpRow] = field(default_factory=dict[int, OpRow])
    current_op: int | None = None
    pending: list[Pending] = field(default_factory=list[Pending])
    tensors: list[tuple[str, Interface]] = field(default_factory=list[tuple[str, Interface]])
    diagnostics: list[Diagnostic] = field(default_factory=list[Diagnostic])


def evaluate(state: Assembly, node: Node | Token) -> int:
    """The value of an expression.

    Raises:
        Mistake: an unknown symbol, or a value beyond 62 bits.
    """
    assert isinstance(node, Tree)
    match node.data:
        case "number":
            text = str(node.children[0])
            value = int(text, 16) if text.startswith("0x") else int(text)
        case "symbol":
            value = symbol_value(state, cast("Token", node.children[0]))
        case "neg":
            value = -evaluate(state, node.children[0])
        case _:
            left, right = (evaluate(state, c) for c in node.children)
            value = {"add": left + right, "sub": left - right, "mul": left * right}[str(node.data)]
    if abs(value) >= 1 << 62:
        raise Mistake("the value does not fit into 62 bits", node)
    return value


def symbol_value(state: Assembly, name: Token) -> int:
    """The value of a symbol; R0 to R7 stand for region << 40.

    Raises:
        Mistake: nothing defines it.
    """
    if len(name) == 2 and name[0] == "R" and name[1] in "01234567":
        return int(name[1]) << REGION_SHIFT
    if name in state.variables:
        return state.variables[name]
    if name in state.symbols:
        return state.symbols[name]
    raise Mistake(f"the symbol '{name}' is not defined", name, remedy=did_you_mean(name, state.symbols))


def define(state: Assembly, name: Token, value: int) -> None:
    """Give a symbol its only value.

    Raises:
        Mistake: it has one.
    """
    if name in state.symbols:
        raise Mistake(f"the symbol '{name}' is defined twice", name)
    state.symbols[str(name)] = value


def data_section(state: Assembly, at: Node | Token) -> bytearray:
    """The bytes of the data section that lines go to.

    Raises:
        Mistake: the lines go to a section without data.
    """
    if state.section not in DATA_REGION:
        raise Mistake(f"data belongs into .weights or .params, not {state.section}", at)
    return state.sections.setdefault(state.section, bytearray())


def named_file(state: Assembly, name: str, at: Node | Token) -> Path:
    """The file that a directive names, relative to the file in which it stands.

    Raises:
        Mistake: it lies outside the project's folder, is not there, or is too large.
    """
    place = resolved(state.here / name)
    if place is None or not place.is_relative_to(state.folder.resolve()):
        raise Mistake(f"'{name}' lies outside the folder of the text", at)
    if not is_file(place):
        raise Mistake(f"there is no file '{name}'", at)
    if place.stat().st_size > MAX_DATA:
        raise Mistake(f"'{name}' is too large", at, allowed=f"at most {MAX_DATA} bytes")
    state.taken.append(place)
    return place
