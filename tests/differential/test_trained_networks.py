"""Trained digit networks: every tensor equal to ONNX Runtime's, the same bytes on every machine."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from x1 import api
from x1.lab.verification import verify
from x1.samples import sample_folder
from x1.session import Session

TARGETS = ["edge16", "edge32", "edge64", "tiny8"]
NETWORKS = {
    "seed_mnist_nchw.onnx": (False, 0.0, 1.0),
    "seed_mnist_nhwc_keraslike.onnx": (True, 0.0, 1.0),
    "ccexam_mnist.onnx": (False, 0.1307, 0.3081),
    "samples/mnist": (True, 0.0, 1.0),
}


def digits(assets: Path, name: str, split: str, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Preprocessed digits for a network, and their labels."""
    nhwc, mean, deviation = NETWORKS[name]
    with np.load(assets / "data" / "mnist.npz") as data:
        pixels, labels = data[f"x_{split}"][:count], data[f"y_{split}"][:count]
    x = (pixels.astype(np.float32) / np.float32(255) - np.float32(mean)) / np.float32(deviation)
    return (x[..., None] if nhwc else x[:, None]), labels.astype(np.int64)


@cache
def network(assets: Path, name: str) -> tuple[api.Model, str]:
    """The network quantized on training digits, and its input's name."""
    place = sample_folder("mnist") / "mnist.net" if name == "samples/mnist" else assets / "models" / name
    loaded = api.load_network(place)
    (given,) = loaded.input_shapes
    images, _ = digits(assets, name, "train", 100)
    return api.quantize(loaded, [{given: image[None]} for image in images]), given


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_equals_onnx_runtimes_and_every_machine_gives_the_same_bytes(
    assets: Path, name: str
) -> None:
    model, given = network(assets, name)
    images, _ = digits(assets, name, "test", 4)
    samples = [{given: image[None]} for image in images]
    outputs: set[bytes] = set()
    for target in TARGETS:
        binary = api.compile(model, target, search=1)
        result = verify(model, binary, samples)
        assert result.mismatches == 0, (target, result.first_divergence)
        session = Session(binary)
        outputs.add(b"".join(session.run(None, sample)[0].tobytes() for sample in samples))
    assert len(outputs) == 1


@pytest.mark.nightly
@pytest.mark.parametrize("name", NETWORKS)
def test_accuracy_is_kept_on_all_test_digits(assets: Path, name: str) -> None:
    from x1.lab.evaluation import evaluate

    model, given = network(assets, name)
    images, labels = digits(assets, name, "test", 10_000)
    result = evaluate(model, api.compile(model), ({given: image[None]} for image in images), labels)
    assert abs(result.float_top1 - result.binary_top1) <= 0.001


def test_a_tensor_that_never_reaches_dram_is_compared_too(assets: Path) -> None:
    model, given = network(assets, "seed_mnist_nchw.onnx")
    binary = api.compile(model)
    assert binary.program.arena_bytes == 0, "every intermediate tensor stays in the scratchpad"
    images, _ = digits(assets, "seed_mnist_nchw.onnx", "test", 1)
    result = verify(model, binary, [{given: images[:1]}])
    assert {"/n/Relu_output_0", "/n/MaxPool_output_0"} <= {t.name for t in result.tensors}
    assert result.mismatches == 0


def test_a_wrong_multiplier_in_the_binary_is_found_and_named(assets: Path) -> None:
    """The comparison itself must be able to fail: one parameter byte of the shipped binary is changed."""
    from isa.support.records import replace

    model, given = network(assets, "seed_mnist_nchw.onnx")
    binary = api.compile(model)
    params = bytearray(binary.program.params)
    params[6] ^= 0x40  # a mantissa bit of the first channel's multiplier
    broken = replace(binary, program=replace(binary.program, params=bytes(params)))
    images, _ = digits(assets, "seed_mnist_nchw.onnx", "test", 2)
    result = verify(model, broken, [{given: image[None]} for image in images])
    assert result.first_divergence == "/n/Relu_output_0"
    assert result.mismatches > 0


FURTHER: dict[str, dict[str, tuple[int, ...]]] = {
    "efficientnet_lite0_clean.onnx": {},
    "squeezenet1_1_ndf_imagenet_227.onnx": {},
    "blazeface_front_128.onnx": {},
    "mtcnn_pnet.onnx": {"input_1": (1, 60, 52, 3)},
    "mtcnn_rnet.onnx": {"input_2": (1, 24, 24, 3)},
    "mtcnn_onet.onnx": {"input_3": (1, 48, 48, 3)},
}
LONG = "efficientnet_lite0_clean.onnx"
"""By day its quantized form is compared."""
LARGE = 100 * 100
"""Inputs of more pixels are left to the larger machine."""


@pytest.mark.parametrize(
    "name", [*(name for name in FURTHER if name != LONG), pytest.param(LONG, marks=pytest.mark.nightly)]
)
def test_networks_of_others_have_onnx_runtimes_bits_in_every_tensor(assets: Path, name: str) -> None:
    loaded = api.load_network(assets / "models" / name, FURTHER[name])
    ((given, shape),) = loaded.input_shapes.items()
    generator = np.random.default_rng(1)
    samples = [{given: generator.standard_normal(shape).astype(np.float32)} for _ in range(3)]
    model = api.quantize(loaded, samples[:2])
    for target in ("edge32", "tiny8") if np.prod(shape) < 3 * LARGE else ("edge32",):
        result = verify(model, api.compile(model, target, search=1), samples[2:])
        assert result.mismatches == 0, (target, result.first_divergence)
        assert all(t.comparable for t in result.tensors)
