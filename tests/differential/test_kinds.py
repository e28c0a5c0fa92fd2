"""Every kind of model that people bring: compiled, and equal to ONNX Runtime in every tensor, the import too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tests.kinds_of_windows  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from tests.kinds import KINDS
from tests.models import assert_equal_to_onnx_runtime, samples, save, verified

DAY, NIGHT = range(4), range(4, 24)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seeds", [DAY, pytest.param(NIGHT, marks=pytest.mark.nightly)], ids=["day", "night"])
def test_a_kind_equals_onnx_runtime(name: str, seeds: range, tmp_path: Path) -> None:
    for seed in seeds:
        sort = KINDS[name](np.random.default_rng([seed, len(name)]))
        path = save(sort.made, tmp_path, f"{seed}.onnx")
        data = samples(sort.made, 2, seed, sort.shapes)
        spread = {k: (v * sort.spread).astype(v.dtype) if v.dtype.kind == "f" else v for k, v in data.items()}
        shapes = [w for k, s in sort.shapes.items() for w in ("--shape", f"{k}={','.join(map(str, s))}")]
        body = verified(path, tmp_path, spread, *shapes, calibrate=sort.calibrate)
        assert_equal_to_onnx_runtime(body, comparable=sort.comparable)
