"""A residual network with batch normalization, trained on the simulated device.

    python samples/training/residual.py
    python samples/training/residual.py --data mnist.npz --epochs 2

After every epoch the running statistics are measured anew; `--statistics running` leaves them as Keras does,
and shows how far those lag behind after few steps.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from digits import digits

import x1.keras
from x1.keras.layers import (
    Activation,
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    GlobalAveragePooling2D,
    Input,
    Tensor,
)
from x1.keras.models import Model


def convolved(x: Tensor, filters: int, strides: int = 1) -> Tensor:
    """A convolution and its normalization."""
    return BatchNormalization()(Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x))


def block(x: Tensor, filters: int) -> Tensor:
    """Two convolutions beside a way past them."""
    y = Activation("relu")(convolved(x, filters))
    return Activation("relu")(Add()([x, convolved(y, filters)]))


def network() -> Model:
    """Seven layers with weights, from 28 x 28 to 7 x 7."""
    given = Input((28, 28, 1))
    x = block(Activation("relu")(convolved(given, 8, 2)), 8)
    x = block(Activation("relu")(convolved(x, 16, 2)), 16)
    return Model(given, Dense(10, activation="softmax")(GlobalAveragePooling2D()(x)))


def main() -> None:
    """Train, and say how well it went."""
    parser = argparse.ArgumentParser(description="Train a residual network on the simulated device.")
    parser.add_argument("--data", type=Path, help="a file like Keras's mnist.npz")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--statistics", choices=("exact", "running"), default="exact")
    parser.add_argument("--output", type=Path, default=Path("residual.x1"))
    chosen = parser.parse_args()
    x_train, y_train, x_test, y_test = digits(chosen.data)

    x1.keras.utils.set_random_seed(0)
    model = network()
    model.compile(x1.keras.optimizers.Adam(0.005), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x_train, y_train, epochs=chosen.epochs, batch_size=32, bn_statistics=chosen.statistics)
    loss, accuracy = model.evaluate(x_test, y_test, verbose=0)
    print(f"test loss {loss:.4f}, accuracy {accuracy:.4f}")
    model.save(chosen.output)


if __name__ == "__main__":
    main()
