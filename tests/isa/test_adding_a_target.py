"""What docs/adding-a-target.md shows, done in a copy: one file and the generated page."""

from __future__ import annotations

from pathlib import Path

from tests.copies import blocks, changed, commands, copied, run

NETWORK = """model small
input image: float32[1, 40, 70, 3]
a = ReLU(1)(image)
b = MaxPooling2D(2)(a)
output b
"""
GOLDEN_WITH_LISTS = "unknown_target or every_mistake_of_a_text"


def test_a_target_is_one_file_and_the_generated_page(tmp_path: Path) -> None:
    copied(tmp_path)
    ((place, text),) = blocks("adding-a-target.md", "toml").items()
    (tmp_path / place).write_text(text, encoding="utf-8")
    run(tmp_path, "-m", "isa.manual", "docs/isa")
    assert changed(tmp_path) == {place, "docs/isa/targets.md"}
    assert "| edge24 |" in (tmp_path / "docs" / "isa" / "targets.md").read_text(encoding="utf-8")

    (tmp_path / "net.net").write_text(NETWORK, encoding="utf-8")
    made = "import numpy; numpy.save('x.npy', numpy.random.rand(1, 40, 70, 3).astype('f'))"
    verify = "verify net.net --calibrate random:2 --target edge24 --input @x.npy"
    (shown,) = commands(tmp_path, verify, code=made)
    assert "0 mismatches in every tensor of 1 samples" in shown
    tests = ("tests/isa/test_assembly.py", "tests/e2e/test_wrong_input.py")
    run(tmp_path, "-m", "pytest", "-q", "-n0", *tests, "-k", GOLDEN_WITH_LISTS)
