"""Small models that once failed, each of a kind of its own: compiled, and equal to ONNX Runtime in every tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import onnx
import pytest

from tests.models import assert_equal_to_onnx_runtime, samples, verified

library: Any = onnx
CASES: Final = Path(__file__).resolve().parents[1] / "cases"
SHAPES: Final[Mapping[str, Mapping[str, Sequence[int]]]] = {"paddle_minus_one": {"x": (2, 2, 4, 4)}}
OPEN: Final = ("ortq_convt.qop_u8s8_pc", "ortq_gelu_div.qdq_u8s8_pc", "weight_only_int8")
"""Quantized models that leave a result open: calibration finds its scale."""
NOT_COMPARED: Final = {
    "gap_range": "ONNX Runtime refuses the range at run time",
    "qdq_split_unused": "ONNX Runtime dies of the unused output",
    "add_scalar_opset6": "ONNX Runtime has no Add of opset 6",
}


@pytest.mark.parametrize("name", sorted(p.stem for p in CASES.glob("*.onnx")))
def test_a_case_equals_onnx_runtime(name: str, tmp_path: Path) -> None:
    path = CASES / f"{name}.onnx"
    loaded: Any = library.load(str(path))
    shapes = SHAPES.get(name, {})
    options = [word for key, s in shapes.items() for word in ("--shape", f"{key}={','.join(map(str, s))}")]
    recorded = CASES / f"{name}.npz"
    data = recorded if recorded.exists() else samples(loaded, 3, shapes=shapes)
    calibrate = True if name in OPEN else None
    body = verified(path, tmp_path, data, *options, calibrate=calibrate)
    assert_equal_to_onnx_runtime(body, compared=0.5 if name in NOT_COMPARED else 0.95)
    assert bool(body["oracle"]["failures"]) == (name in NOT_COMPARED and name != "add_scalar_opset6")
