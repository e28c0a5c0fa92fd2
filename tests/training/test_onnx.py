"""Training of ONNX networks: branches, residual blocks, slopes; weights that stay give the source's outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import x1
from isa.support.diagnostics import X1Error
from tests.models import model, node
from x1.lab.trained import compare_trained

Array = NDArray[Any]
Nodes = list[onnx.NodeProto]
COUNT, SIDE = 8, 12
RANDOM = np.random.default_rng(0)
LABELS = np.arange(COUNT) % 3


def drawn(*shape: int) -> Array:
    return (RANDOM.standard_normal(shape) * 0.3).astype(np.float32)


def conv(x: str, y: str, weights: str, **options: Any) -> onnx.NodeProto:
    return node("Conv", f"{x} {weights} {weights}b", y, **options)


NORMALIZED = "a normalization"
SAME = {"pads": [1, 1, 1, 1]}
HALF = {"strides": [2, 2]}
BODIES: dict[str, tuple[int, Nodes, dict[str, Array]]] = {
    "two convolutions of the input": (
        1,
        [conv("x", "a", "w", **SAME), conv("x", "c", "v", **SAME), node("Add", "a c", "s")],
        {"w": drawn(4, 1, 3, 3), "wb": drawn(4), "v": drawn(4, 1, 3, 3), "vb": drawn(4)},
    ),
    "a residual block that halves": (
        2,
        [
            conv("x", "a0", "w", **SAME),
            node("Relu", "a0", "a"),
            conv("a", "c", "v", **SAME, **HALF),
            conv("a", "d", "u", **HALF),
            node("Add", "c d", "e"),
            node("Relu", "e", "s"),
        ],
        {"w": drawn(4, 2, 3, 3), "wb": drawn(4), "v": drawn(6, 4, 3, 3), "vb": drawn(6),
         "u": drawn(6, 4, 1, 1), "ub": drawn(6)},
    ),
    "slopes of channels": (
        1,
        [conv("x", "a", "w", **HALF), node("PRelu", "a p", "s")],
        {"w": drawn(4, 1, 3, 3), "wb": drawn(4), "p": np.abs(drawn(4, 1, 1))},
    ),
    "one slope": (
        1,
        [conv("x", "a", "w", **HALF), node("PRelu", "a p", "s")],
        {"w": drawn(4, 1, 3, 3), "wb": drawn(4), "p": np.full(1, 0.25, np.float32)},
    ),
    "everything else that turns": (
        1,
        [
            conv("x", "a", "w", **SAME),
            node("Dropout", "a", "b"),
            node("Pad", "b p", "c"),
            node("AveragePool", "c", "e", kernel_shape=[2, 2], strides=[2, 2]),
            node("MaxPool", "c", "f", kernel_shape=[2, 2], strides=[2, 2]),
            node("Concat", "e f", "k", axis=1),
            node("Resize", "k - r", "m", mode="nearest", coordinate_transformation_mode="asymmetric",
                 nearest_mode="floor"),
            conv("m", "n", "v", group=4),
            node("LeakyRelu", "n", "o"),
            node("HardSwish", "o", "s"),
        ],
        {"w": drawn(4, 1, 3, 3), "wb": drawn(4), "p": np.array([0, 0, 1, 0, 0, 0, 1, 2]), "r": np.array([1, 1, 2, 2], np.float32),
         "v": drawn(4, 2, 3, 3), "vb": drawn(4)},
    ),
    NORMALIZED: (
        1,
        [conv("x", "a", "w", **SAME), node("BatchNormalization", "a g h i j", "s")],
        {"w": drawn(4, 1, 3, 3), "wb": drawn(4), "g": 1 + drawn(4), "h": drawn(4), "i": drawn(4),
         "j": 1 + np.abs(drawn(4))},
    ),
    "a padded input": (
        3,
        [node("Pad", "x p", "q"), conv("q", "s", "w", **HALF)],
        {"w": drawn(4, 3, 3, 3), "wb": drawn(4), "p": np.array([0, 0, 1, 0, 0, 0, 0, 1])},
    ),
}  # fmt: skip


BY_DAY = ("a residual block that halves", "everything else that turns")


def network(body: str) -> tuple[onnx.ModelProto, Array]:
    """A network of a body and a dense layer, and samples for it."""
    channels, nodes, constants = BODIES[body]
    given = model([*nodes, node("GlobalAveragePool", "s", "mean"), node("Flatten", "mean", "flat"),
                   node("Gemm", "flat z", "l"), node("Softmax", "l", "y", axis=-1)],
                  {"x": (1, channels, SIDE, SIDE)}, "y",
                  {**constants, "z": drawn(6 if "u" in constants else 4, 3)})  # fmt: skip
    x = np.random.default_rng(1).uniform(0, 1, (COUNT, channels, SIDE, SIDE)).astype(np.float32)
    return given, x


def outputs(given: onnx.ModelProto, x: Array) -> Array:
    """What ONNX Runtime computes, sample by sample."""
    ort: Any = pytest.importorskip("onnxruntime")
    session = ort.InferenceSession(given.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (i.name for i in session.get_inputs())
    return np.concatenate([session.run(None, {name: one[None]})[0] for one in x])


def at_night(bodies: Iterable[str]) -> list[Any]:
    """The bodies, most of them for the long suite."""
    return [body if body in BY_DAY else pytest.param(body, marks=pytest.mark.nightly) for body in bodies]


@pytest.mark.parametrize("body", at_night(body for body in BODIES if body != NORMALIZED))
def test_a_rate_of_zero_gives_back_the_network(body: str) -> None:
    given, x = network(body)
    still = {"name": "sgd", "learning_rate": 0.0}
    trained = x1.train(given, x, LABELS, epochs=1, batch_size=4, optimizer=still, verbose=0)
    np.testing.assert_allclose(outputs(trained.onnx(), x), outputs(given, x), atol=1e-6)


@pytest.mark.parametrize("body", at_night(BODIES))
def test_a_trained_network_is_that_of_onnx_runtime_in_every_tensor(body: str) -> None:
    given, x = network(body)
    moving = {"name": "sgd", "learning_rate": 0.5}
    trained = x1.train(given, x, LABELS, epochs=1, batch_size=4, optimizer=moving, verbose=0)
    assert compare_trained(trained, x).succeeded
    moved = outputs(trained.onnx(), x)
    assert np.abs(moved - outputs(given, x)).max() > 1e-3


def test_what_training_has_written_is_trained_again() -> None:
    given, x = network("slopes of channels")
    written = x1.train(given, x, LABELS, epochs=1, batch_size=4, verbose=0).onnx()
    still = {"name": "sgd", "learning_rate": 0.0}
    again = x1.train(written, x, LABELS, epochs=1, batch_size=4, optimizer=still, verbose=0)
    np.testing.assert_allclose(outputs(again.onnx(), x), outputs(written, x), atol=1e-6)


def test_an_open_number_of_samples_needs_no_shape() -> None:
    given, x = network("slopes of channels")
    given.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    trained = x1.train(given, x, LABELS, epochs=1, batch_size=4)
    assert trained.input_shape == (1, SIDE, SIDE)


@pytest.mark.parametrize("kind", ["split", "transposed", "shared"])
def test_what_no_step_computes_is_refused_by_name(kind: str, golden: Any) -> None:
    nodes = {
        "split": [
            conv("x", "a", "w"),
            node("Split", "a", "c d", axis=1, num_outputs=2),
            node("Add", "c d", "s"),
        ],
        "transposed": [conv("x", "a", "w"), node("ConvTranspose", "a t", "s", strides=[2, 2])],
        "shared": [conv("x", "a", "w"), conv("x", "c", "w"), node("Add", "a c", "s")],
    }[kind]
    constants = {
        "w": drawn(4, 1, 3, 3),
        "wb": drawn(4),
        "t": drawn(4, 4, 2, 2),
        "z": drawn(2 if kind == "split" else 4, 3),
    }
    given = model(
        [
            *nodes,
            node("GlobalAveragePool", "s", "m"),
            node("Flatten", "m", "f"),
            node("Gemm", "f z", "l"),
            node("Softmax", "l", "y", axis=-1),
        ],
        {"x": (1, 1, SIDE, SIDE)},
        "y",
        constants,
    )
    with pytest.raises(X1Error) as caught:
        x1.train(
            given, np.zeros((COUNT, 1, SIDE, SIDE), np.float32), LABELS, epochs=1, batch_size=4, verbose=0
        )
    golden(
        f"training/refused/onnx-{kind}.txt", "\n".join(d.render() for d in caught.value.diagnostics) + "\n"
    )
