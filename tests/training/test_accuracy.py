"""How well networks learn on the device and in float32: the same weights, batches and epochs, three seeds.

Each case trains for minutes; `python -m tests.training.test_accuracy NAME` prints its figures.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from isa.support.records import Frozen
from tests.training.twin import twin_of
from x1.keras.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling2D,
    Tensor,
)
from x1.keras.models import Model, Sequential
from x1.keras.optimizers import SGD, AdamW, RMSprop

Array = NDArray[Any]
SEEDS: Final = (0, 1, 2)
BATCH: Final = 32
LISTING_EPOCHS: Final = 10


def mission() -> Model:
    """The network of the first listing."""
    layers = [Conv2D(32, 3, activation="relu"), MaxPooling2D(), Flatten(), Dense(10, activation="softmax")]
    return Sequential([Input((28, 28, 1)), *layers])


def lenet() -> Model:
    """Two convolutions, three dense layers."""
    layers = [
        Conv2D(6, 5, padding="same", activation="relu"),
        MaxPooling2D(),
        Conv2D(16, 5, activation="relu"),
        MaxPooling2D(),
        Flatten(),
        Dense(120, activation="relu"),
        Dense(84, activation="relu"),
        Dense(10, activation="softmax"),
    ]
    return Sequential([Input((28, 28, 1)), *layers])


def residual(width: int = 8) -> Model:
    """Seven convolutions, each normalized; two blocks; a global average."""

    def block(z: Tensor, kernel: int, filters: int, stride: int = 1, *, relu: bool = True) -> Tensor:
        z = Conv2D(filters, kernel, strides=stride, padding="same", use_bias=False)(z)
        z = BatchNormalization()(z)
        return Activation("relu")(z) if relu else z

    given = Input((28, 28, 1))
    x = block(given, 3, width, 2)
    x = Activation("relu")(Add()([x, block(block(x, 3, width), 3, width, relu=False)]))
    y = block(block(x, 3, 2 * width, 2), 3, 2 * width, relu=False)
    x = Activation("relu")(Add()([block(x, 1, 2 * width, 2, relu=False), y]))
    return Model(given, Dense(10, activation="softmax")(GlobalAveragePooling2D()(x)))


class Case(Frozen):
    """A network, how it is trained, and by how much its mean accuracy may differ from that in float32."""

    net: Callable[[], Model]
    optimizer: Callable[[], Any]
    bar: float
    """In points; less than this below float32."""
    epochs: int = 2
    samples: int = 54_000
    fashion: bool = False


CASES: Final = {
    "listing": Case(mission, lambda: "adam", 0.2, LISTING_EPOCHS),
    "lenet": Case(lenet, lambda: "adam", 0.3),
    "residual": Case(residual, lambda: "adam", 1.0, 2, 38_400),
    "rmsprop": Case(mission, lambda: RMSprop(1e-3), 0.3),
    "momentum": Case(mission, lambda: SGD(0.02, momentum=0.875), 0.3),
    "adamw": Case(mission, lambda: AdamW(1e-3), 0.3),
    "fashion": Case(mission, lambda: "adam", 0.5, 3, 50_000, fashion=True),
}


def pictures(case: Case, folder: Path) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Samples to train on, and others: bytes and classes."""
    if case.fashion:
        data = np.load(folder / "fashion_mnist_train.npz")
        x, y = data["x_train"], data["y_train"]
        return (x[: case.samples], y[: case.samples]), (x[case.samples :], y[case.samples :])
    data = np.load(folder / "mnist.npz")
    return (data["x_train"][: case.samples], data["y_train"][: case.samples]), (
        data["x_test"],
        data["y_test"],
    )


def accuracies(case: Case, seed: int, folder: Path) -> tuple[float, float]:
    """On the device and in float32, in percent."""
    (x, y), (xt, yt) = pictures(case, folder)
    x, xt = (a.reshape(-1, 28, 28, 1).astype(np.float32) / np.float32(255) for a in (x, xt))
    y, yt = (a.astype(np.int64) for a in (y, yt))
    model = case.net()
    model.seed = seed
    model.compile(case.optimizer(), "sparse_categorical_crossentropy", ["accuracy"])
    twin = twin_of(model)
    model.fit(x, y, batch_size=BATCH, epochs=case.epochs, seed=seed, verbose=0)
    twin.fit(x, y, case.epochs, BATCH, seed)
    return 100 * model.evaluate(xt, yt)[1], 100 * twin.accuracy(xt, yt)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CASES)
def test_the_device_learns_as_well_as_float32(name: str, assets: Path) -> None:
    case = CASES[name]
    found = np.array([accuracies(case, seed, assets / "data") for seed in SEEDS])
    device, real = found.mean(axis=0)
    assert device >= real - case.bar, found
    if name == "listing":
        assert device >= 98.1


def main(names: Sequence[str]) -> None:
    """Print what every seed gives."""
    folder = Path(__file__).resolve().parents[2] / ".." / "shared" / "assets" / "data"
    for name in names:
        for seed in SEEDS:
            device, real = accuracies(CASES[name], seed, folder)
            sys.stdout.write(f"{name} seed {seed}: device {device:.2f}, float32 {real:.2f}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
