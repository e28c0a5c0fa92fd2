"""What docs/adding-an-instruction.md shows, done in a copy: one class, and everything else follows."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "adding-an-instruction.md").read_text(encoding="utf-8")
USE = """
import numpy as np
from isa.assembly.assembler import assemble
from isa.assembly.disassembler import disassemble
from isa.checker import check
from isa.encoding import decode, encode
from runtime.executors.interleaved import InterleavedExecutor
from runtime.session import Session

text = (".target tiny8\\n.tensor in a int8 [1, 8] R2\\n.tensor out b int8 [1, 8] R3\\nld spm 0, R2, n=8 signal(0)\\n"
        "vabs 64 <- 0, n=8 wait(0) signal(1)\\nst spm 64, R3, n=8 wait(1)\\nhalt")
program = assemble(text).program
instr = program.instructions[1]
assert decode(encode(instr)) == instr
assert "vabs dst=64, n=8 wait(0) signal(1)" in disassemble(program).text
assert not check(program).violations
assert check(assemble(text.replace("wait(0) ", "").replace("n=8 signal(0)", "n=8")).program).violations
a = np.array([[-128, -5, 0, 5, 127, -1, 1, -127]], np.int8)
assert Session(program).run(None, {"a": a})[0].tolist() == [[127, 5, 0, 5, 127, 1, 1, 127]]
assert Session(program).execute({"a": a}, executor=InterleavedExecutor(3)).outputs["b"].tolist() == [[127, 5, 0, 5, 127, 1, 1, 127]]
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for name in ("isa", "runtime", "compiler", "x1", "tests", "docs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(REPOSITORY / name, tmp_path / name)
    return tmp_path


def run(folder: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_instruction_is_one_class_and_its_golden_lines(copy: Path) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    module = copy / "isa" / "instructions" / "vector.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n\n" + code[1], encoding="utf-8")
    golden = copy / "tests" / "golden" / "isa" / "encoding.txt"
    before = golden.read_text(encoding="utf-8").splitlines()
    run(copy, "-m", "pytest", "-q", "-n0", "tests/isa/test_encoding.py", "--update-golden")
    run(copy, "-m", "isa.manual", "docs/isa")
    run(copy, "-m", "pytest", "-q", "-n0", "tests/isa/test_encoding.py", "tests/isa/test_assembly.py")
    changed = [
        line
        for line in difflib.ndiff(before, golden.read_text(encoding="utf-8").splitlines())
        if line[0] != " "
    ]
    assert [line[0] for line in changed] == ["+"] * 4
    assert changed[0] == "+ 0x8a vabs (VX)"
    assert "## vabs" in (copy / "docs" / "isa" / "vx.md").read_text(encoding="utf-8")
    run(copy, "-c", USE)
