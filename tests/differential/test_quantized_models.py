"""Networks that ONNX Runtime quantized, compiled as they are: its recorded outputs, bit for bit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.models import model, node
from x1 import api
from x1.lab.oracle import multiplies_uint8_exactly
from x1.lab.verification import verify
from x1.session import Session

SMALL = ["seed_mnist_nchw.s8s8.qdq", "seed_mnist_nchw.s8s8.qoperator", "seed_mnist_nchw.u8s8.qoperator"]
LARGE = [f"{net}.s8s8.{form}" for net in ("efficientnet_lite0_clean", "squeezenet1_1_ndf_imagenet_227")
         for form in ("qdq", "qoperator")]  # fmt: skip


@cache
def network(folder: Path, name: str) -> api.Model:
    return api.load_network(folder / f"{name}.onnx")


@cache
def compiled(folder: Path, name: str, target: str) -> api.Binary:
    return api.compile(network(folder, name), target)


def golden(folder: Path, name: str) -> dict[str, NDArray[Any]]:
    with np.load(folder / f"{name}.golden.npz") as data:
        return {k: data[k] for k in data.files}


def compare(assets: Path, name: str, target: str, samples: int) -> None:
    """The binary's outputs are the recorded ones; its tensors are those that ONNX Runtime computes here."""
    folder = assets / "models" / "quantized"
    loaded, recorded = network(folder, name), golden(folder, name)
    binary = compiled(folder, name, target)
    (given,) = loaded.input_shapes
    images = [{given: x[None]} for x in recorded["inputs"][:samples]]
    session = Session(binary)
    got = np.concatenate([session.run(None, image)[0] for image in images])
    np.testing.assert_array_equal(got, recorded["output_0"][:samples])
    result = verify(loaded, binary, images)
    assert result.mismatches == 0, result.first_divergence
    assert "u8s8" in name or all(t.comparable for t in result.tensors)


@pytest.mark.parametrize("target", ["edge32", "tiny8"])
@pytest.mark.parametrize("name", SMALL)
def test_digits_give_the_recorded_bits(assets: Path, name: str, target: str) -> None:
    compare(assets, name, target, 4)


@pytest.mark.parametrize("name", LARGE[::3])
def test_photographs_give_the_recorded_bits(assets: Path, name: str) -> None:
    compare(assets, name, "edge32", 1)


@pytest.mark.nightly
@pytest.mark.parametrize("name", LARGE)
def test_all_photographs_give_the_recorded_bits(assets: Path, name: str) -> None:
    compare(assets, name, "edge32", 8)


def test_scales_of_the_model_are_not_touched(assets: Path) -> None:
    """Every scale and zero point of the compiled tensors stands in the file."""
    import onnx as onnx_package

    folder = assets / "models" / "quantized"
    onnx: Any = onnx_package
    proto: Any = onnx.load(folder / "squeezenet1_1_ndf_imagenet_227.s8s8.qoperator.onnx")
    constants = [onnx.numpy_helper.to_array(t) for t in proto.graph.initializer]
    scales = {float(v) for c in constants if c.dtype == np.float32 for v in c.ravel()}
    tensors = compiled(
        folder, "squeezenet1_1_ndf_imagenet_227.s8s8.qoperator", "edge32"
    ).program.operators.tensors
    assert len(tensors) > 60
    found = {float(np.uint32(t.scale_bits).view(np.float32)) for t in tensors if t.scale_bits is not None}
    assert found <= scales


def saturating() -> onnx.ModelProto:
    """A convolution of uint8 in QDQ form whose sums of two products are beyond 16 bits."""
    generator = np.random.default_rng(0)
    w = generator.choice(np.array([-127, 127], np.int8), (8, 8, 3, 3))
    nodes = [
        node("QuantizeLinear", "x one zero", "xq"),
        node("DequantizeLinear", "xq one zero", "xr"),
        node("DequantizeLinear", "w step none", "wr"),
        node("Conv", "xr wr", "c", pads=[1, 1, 1, 1]),
        node("QuantizeLinear", "c wide zero", "cq"),
        node("DequantizeLinear", "cq wide zero", "y"),
    ]
    constants = {"one": np.float32(1), "zero": np.uint8(128), "w": w, "step": np.float32(2**-7),
                 "none": np.int8(0), "wide": np.float32(32)}  # fmt: skip
    return model(nodes, {"x": (1, 8, 8, 8)}, "y", constants)


def test_products_that_saturate_without_vnni_are_no_mismatch() -> None:
    """They are marked as not comparable there, and compared everywhere else."""
    network = api.load_network(saturating())
    x = np.random.default_rng(1).choice(np.array([-128, 127], np.float32), (1, 8, 8, 8))
    result = verify(network, api.compile(network, search=1), [{"x": x}])
    assert result.succeeded
    exact = {t.name: t.comparable for t in result.tensors}
    assert exact["cq"] == multiplies_uint8_exactly()
