"""Classifiers of the usual sizes, their weights random: every tensor equals ONNX Runtime's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from x1 import api
from x1.lab.verification import verify

NETS = ["resnet18", "resnet50", "mobilenetv2", "squeezenet1_1", "inception_v3", "vgg16"]


def random_network(assets: Path, folder: Path, name: str) -> api.Model:
    """The network of that name, made by the tool of the assets."""
    place = folder / f"{name}.onnx"
    tool = str(assets / "tools" / "random_net.py")
    subprocess.run([sys.executable, tool, name, str(place)], check=True, capture_output=True)
    return api.load_network(place)


@pytest.mark.nightly
@pytest.mark.parametrize("name", NETS)
def test_random_weights_give_the_same_bits_in_every_tensor(assets: Path, tmp_path: Path, name: str) -> None:
    network = random_network(assets, tmp_path, name)
    ((given, shape),) = network.input_shapes.items()
    generator = np.random.default_rng(4)
    samples = [{given: generator.standard_normal(shape).astype(np.float32)} for _ in range(3)]
    quantized = api.quantize(network, samples[:2])
    result = verify(quantized, api.compile(quantized, "edge32"), samples[2:])
    assert result.mismatches == 0, result.first_divergence
    assert all(t.comparable for t in result.tensors)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["mobilenetv2", "squeezenet1_1"])
def test_their_qdq_form_gives_onnx_runtimes_bits_too(assets: Path, tmp_path: Path, name: str) -> None:
    network = random_network(assets, tmp_path, name)
    ((given, shape),) = network.input_shapes.items()
    samples = [{given: np.random.default_rng(4).standard_normal(shape).astype(np.float32)}]
    api.quantize(network, samples).save_onnx(tmp_path / "q.onnx", "qdq")
    again = api.load_network(tmp_path / "q.onnx")
    assert verify(again, api.compile(again), samples).mismatches == 0
