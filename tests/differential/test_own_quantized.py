"""What `x1 quantize` writes is compiled again, in both forms, with its own scales and the same bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isa.support.diagnostics import X1Error
from tests.models import model, node, save
from tests.random_onnx import random_network
from x1 import api
from x1.lab.verification import verify
from x1.model import ONNX_FORMS

Refusals = list[str]


def compiled_again(path: Path, folder: Path, seed: int) -> Refusals:
    """Quantize a float network, compile what is written, and compare it; what is refused of it."""
    loaded = api.load_network(path)
    generator = np.random.default_rng(seed)
    shapes = loaded.input_shapes.items()
    samples = [{n: generator.standard_normal(s).astype(np.float32) for n, s in shapes} for _ in range(2)]
    quantized = api.quantize(loaded, samples)
    refused: Refusals = []
    for form in ONNX_FORMS:
        place = folder / f"q.{form}.onnx"
        quantized.save_onnx(place, form)
        try:
            again = api.load_network(place)
            result = verify(again, api.compile(again, search=1), samples[:1])
        except X1Error as error:
            refused.append(f"{path.name} as {form}: {error}")
            continue
        assert result.succeeded, (form, result.first_divergence)
        assert any(t.comparable for t in result.tensors)
    return refused


def test_a_batch_normalization_behind_a_clamp_comes_back(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = {name: generator.uniform(0.5, 2, 4).astype(np.float32) for name in ("b", "s", "h", "m", "v")}
    weights = generator.standard_normal((4, 3, 3, 3)).astype(np.float32)
    made = model(
        [node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("BatchNormalization", "r s h m v", "y")],
        {"x": (1, 3, 8, 8)}, "y", {"w": weights, **rows},
    )  # fmt: skip
    assert compiled_again(save(made, tmp_path), tmp_path, 0) == []


@pytest.mark.parametrize("seeds", [range(8), pytest.param(range(8, 300), marks=pytest.mark.nightly)], ids=str)
def test_random_networks_come_back_with_their_bits(seeds: range, tmp_path: Path) -> None:
    refused: Refusals = []
    compiled = 0
    for seed in seeds:
        made, _ = random_network(seed)
        path = save(made, tmp_path, f"{seed}.onnx")
        try:
            refused += compiled_again(path, tmp_path, seed)
        except X1Error:  # the float network itself is refused: other tests judge that
            continue
        compiled += 1
    assert refused == []
    assert compiled >= 0.9 * len(seeds)
