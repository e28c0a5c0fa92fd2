"""Wrong formulas, planted one at a time in isa/arithmetic.py: each makes the test that is named fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

PLANTED: Final = {
    "double product": (
        "test_requantization_is_qlinearconv",
        "v = f32(add_wrapping(acc, bias))\n    v *= f32(m)",
        "v = f32(add_wrapping(acc, bias).astype(np.float64) * f32(m).astype(np.float64))",
    ),
    "other order of the scales": (
        "test_requantization_is_qlinearconv",
        "return (f32(x_scale) * f32(w_scale)) / f32(y_scale)",
        "return f32(x_scale) * (f32(w_scale) / f32(y_scale))",
    ),
    "zero point before rounding": (
        "test_requantization_is_qlinearconv",
        "rounded = round_half_even(v).astype(np.int32)\n    if zero_point:\n        rounded += np.int32(zero_point)",
        "rounded = round_half_even(v + F32(zero_point)).astype(np.int32)",
    ),
    "half away from zero": (
        "test_requantization_is_qlinearconv",
        "return np.rint(v)",
        "return np.copysign(np.floor(np.abs(v) + F32(0.5)), v)",
    ),
    "saturating bias": (
        "test_bias_wraps_modulo_two_to_the_32",
        "return np.add(left, right).view(np.int32)",
        "return np.clip(np.add(a, b, dtype=np.int64), INT32_MIN, INT32_MAX).astype(np.int32)",
    ),
    "alpha multiplied last": (
        "test_requantization_is_qgemm",
        "return ((F32(alpha) * f32(a_scale)) * f32(b_scale)) / f32(y_scale)",
        "return (F32(alpha) * (f32(a_scale) * f32(b_scale))) / f32(y_scale)",
    ),
    "reciprocal in quantize": (
        "test_quantize_linear",
        "np.atleast_1d(f32(x) / f32(scale))",
        "np.atleast_1d(f32(x) * (F32(1) / f32(scale)))",
    ),
    "sum without fma": (
        "test_addition_is_qlinearadd",
        "return to_integer(fma(a, p0, fma(b, p1, p2)), low, high)",
        "return to_integer(f32(a) * F32(p0) + (f32(b) * F32(p1) + F32(p2)), low, high)",
    ),
    "zero point after rounding in multiply": (
        "test_multiplication_is_qlinearmul",
        "return to_integer(f32(product) * F32(ratio) + F32(zero_point), low, high)",
        "return np.clip(np.rint(f32(product) * F32(ratio)) + zero_point, low, high).astype(np.int32)",
    ),
    "average by reciprocal": (
        "test_a_mean_over_41_equal_values_is_exact",
        "(total / f32(count))",
        "(total * (F32(1) / f32(count)))",
    ),
    "softmax in float32": (
        "test_equal_probabilities_on_a_tie",
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
for path, names in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
    exec(compile(Path(path).read_text(), "isa/arithmetic.py", "exec"), isa.arithmetic.__dict__)
    tests = [f"tests/differential/test_arithmetic.py::{name}" for name in names.split()]
    codes.append(int(pytest.main([*options, *tests])))
print("exit codes", *codes)
"""
"""Run some arithmetic tests for each text of isa/arithmetic.py, all in one process."""


def exit_codes(runs: list[tuple[str, str]], repository: Path, folder: Path) -> list[int]:
    """The exit codes of tests, by name, with a text in place of isa/arithmetic.py."""
    arguments: list[str] = []
    for number, (source, names) in enumerate(runs):
        path = folder / f"{number}.py"
        path.write_text(source, encoding="utf-8")
        arguments += [str(path), names]
    done = subprocess.run([sys.executable, "-c", EACH, *arguments], cwd=repository, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(repository)}, check=False, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return [int(code) for code in done.stdout.splitlines()[-1].split()[2:]]


def test_wrong_formulas_make_the_test_named_fail_and_the_right_ones_pass(
    repository: Path, tmp_path: Path
) -> None:
    source = (repository / "isa" / "arithmetic.py").read_text(encoding="utf-8")
    every = " ".join(sorted({name for name, _, _ in PLANTED.values()}))
    runs = [(source, every)]
    for name, right, wrong in PLANTED.values():
        assert source.count(right) == 1, "the formula to be replaced must stand in the source once"
        runs.append((source.replace(right, wrong), name))
    first, *planted, last = exit_codes([*runs, (source, every)], repository, tmp_path)
    assert (first, last) == (0, 0), "as the formulas stand, before and after"
    assert dict(zip(PLANTED, planted, strict=True)) == dict.fromkeys(PLANTED, 1)
