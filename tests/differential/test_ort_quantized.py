"""Models that ONNX Runtime's quantizer has written compile with their own scales, and equal ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import pytest

import compiler.ops  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.rules.importing import ONNX_OPERATORS
from isa.support.diagnostics import X1Error
from tests.ort_quantized import SHAPE, Variant, open_results, variants, write
from x1 import api
from x1.lab.verification import verify

SUPPORTED: Final = {name for _, name in ONNX_OPERATORS}
"""Those that docs/operators.md lists."""
MOST_REFUSED: Final = 0.03


def outcome(variant: Variant, folder: Path) -> tuple[bool, str]:
    """Whether a model leaves nothing open, and why it is refused, if it is; it may not differ.

    One that leaves a result open is calibrated, one that does not is not.
    """
    path = write(variant, folder)
    closed = not open_results(path, SUPPORTED)
    samples = [{"x": np.random.default_rng(9).standard_normal(SHAPE).astype(np.float32)}]
    try:
        network = api.load_network(path)
        if not closed and network.quantized is None:
            network = api.quantize(network, samples)
        result = verify(network, api.compile(network, search=1), samples)
    except X1Error as error:
        return closed, str(error)
    assert result.succeeded, (str(variant), result.first_divergence)
    assert any(t.comparable for t in result.tensors), str(variant)
    return closed, ""


@pytest.mark.parametrize(
    "chosen", [slice(0, 60), pytest.param(slice(60, None), marks=pytest.mark.nightly)], ids=["day", "night"]
)
def test_models_of_onnx_runtimes_quantizer_compile_without_calibration(chosen: slice, tmp_path: Path) -> None:
    every = variants()[chosen]
    outcomes = {str(v): outcome(v, tmp_path) for v in every}
    closed = [why for is_closed, why in outcomes.values() if is_closed]
    refused = {name: why for name, (_, why) in outcomes.items() if why}
    assert len(closed) >= len(every) / 3, "most leave nothing open"
    assert sum(map(bool, closed)) <= MOST_REFUSED * len(closed), refused
    assert all("the zero points of the channels differ" in why for why in refused.values()), refused
