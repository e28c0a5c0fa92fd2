"""Wrong formulas, planted one at a time in isa/arithmetic.py: each makes the arithmetic tests fail."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLANTED = {
    "double product": (
        "v = f32(add_wrapping(acc, bias))\n    v *= f32(m)",
        "v = f32(add_wrapping(acc, bias).astype(np.float64) * f32(m).astype(np.float64))",
    ),
    "other order of the scales": (
        "return (f32(x_scale) * f32(w_scale)) / f32(y_scale)",
        "return f32(x_scale) * (f32(w_scale) / f32(y_scale))",
    ),
    "zero point before rounding": (
        "rounded = round_half_even(v).astype(np.int32)\n    rounded += np.int32(zero_point)",
        "rounded = round_half_even(v + F32(zero_point)).astype(np.int32)",
    ),
    "half away from zero": (
        "return np.rint(v)",
        "return np.copysign(np.floor(np.abs(v) + F32(0.5)), v)",
    ),
    "saturating bias": (
        "return np.add(left, right).view(np.int32)",
        "return np.clip(np.add(a, b, dtype=np.int64), INT32_MIN, INT32_MAX).astype(np.int32)",
    ),
    "alpha multiplied last": (
        "return ((F32(alpha) * f32(a_scale)) * f32(b_scale)) / f32(y_scale)",
        "return (F32(alpha) * (f32(a_scale) * f32(b_scale))) / f32(y_scale)",
    ),
    "reciprocal in quantize": (
        "np.atleast_1d(f32(x) / f32(scale))",
        "np.atleast_1d(f32(x) * (F32(1) / f32(scale)))",
    ),
    "sum without fma": (
        "return to_integer(fma(a, p0, fma(b, p1, p2)), low, high)",
        "return to_integer(f32(a) * F32(p0) + (f32(b) * F32(p1) + F32(p2)), low, high)",
    ),
    "zero point after rounding in multiply": (
        "return to_integer(f32(product) * F32(ratio) + F32(zero_point), low, high)",
        "return np.clip(np.rint(f32(product) * F32(ratio)) + zero_point, low, high).astype(np.int32)",
    ),
    "average by reciprocal": (
        "(total / f32(count))",
        "(total * (F32(1) / f32(count)))",
    ),
    "softmax in float32": (
        "quotient = (entries.astype(np.float64) * np.float64(divisor)) / total[..., None].astype(np.float64)",
        "quotient = entries / total[..., None] * F32(divisor)",
    ),
}


def suite_of(source: str, repository: Path, folder: Path) -> int:
    """The exit code of the arithmetic tests with this text as isa/arithmetic.py."""
    for package in ("isa", "compiler", "runtime", "tests"):
        shutil.copytree(repository / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "isa" / "arithmetic.py").write_text(source, encoding="utf-8")
    options = ["-q", "-x", "-p", "no:cacheprovider", "--import-mode=importlib"]
    command = [sys.executable, "-m", "pytest", *options, "tests/differential/test_arithmetic.py"]
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.returncode


def test_the_formulas_as_they_stand_pass(repository: Path, tmp_path: Path) -> None:
    source = (repository / "isa" / "arithmetic.py").read_text(encoding="utf-8")
    assert suite_of(source, repository, tmp_path) == 0


@pytest.mark.parametrize("name", PLANTED)
def test_a_wrong_formula_makes_the_suite_fail(name: str, repository: Path, tmp_path: Path) -> None:
    source = (repository / "isa" / "arithmetic.py").read_text(encoding="utf-8")
    right, wrong = PLANTED[name]
    assert source.count(right) == 1, "the formula to be replaced must stand in the source once"
    assert suite_of(source.replace(right, wrong), repository, tmp_path) == 1
