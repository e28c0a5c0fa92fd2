"""Wrong formulas, planted one at a time in isa/arithmetic.py: each makes the arithmetic tests fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

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


EACH = """
import sys
from pathlib import Path
import pytest
import isa.arithmetic

options = ["-qx", "-n0", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
codes = []
for path in sys.argv[1:]:
    exec(compile(Path(path).read_text(), "isa/arithmetic.py", "exec"), isa.arithmetic.__dict__)
    codes.append(int(pytest.main([*options, "tests/differential/test_arithmetic.py"])))
print("exit codes", *codes)
"""
"""Run the arithmetic tests once for each text of isa/arithmetic.py, all in one process."""


def exit_codes(sources: list[str], repository: Path, folder: Path) -> list[int]:
    """The exit code of the arithmetic tests with each text in place of isa/arithmetic.py."""
    paths: list[str] = []
    for number, source in enumerate(sources):
        path = folder / f"{number}.py"
        path.write_text(source, encoding="utf-8")
        paths.append(str(path))
    done = subprocess.run([sys.executable, "-c", EACH, *paths], cwd=repository, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(repository)}, check=False, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [int(code) for code in done.stdout.splitlines()[-1].split()[2:]]


def test_wrong_formulas_make_the_suite_fail_and_the_right_ones_pass(repository: Path, tmp_path: Path) -> None:
    source = (repository / "isa" / "arithmetic.py").read_text(encoding="utf-8")
    sources = [source]
    for right, wrong in PLANTED.values():
        assert source.count(right) == 1, "the formula to be replaced must stand in the source once"
        sources.append(source.replace(right, wrong))
    first, *planted, last = exit_codes([*sources, source], repository, tmp_path)
    assert (first, last) == (0, 0), "as the formulas stand, before and after"
    assert dict(zip(PLANTED, planted, strict=True)) == dict.fromkeys(PLANTED, 1)
