"""What docs/adding-a-pass.md shows, done in a copy: three files, and everything else follows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.copies import REPOSITORY, blocks, changed, commands, copied, run

NETWORK = """model twice
input x: float32[1, 4]
a = ReLU(6)(x)
b = ReLU(4)(a)
output b
"""
CASES = """== clamps in a row become one
{graph}-- becomes
== the clamp of a value that is returned too
{returned}-- stays
"""


def test_a_pass_is_three_files(tmp_path: Path) -> None:
    copied(tmp_path)
    ((place, code),) = blocks("adding-a-pass.md", "python").items()
    (tmp_path / place).write_text(code, encoding="utf-8")
    page = (REPOSITORY / "docs" / "adding-a-pass.md").read_text(encoding="utf-8")
    found = re.search(r"```diff\n# (\S+)\n-(.*\n)\+(.*\n)\+(.*\n)```", page)
    assert found is not None
    pipeline = tmp_path / found[1]
    text = pipeline.read_text(encoding="utf-8")
    assert text.count(found[2]) == 1
    assert found[2] == found[4]
    text = text.replace(found[2], found[3] + found[4])
    imported = "from compiler.passes.permute_on_host import PermuteOnHost\n"
    text = text.replace(imported, f"from compiler.passes.merge_clamps import MergeClamps\n{imported}")
    pipeline.write_text(text, encoding="utf-8")
    (tmp_path / "net.net").write_text(NETWORK, encoding="utf-8")
    (tmp_path / "kept.net").write_text(f"{NETWORK}output a\n", encoding="utf-8")
    until = "--stop-after fold-bias"
    texts = commands(tmp_path, f"compile net.net {until}", f"compile kept.net {until}")
    cases = tmp_path / "tests" / "golden" / "passes" / "cases" / "merge-clamps.txt"
    cases.write_text(CASES.format(graph=texts[0], returned=texts[1]), encoding="utf-8")
    only = ("-m", "pytest", "-q", "-n0", "tests/compiler/test_pass_cases.py", "-k", "merge-clamps or file")
    run(tmp_path, *only, "--update-golden")
    assert changed(tmp_path) == {place, found[1], "tests/golden/passes/cases/merge-clamps.txt"}
    after = cases.read_text(encoding="utf-8").partition("-- becomes")[2].partition("==")[0]
    assert after.count("nn.clamp") == 1
    assert "high=0x1.0p+2" in after
    made = "import numpy; numpy.save('x.npy', numpy.random.rand(3, 4).astype('f') * 12 - 2)"
    verify = "verify net.net --calibrate random:2 --input @x.npy"
    stopped, verified = commands(tmp_path, "compile net.net --stop-after merge-clamps", verify, code=made)
    assert stopped.count("nn.clamp") == 1
    assert "0 mismatches in every tensor of 3 samples" in verified
