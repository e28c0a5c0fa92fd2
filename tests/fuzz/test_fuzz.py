"""Twenty thousand inputs of a fuzzer that watches which lines they reach: nothing but our own errors."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HARNESS = Path(__file__).with_name("harness.py")
RUNS = 20_000


@pytest.mark.nightly
@pytest.mark.parametrize(("target", "longest"), [("loader", 20_000), ("assembler", 1_000)])
def test_no_input_makes_the_fuzzer_stop(target: str, longest: int, tmp_path: Path) -> None:
    limits = [f"-runs={RUNS}", f"-max_len={longest}", "-seed=1", "-timeout=20", "-rss_limit_mb=0"]
    command = [sys.executable, str(HARNESS), target, *limits, str(tmp_path)]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    (count,) = re.findall(r"Done (\d+) runs", done.stderr)
    assert int(count) >= RUNS


@pytest.mark.nightly
def test_the_fuzzer_finds_a_check_that_is_left_out(tmp_path: Path) -> None:
    """In a copy of which the loader does not look whether a section's link exists."""
    root = HARNESS.parents[2]
    for name in ("isa", "tests/fuzz", "samples/asm"):
        shutil.copytree(root / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "isa" / "elf.py"
    text = module.read_text(encoding="utf-8")
    assert text.count("if link >= len(headers):") == 1
    module.write_text(text.replace("if link >= len(headers):", "if link < 0:"), encoding="utf-8")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    copy = tmp_path / "tests" / "fuzz" / HARNESS.name
    command = [sys.executable, str(copy), "loader", f"-runs={RUNS}", "-seed=1", str(corpus)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "IndexError" in done.stdout + done.stderr
