"""Files of golden cases: a graph in text form, and what becomes of it.

== title
graph ...           what is given
-- word             what is said of it; the test that reads the file knows the words
...                 the text that belongs to the word
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

from compiler.frontend.ir_reader import parse_graph
from compiler.ir.printer import print_graph
from isa.support.records import Frozen

GOLDEN: Final = Path(__file__).resolve().parent / "golden"
Verdicts = tuple[tuple[str, str], ...]
"""Words, each with its text."""


class Case(Frozen):
    """A text of a file, and what follows it: lines that begin with two dashes, each with its own text."""

    title: str
    given: str
    verdicts: Verdicts

    def text(self) -> str:
        """The case as the file has it."""
        parts = [f"== {self.title}\n{self.given}", *(f"-- {word}\n{text}" for word, text in self.verdicts)]
        return "".join(parts)


@cache
def cases_of(path: Path) -> tuple[Case, ...]:
    """The cases of a file."""
    found: list[Case] = []
    for part in re.split(r"^== ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        given, *verdicts = re.split(r"^-- ", part, flags=re.MULTILINE)
        title, _, text = given.partition("\n")
        pairs = [(word, body.strip("\n")) for word, _, body in (v.partition("\n") for v in verdicts)]
        ended = tuple((word, f"{body}\n" if body else "") for word, body in pairs)
        found.append(Case(title, text.strip("\n") + "\n", ended))
    return tuple(found)


def all_cases(folder: Path) -> list[tuple[Path, Case]]:
    """The cases of all files of a folder, at the time of collection: the files may be rewritten later."""
    return [(path, case) for path in sorted(folder.glob("*.txt")) for case in cases_of(path)]


def rewritten(path: Path, verdicts: Callable[[Case], Verdicts]) -> str:
    """A file with what follows its cases now; the whole of it, so that workers do not get in each other's way."""
    cases = cases_of(path)
    return "\n".join(Case(c.title, c.given, verdicts(c)).text() for c in cases)


def require(
    path: Path, case: Case, verdicts: Callable[[Case], Verdicts], rewrite: Callable[[str, str], None] | None
) -> None:
    """What is said of a case now must be what its file says; with `rewrite` the file's texts are written anew."""
    assert print_graph(parse_graph(case.given), blobs=True) == case.given, "the text is not as it is printed"
    got = verdicts(case)
    assert [word for word, _ in got] == [word for word, _ in case.verdicts]
    if rewrite is not None:
        rewrite(str(path.relative_to(GOLDEN)), rewritten(path, verdicts))
    else:
        assert got == case.verdicts
