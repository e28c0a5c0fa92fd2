"""What the lines of an assembly file have said so far, and the values of their expressions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Final, cast

from lark import Token, Tree

from isa.memory_map import DATA_REGIONS, REGION_SHIFT, Region
from isa.program import MAIN_STREAM, Interface, OpRow, Symbol
from isa.soundness import HOST_CAP
from isa.support.diagnostics import Diagnostic, TargetError, did_you_mean
from isa.support.parsing import Parsed as Node
from isa.support.paths import is_file, resolved
from isa.support.records import Frozen, Struct, field, replace
from isa.target import Target, load_target

REGION_SYMBOLS: Final = {f"R{r}": r.address for r in Region}
TEXT_SECTION: Final = ".text"
DATA_SECTIONS: Final = {r.section: r for r in DATA_REGIONS}
MAX_DIGITS: Final = 20
ALL: Final = -1
"""The number of a device that stands for all: what comes before the lines of each."""


class Mistake(Exception):
    """A mistake at a place of a line; becomes a diagnostic, unless it follows from an earlier one."""

    def __init__(
        self, message: str, at: Node | Token | None = None, *, allowed: str = "", remedy: str = ""
    ) -> None:
        super().__init__(message)
        self.message, self.at, self.allowed, self.remedy = message, at, allowed, remedy

    @property
    def follows(self) -> bool:
        """Whether an earlier mistake has been reported of which this one is a consequence."""
        return not self.message


class BadTarget(Mistake):
    """A target that does not describe a machine: one finding for each reason."""

    def __init__(self, at: Token, error: TargetError) -> None:
        super().__init__(error.diagnostics[0].message, at)
        prefix = f"{at}: " if str(at).strip('"').endswith(".toml") else ""
        self.reasons = [replace(d, message=prefix + d.message) for d in error.diagnostics]


class Line(Frozen):
    """A line of a text; numbers count from 1."""

    path: str
    number: int
    text: str


class Pending(Struct):
    """An instruction that waits for its symbols."""

    line: Line
    tree: Node
    op: int | None
    variables: Mapping[str, int]


class StreamText(Struct):
    """What the lines have said of one stream."""

    ops: dict[int, OpRow] = field(default_factory=dict[int, OpRow])
    current_op: int | None = None
    pending: list[Pending] = field(default_factory=list[Pending])
    tensors: list[tuple[str, Interface]] = field(default_factory=list[tuple[str, Interface]])


class Assembly(Struct):
    """What the lines of a file have said so far."""

    path: str
    folder: Path
    here: Path
    """The folder of the file that is being read; it lies in `folder`, and so do the files that it names."""
    variables: Mapping[str, int] = field(default_factory=dict[str, int])
    """The counters of the repetitions around the present line."""
    files: list[str] = field(default_factory=list[str])
    lines_read: int = 0
    lines_repeated: int = 0
    taken: list[Path] = field(default_factory=list[Path])
    """Files that directives have named."""
    line: Line = field(default_factory=lambda: Line("", 0, ""))
    """The line that acts."""
    deferred: list[tuple[Line, Callable[[Target], None]]] = field(
        default_factory=list[tuple[Line, Callable[[Target], None]]]
    )
    """What can be checked only when the target is known."""
    data_bytes: int = 0
    """Bytes of all sections so far."""
    target: Target | None = None
    symbols: dict[str, int] = field(default_factory=dict[str, int])
    broken: set[str] = field(default_factory=set[str])
    """Symbols whose definition is a mistake: what follows from it is not reported."""
    listed: list[tuple[int, Symbol]] = field(default_factory=list[tuple[int, Symbol]])
    """Symbols of a binary, and the device that each is of."""
    semaphores: dict[str, int] = field(default_factory=dict[str, int])
    sections: dict[tuple[str, int], bytearray] = field(default_factory=dict[tuple[str, int], bytearray])
    """Data by section and device."""
    raw: dict[str, bytes] = field(default_factory=dict[str, bytes])
    sizes: dict[Region, int] = field(default_factory=dict[Region, int])
    section: str = TEXT_SECTION
    streams: dict[tuple[str, int], StreamText] = field(default_factory=dict[tuple[str, int], StreamText])
    """By stream and device."""
    stream: str = MAIN_STREAM
    """The stream that instructions, operators and tensors belong to."""
    devices: int = 1
    device: int = ALL
    """The device that lines are for."""
    diagnostics: list[Diagnostic] = field(default_factory=list[Diagnostic])

    @property
    def room(self) -> int:
        """Bytes that a region, or the data of a text together, may have."""
        return min((self.target or default_target()).dram.size, HOST_CAP)

    @property
    def text(self) -> StreamText:
        """What has been said of the present stream."""
        return self.streams.setdefault((self.stream, self.device), StreamText())

    def before(self) -> StreamText:
        """What all devices execute before the present device's own text."""
        return self.streams.get((self.stream, ALL), StreamText()) if self.device != ALL else StreamText()

    def defer(self, check: Callable[[Target], None]) -> None:
        """Let a check of this line wait until the target is known."""
        self.deferred.append((self.line, check))


