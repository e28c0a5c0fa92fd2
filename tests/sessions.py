"""Pages that show commands: what stands after `$` is run, what stands below must be what it prints."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.command_line import x1

BLOCK = re.compile(r"^```(python)?\n(.*?)^```", re.DOTALL | re.MULTILINE)


def steps(page: str) -> Iterator[tuple[str, str]]:
    """The commands of a page and what they print, and its Python, of which nothing is shown."""
    for language, text in BLOCK.findall(page):
        if language:
            yield "python", text
        elif text.startswith("$ "):
            for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, shown = part.partition("\n")
                yield command, shown


def replay(page: Path, folder: Path, *, figures: bool = True) -> int:
    """Do what a page shows in a folder, and compare; how many steps it has.

    A line `...` stands for any lines, three dots at the end of one for the rest of it. Without `figures`, any
    number may stand where the page has one.
    """
    found = list(steps(page.read_text(encoding="utf-8")))
    for command, shown in found:
        if command == "python":
            subprocess.run([sys.executable, "-c", shown], cwd=folder, check=True)
            continue
        words = shlex.split(command)
        if words[0] == "x1":
            done = x1(words[1:], folder)
            assert done.returncode == 0, done.stderr
        else:
            done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
        printed = done.stdout + done.stderr
        pattern = "".join(_line(line, figures=figures) for line in shown.strip().splitlines())
        assert re.fullmatch(pattern, printed.strip() + "\n"), f"$ {command}\n{printed}"
    return len(found)


def _line(line: str, *, figures: bool) -> str:
    if line == "...":
        return "(?:.*\\n)*?"
    rest = ".*\\n" if line.endswith(" ...") else "\\n"
    text = re.escape(line.removesuffix(" ..."))
    if not figures:
        text = re.sub(r"(?:\\[ +-])*\d[\d,]*(?:\\\.\d+)?", r"[\\s+-]*[\\d,.]+", text)
    return text + rest
