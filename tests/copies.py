"""Copies of the repository, for the pages that say how to add something: they are performed there."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
FOLDERS: Final = ("isa", "runtime", "compiler", "x1", "docs", "tests")


def copied(folder: Path) -> Path:
    """The repository without its history, in a folder; with what Python has compiled of it, which saves seconds."""
    for name in FOLDERS:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("conformance"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


def run(folder: Path, *arguments: str) -> str:
    """What `python` says in a copy; it must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commands(folder: Path, *lines: str, code: str = "") -> list[str]:
    """What `x1` prints in a copy for each line of arguments; all in one process, after some code."""
    calls = "\n".join(f"done = x1({line.split()!r}, Path()); assert done.returncode == 0, done.stderr; "
                      "print(json.dumps(done.stdout + done.stderr))" for line in lines)  # fmt: skip
    head = "import json\nfrom pathlib import Path\nfrom tests.command_line import x1\n"
    return [json.loads(line) for line in run(folder, "-c", f"{code}\n{head}{calls}").splitlines()]


def changed(folder: Path) -> set[str]:
    """The files of a copy that are new or say something else."""
    found: set[str] = set()
    for name in FOLDERS:
        for path in (folder / name).rglob("*"):
            place = path.relative_to(folder)
            ours = REPOSITORY / place
            if path.is_file() and "__pycache__" not in place.parts and not (
                ours.is_file() and ours.read_bytes() == path.read_bytes()
            ):  # fmt: skip
                found.add(str(place))
    return found


def blocks(page: str, language: str) -> dict[str, str]:
    """The pieces of code of a page that begin with a comment on the file they belong to, by that file."""
    text = (REPOSITORY / "docs" / page).read_text(encoding="utf-8")
    pieces = re.findall(rf"```{language}\n# (?:at the end of |in )?(\S+)\n(.*?)```", text, re.DOTALL)
    return dict(pieces)