@cache
def default_target() -> Target:
    """The target of a text that names none."""
    return load_target("edge32")


def evaluate(state: Assembly, node: Node | Token) -> int:
    """The value of an expression.

    Raises:
        Mistake: an unknown symbol, or a value beyond 62 bits.
    """
    assert isinstance(node, Tree)
    match node.data:
        case "number":
            text = str(node.children[0])
            if len(text) > MAX_DIGITS:
                raise Mistake(f"the number has {len(text)} digits", node, allowed=f"at most {MAX_DIGITS}")
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
    if name in REGION_SYMBOLS:
        return REGION_SYMBOLS[name]
    if name in state.variables:
        return state.variables[name]
    if name in state.symbols:
        return state.symbols[name]
    if name in state.broken:
        raise Mistake("", name)
    raise Mistake(f"the symbol '{name}' is not defined", name, remedy=did_you_mean(name, state.symbols))


def address(state: Assembly, node: Node | Token) -> tuple[int, int]:
    """The region and the byte in it that an expression such as R2 + 16 stands for.

    Raises:
        Mistake: it lies before the beginning of a region.
    """
    value = evaluate(state, node)
    region, offset = divmod(value, 1 << REGION_SHIFT)
    before = (1 << REGION_SHIFT) - offset
    if before < offset:
        raise Mistake(f"the address lies before the beginning of region {region + 1}, by {before}", node)
    return region, offset


def define(state: Assembly, name: Token, value: int) -> None:
    """Give a symbol its only value.

    Raises:
        Mistake: it has one, or stands for a region.
    """
    if name in REGION_SYMBOLS:
        raise Mistake(f"'{name}' stands for a region", name, remedy="choose another name")
    if name in state.symbols:
        raise Mistake(f"the symbol '{name}' is defined twice", name)
    state.symbols[str(name)] = value


def data_section(state: Assembly, at: Node | Token) -> bytearray:
    """The bytes of the data section that lines go to.

    Raises:
        Mistake: the lines go to a section without data.
    """
    if state.section not in DATA_SECTIONS:
        raise Mistake(f"data belongs into {', '.join(DATA_SECTIONS)}, not {state.section}", at)
    return state.sections.setdefault((state.section, state.device), bytearray())


def data_before(state: Assembly) -> int:
    """Bytes of the section that all devices have before the present device's own."""
    return len(state.sections.get((state.section, ALL), b"")) if state.device != ALL else 0


def add_data(state: Assembly, at: Node | Token, content: bytes) -> None:
    """Append bytes to the data section that lines go to.

    Raises:
        Mistake: the lines go to a section without data, or all data together is too much.
    """
    require_room(state, at, len(content))
    data_section(state, at).extend(content)


def require_room(state: Assembly, at: Node | Token, more: int) -> None:
    """Count bytes towards what the sections of a text may hold together.

    Raises:
        Mistake: it is too much.
    """
    if state.data_bytes + more > state.room:
        raise Mistake(
            f"the sections hold {state.data_bytes + more} bytes", at, allowed=f"at most {state.room} together"
        )
    state.data_bytes += more


def named_file(state: Assembly, name: str, at: Node | Token) -> Path:
    """The file that a directive names, relative to the file in which it stands.

    Raises:
        Mistake: it lies outside the project's folder, or is not there.
    """
    place = resolved(state.here / name)
    if place is None or not place.is_relative_to(state.folder.resolve()):
        raise Mistake(f"'{name}' lies outside the folder of the text", at)
    if not is_file(place):
        raise Mistake(f"there is no file '{name}'", at)
    state.taken.append(place)
    return place
