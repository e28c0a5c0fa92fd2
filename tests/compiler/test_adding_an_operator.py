"""What docs/adding-an-operator.md shows, done in a copy: two pieces of code, and everything else follows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "adding-an-operator.md").read_text(encoding="utf-8")
NETWORK = """model mirror
input image: float32[1, 5, 70, 3]
a = Flip(2)(image)
b = Flip(3)(a)
c = MaxPooling2D(2)(b)
d = Flip(1)(c)
output d
"""


def run(folder: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_operator_is_one_file_and_its_tiles(tmp_path: Path) -> None:
    for name in ("isa", "runtime", "compiler", "x1", "docs"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    operator, tiles = re.findall(r"```python\n# [^\n]*\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "compiler" / "ops" / "flip.py").write_text(operator, encoding="utf-8")
    names = tmp_path / "compiler" / "ops" / "__init__.py"
    text = names.read_text(encoding="utf-8")
    text = text.replace("    conv_transpose,\n", "    conv_transpose,\n    flip,\n", 1)
    names.write_text(text.replace('    "conv_transpose",\n', '    "conv_transpose",\n    "flip",\n', 1))
    moves = tmp_path / "compiler" / "schedule" / "tiles" / "moves.py"
    text = moves.read_text(encoding="utf-8")
    imported = "from compiler.ops.concat import QConcat\n"
    assert imported in text
    text = text.replace(imported, imported + "from compiler.ops.flip import Flip\n")
    moves.write_text(f"{text}\n\n{tiles}", encoding="utf-8")

    (tmp_path / "net.net").write_text(NETWORK, encoding="utf-8")
    for target in ("edge32", "tiny8"):
        options = ["--calibrate", "random:2", "--target", target]
        run(tmp_path, "-c", "import numpy; numpy.save('x.npy', numpy.random.rand(3, 5, 70, 3).astype('f'))")
        shown = run(tmp_path, "-m", "x1", "verify", "net.net", *options, "--input", "@x.npy")
        assert "0 mismatches in every tensor of 3 samples" in shown
    run(tmp_path, "-m", "compiler.manual", "docs")
    assert "| Flip | Flip(axis). |" in (tmp_path / "docs" / "operators.md").read_text(encoding="utf-8")
    dump = run(tmp_path, "-m", "x1", "compile", "net.net", "--calibrate", "random:1", "--emit", "q")
    (tmp_path / "again.x1ir").write_text(dump, encoding="utf-8")
    run(tmp_path, "-m", "x1", "compile", "again.x1ir", "-o", "again.x1")
