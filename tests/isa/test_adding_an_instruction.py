"""What docs/adding-an-instruction.md shows, done in a copy: one class, and everything else follows."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from tests.copies import REPOSITORY, changed, copied, run

PAGE = (REPOSITORY / "docs" / "adding-an-instruction.md").read_text(encoding="utf-8")
USE = """
import numpy as np
from hypothesis import given, settings
from isa.assembly.assembler import assemble, read_instruction
from isa.assembly.disassembler import disassemble
from isa.assembly.text import format_instruction
from isa.checker import check
from isa.encoding import decode, encode
from runtime.executors.interleaved import InterleavedExecutor
from runtime.session import ProgramSession
from tests.strategies import instructions

text = (".target tiny8\\n.tensor in a int8 [1, 8] R2\\n.tensor out b int8 [1, 8] R3\\nld spm 0, R2, n=8 signal(0)\\n"
        "vabs 64 <- 0, n=8 wait(0) signal(1)\\nst spm 64, R3, n=8 wait(1)\\nhalt")
program = assemble(text).program
instr = program.instructions[1]
assert decode(encode(instr)) == instr

@given(instructions("vabs"))
@settings(max_examples=40, derandomize=True, database=None)
def both_ways(instr):
    assert decode(encode(instr)) == instr
    assert read_instruction(format_instruction(instr)) == instr

both_ways()
assert "vabs dst=64, n=8 wait(0) signal(1)" in disassemble(program).text
assert not check(program).violations
assert check(assemble(text.replace("wait(0) ", "").replace("n=8 signal(0)", "n=8")).program).violations
a = np.array([[-128, -5, 0, 5, 127, -1, 1, -127]], np.int8)
assert ProgramSession(program).run(None, {"a": a})[0].tolist() == [[127, 5, 0, 5, 127, 1, 1, 127]]
assert ProgramSession(program).execute({"a": a}, executor=InterleavedExecutor(3)).outputs["b"].tolist() == [[127, 5, 0, 5, 127, 1, 1, 127]]
"""


def test_an_instruction_is_one_class_its_golden_lines_and_the_generated_pages(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    copied(tmp_path)
    module = tmp_path / "isa" / "instructions" / "vector.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n\n" + code[1], encoding="utf-8")
    golden = tmp_path / "tests" / "golden" / "isa" / "encoding.txt"
    before = golden.read_text(encoding="utf-8").splitlines()
    run(
        tmp_path, "-m", "pytest", "-q", "-n0", "tests/isa/test_encoding.py", "-k", "pinned", "--update-golden"
    )
    run(tmp_path, "-m", "isa.manual", "docs/isa")
    chosen = "pinned or without_overlap or engine_stands"
    run(tmp_path, "-m", "pytest", "-q", "-n0", "tests/isa/test_encoding.py", "-k", chosen)
    pages = {f"docs/isa/{name}.md" for name in ("README", "encoding", "vx")}
    assert changed(tmp_path) == {"isa/instructions/vector.py", "tests/golden/isa/encoding.txt", *pages}
    after = golden.read_text(encoding="utf-8").splitlines()
    lines = [line for line in difflib.ndiff(before, after) if line[0] != " "]
    assert [line[0] for line in lines] == ["+"] * 4
    assert lines[0] == "+ 0x94 vabs (VX)"
    assert "## vabs" in (tmp_path / "docs" / "isa" / "vx.md").read_text(encoding="utf-8")
    run(tmp_path, "-c", USE)
