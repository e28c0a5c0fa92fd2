"""What went wrong, where, what is allowed, and what to do about it.

A `Diagnostic` is one finding; an `X1Error` carries all findings of one stage, so that a person
sees every mistake of a file at once. The exit codes are those of the command line.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

from isa.support.locations import UNKNOWN, FileLoc, Loc, NodeLoc
from isa.support.records import Frozen, Struct, field


class ExitCode(IntEnum):
    """The exit codes of the command line."""

    OK = 0
    MISMATCH = 1
    USAGE = 2
    INVALID_MODEL = 3
    DOES_NOT_FIT = 4
    BAD_BINARY = 5
    TRAP = 6
    INTERNAL = 70
    INTERRUPTED = 130


class Diagnostic(Frozen):
    """One finding: where, what, the allowed range, the remedy."""

    code: str
    message: str
    loc: Loc = UNKNOWN
    allowed: str = ""
    remedy: str = ""
    severity: str = "error"
    source_line: str = ""

    def render(self) -> str:
        """The finding as lines of text: place, fact, a caret where there is a column, notes."""
        place = one_line(self.loc.describe())
        lines = [f"{place}: {self.severity}: {self.message}" if place else f"{self.severity}: {self.message}"]
        if self.source_line and isinstance(self.loc, FileLoc) and self.loc.column:
            number = f"{self.loc.line:5d}"
            text, start, width = _window(self.source_line.expandtabs(1), self.loc)
            lines.append(f"{number} | {text}")
            lines.append(f"{' ' * len(number)} | {' ' * start}{'^' * width}")
        if self.allowed:
            lines.append(f"  allowed: {self.allowed}")
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        return "\n".join(one_line(line) for text in lines for line in text.split("\n"))

    def as_json(self) -> dict[str, object]:
        """The finding as the `diagnostics` entry of every `--json` envelope."""
        where: dict[str, object] = {"file": None, "line": None, "column": None, "node": None}
        if isinstance(self.loc, FileLoc):
            where |= {"file": self.loc.path, "line": self.loc.line or None, "column": self.loc.column or None}
        elif isinstance(self.loc, NodeLoc):
            where |= {"file": self.loc.model, "node": self.loc.node}
        elif described := self.loc.describe():
            where |= {"node": described}
        return {
            "severity": self.severity,
            "code": self.code,
            "where": where,
            "message": self.message,
            "allowed": self.allowed or None,
            "remedy": self.remedy or None,
        }


def _window(line: str, loc: FileLoc) -> tuple[str, int, int]:
    """What is shown of a line, and where in it the caret begins and how wide it is."""
    start, width = loc.column - 1, max(1, loc.end_column - loc.column)
    if len(line) <= MAX_SHOWN_LINE:
        return line, start, width
    first = min(max(0, start - MAX_SHOWN_LINE // 3), len(line) - MAX_SHOWN_LINE)
    shown = line[first : first + MAX_SHOWN_LINE]
    before, after = "..." if first else "", "..." if first + MAX_SHOWN_LINE < len(line) else ""
    start = len(before) + start - first
    return f"{before}{shown}{after}", start, min(width, len(before) + len(shown) - start)


class X1Error(Exception):
    """A mistake in what the user gave; the base of every error that the packages raise on purpose."""

    exit_code: ExitCode = ExitCode.USAGE

    def __init__(self, diagnostics: Diagnostic | Sequence[Diagnostic]) -> None:
        found = [diagnostics] if isinstance(diagnostics, Diagnostic) else list(diagnostics)
        assert found, "an error needs at least one diagnostic"
        self.diagnostics: list[Diagnostic] = found
        super().__init__("\n".join(d.render() for d in found))


class UsageError(X1Error):
    """Options, files, shapes, dtypes or target keys that do not go together (exit code 2)."""

    exit_code = ExitCode.USAGE


class TargetError(UsageError):
    """A target file or an override that does not describe a machine."""


class AssemblyError(X1Error):
    """Assembly text that does not describe a program (exit code 3)."""

    exit_code = ExitCode.INVALID_MODEL


class BinaryError(X1Error):
    """Bytes that are not an X1 binary this tool can execute (exit code 5)."""

    exit_code = ExitCode.BAD_BINARY


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The remedy sentence for a misspelt word, or an empty string where nothing is near."""
    if len(word) > MAX_WORD:
        return ""
    near = difflib.get_close_matches(word, list(itertools.islice(known, MAX_KNOWN)), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else ""


def not_among(code: str, message: str, name: str, known: Sequence[str]) -> Diagnostic:
    """A name that is none of those known: it lists them, and guesses which was meant."""
    return Diagnostic(code, message, allowed=", ".join(known), remedy=did_you_mean(name, known))


def require_keywords(options: Iterable[str], known: Iterable[str], further: Iterable[str] = ()) -> None:
    """Every keyword is one of those known; `further` are the others that may be given, by name.

    Raises:
        UsageError: some are not.
    """
    taken = list(known)
    listed = [*further, *taken]
    unknown = [name for name in options if name not in taken]
    if unknown:
        raise UsageError(
            [not_among("usage.keyword", f"there is no option '{name}'", name, listed) for name in unknown]
        )


def one_line(text: str) -> str:
    """A name from a file, safe to print: what is not printable is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Findings(Struct):
    """A collector: add findings, then raise them all together; a file with very many is given up."""

    error: type[X1Error]
    found: list[Diagnostic] = field(default_factory=list[Diagnostic])

    def add(
        self, code: str, message: str, loc: Loc = UNKNOWN, *, allowed: str = "", remedy: str = ""
    ) -> None:
        """Record one error."""
        self.found.append(Diagnostic(code, message, loc, allowed, remedy))
        if len(self.found) >= MAX_FOUND:
            self.raise_if_any()

    def raise_if_any(self) -> None:
        """Raise the collected findings, if there are any."""
        if self.found:
            raise self.error(self.found)


MAX_SHOWN_LINE: Final = 160
"""Of longer source lines the part around the mistake is shown."""
MAX_WORD: Final = 100
MAX_KNOWN: Final = 500
"""Longer words, and words after so many, are not compared: a hostile file must not take long."""
MAX_FOUND: Final = 200
"""A stage stops after so many findings."""
MAX_SHOWN: Final = 50
"""More findings of one stage than this are counted, not printed."""
