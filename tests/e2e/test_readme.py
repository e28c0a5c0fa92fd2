"""The README shows what the commands print."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SESSION = re.search(
    r"```\n(\$ cat .*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL
)
assert SESSION is not None
COMMANDS = [part.partition("\n")[::2] for part in SESSION[1].split("$ ")[1:]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sample, in which the commands follow one another."""
    return Path(
        shutil.copytree(REPOSITORY / "samples" / "mnist", tmp_path_factory.mktemp("readme") / "mnist")
    )


def test_every_command_prints_what_the_readme_shows(folder: Path) -> None:
    assert len(COMMANDS) == 5
    for command, shown in COMMANDS:
        words = shlex.split(command)
        if words[0] == "x1":
            words[:1] = [sys.executable, "-m", "x1"]
        done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
        printed = done.stdout + done.stderr
        pattern = "".join(
            "(?:.*\\n)*?" if line == "..." else re.escape(line) + "\\n" for line in shown.strip().splitlines()
        )
        assert re.fullmatch(pattern, printed.strip() + "\n"), f"$ {command}\n{printed}"
