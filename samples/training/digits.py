"""Handwritten digits, trained on the simulated device.

    python samples/training/digits.py
    python samples/training/digits.py --data mnist.npz --epochs 10

400 digits of samples/mnist teach in ten seconds. MNIST is at
https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz: 60,000 digits to train with, 10,000 to
test with, by LeCun, Cortes and Burges. Any file of `x_train`, `y_train`, `x_test` and `y_test` is taken.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import x1.keras
from x1.keras.layers import Conv2D, Dense, Flatten, MaxPooling2D
from x1.keras.models import Sequential

OURS = Path(__file__).resolve().parents[1] / "mnist" / "digits.npz"
HELD_BACK = 100
Array = NDArray[Any]


def digits(path: Path | None) -> tuple[Array, Array, Array, Array]:
    """Pictures of 0..1 and labels, to train with and to test with."""
    if path is None:
        kept = np.load(OURS)
        x, y = kept["inputs"].astype(np.float32), kept["labels"]
        return x[HELD_BACK:], y[HELD_BACK:], x[:HELD_BACK], y[:HELD_BACK]
    kept = np.load(path)
    x_train, x_test = (kept[k].reshape(-1, 28, 28, 1).astype(np.float32) / 255 for k in ("x_train", "x_test"))
    return x_train, kept["y_train"], x_test, kept["y_test"]


def main() -> None:
    """Train, and say how well it went."""
    parser = argparse.ArgumentParser(description="Train a small network on the simulated device.")
    parser.add_argument("--data", type=Path, help="a file like Keras's mnist.npz")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=Path, default=Path("digits.x1"))
    chosen = parser.parse_args()
    x_train, y_train, x_test, y_test = digits(chosen.data)

    x1.keras.utils.set_random_seed(0)
    model = Sequential(
        [
            Conv2D(32, (3, 3), activation="relu", input_shape=(28, 28, 1)),
            MaxPooling2D((2, 2)),
            Flatten(),
            Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    model.summary()
    model.fit(
        x_train, y_train, epochs=chosen.epochs, batch_size=32, validation_split=0.1, device="/device:X1"
    )
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"test loss {loss:.4f}, accuracy {accuracy:.4f}")
    model.save(chosen.output)


if __name__ == "__main__":
    main()
