"""ONNX files, layer texts and IR dumps with random damage: read, or refused with our own errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from compiler import driver
from compiler.frontend.load import load_model
from compiler.ir.printer import print_graph
from compiler.ir.stage import Stage
from isa.support.diagnostics import X1Error
from tests.networks import calibrated, random_graph, random_inputs
from x1.samples import sample_folder

Random = np.random.Generator
PIECES = (b"(", b")", b"[", b"]", b"{", b"}", b"-1", b"0", b"9" * 20, b"nan", b"1e999", b'"', b"\n", b",", b"=", b"\0",
          b"\xff", b"%1", b"@", b"Conv2D", b"None", b"True", b"f32", b"i8", b"layout")  # fmt: skip


def damaged(data: bytes, random: Random) -> bytes:
    """Bits flipped, bytes lost, pieces of the languages put in, parts repeated, the end cut off."""
    result = bytearray(data)
    for _ in range(int(random.choice([1, 1, 2, 4]))):
        place = int(random.integers(len(result) + 1))
        length = int(random.integers(1, 40))
        match int(random.choice(5, p=[0.3, 0.2, 0.3, 0.1, 0.1])):
            case 0 if place < len(result):
                result[place] ^= 1 << int(random.integers(8))
            case 1:
                del result[place : place + length]
            case 2:
                result[place : place + length // 6] = PIECES[int(random.integers(len(PIECES)))]
            case 3:
                result[place:place] = result[place : place + length]
            case _:
                del result[place:]
    return bytes(result)


@pytest.fixture
def models(assets: Path, tmp_path: Path) -> dict[str, bytes]:
    """Sound models by the name of the file that they are read from; the layer text's weights are there."""
    for file in sample_folder("mnist").glob("*.npz"):
        shutil.copy(file, tmp_path)
    graph = random_graph(3)
    quantized = calibrated(driver.prepare(graph.copy()), random_inputs(graph, 2))
    return {
        "a.onnx": (assets / "tools" / "mutated" / "control_valid.onnx").read_bytes(),
        "a.net": (sample_folder("mnist") / "mnist.net").read_bytes(),
        "a.x1ir": print_graph(driver.prepare(graph)).encode(),
        "q.x1ir": print_graph(quantized).encode(),
    }


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_damaged_models_raise_nothing_but_our_own_errors(
    models: dict[str, bytes], tmp_path: Path, count: int
) -> None:
    random = np.random.default_rng(21)
    refused = read = 0
    for name, data in models.items():
        place = tmp_path / name
        for _ in range(count):
            place.write_bytes(damaged(data, random))
            try:
                graph = load_model(place)
                if graph.stage is Stage.NN:
                    driver.prepare(graph)
                read += 1
            except X1Error as error:
                refused += bool(error.diagnostics)
    assert read + refused == count * len(models)
    assert refused > read > 0
