"""What docs/adding-an-operator.md shows, done in a copy: one file, and everything else follows."""

from __future__ import annotations

from pathlib import Path

from tests.copies import blocks, changed, commands, copied, run

NETWORK = """model mirror
input image: float32[1, 5, 70, 3]
a = Flip(2)(image)
b = Flip(3)(a)
c = MaxPooling2D(2)(b)
d = Flip(1)(c)
output d
"""


def test_an_operator_is_one_file_and_the_generated_page(tmp_path: Path) -> None:
    copied(tmp_path)
    ((place, code),) = blocks("adding-an-operator.md", "python").items()
    (tmp_path / place).write_text(code, encoding="utf-8")
    run(tmp_path, "-m", "compiler.manual", "docs")
    assert changed(tmp_path) == {"compiler/ops/flip.py", "docs/operators.md"}
    assert "| Flip | Flip(axis). |" in (tmp_path / "docs" / "operators.md").read_text(encoding="utf-8")

    (tmp_path / "net.net").write_text(NETWORK, encoding="utf-8")
    verify = "verify net.net --calibrate random:2 --input @x.npy --target"
    made = "import numpy; numpy.save('x.npy', numpy.random.rand(3, 5, 70, 3).astype('f'))"
    dump = "compile net.net --calibrate random:1 --emit q -o again.x1ir"
    shown = commands(
        tmp_path, f"{verify} edge32", f"{verify} tiny8", dump, "compile again.x1ir -o again.x1", code=made
    )
    assert all("0 mismatches in every tensor of 3 samples" in text for text in shown[:2])
