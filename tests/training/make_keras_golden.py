"""Writes what tests/training/test_exchange.py compares with: models of real Keras, and what they compute.

Run by hand in an environment with keras, jax, jaxlib and scipy: python tests/training/make_keras_golden.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "numpy"
import importlib

import numpy as np

PLACE = Path(__file__).resolve().parents[1] / "golden" / "training" / "keras"
keras: Any = importlib.import_module("keras")
L: Any = keras.layers


def functional() -> Any:
    """A residual network of two convolutions."""
    given = keras.Input((12, 12, 2))
    a = L.Conv2D(4, 3, padding="same", activation="relu", name="first")(given)
    b = L.Conv2D(4, 3, padding="same")(a)
    c = L.Activation("relu")(L.Add()([a, b]))
    d = L.Flatten()(L.MaxPooling2D(3, strides=2)(c))
    return keras.Model(given, L.Dense(3, activation="softmax")(d))


def sequential() -> Any:
    """A row of layers, one of them without bias."""
    rows = [keras.Input((9, 9, 1)), L.Conv2D(3, (2, 3), strides=2, use_bias=False), L.ReLU(), L.Flatten()]
    return keras.Sequential([*rows, L.Dense(6, activation="relu"), L.Dense(4), L.Softmax()])


def mobile() -> Any:
    """Depthwise convolutions, normalizations whose statistics are not those of a beginning, slopes."""
    given = keras.Input((11, 11, 2))
    a = L.Conv2D(4, 3, strides=2, padding="same", use_bias=False)(given)
    b = L.PReLU(shared_axes=[1, 2])(L.BatchNormalization()(a))
    c = L.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False)(b)
    d = L.PReLU()(L.BatchNormalization(scale=False, epsilon=1e-4)(c))
    e = L.ELU(0.5)(L.Conv2D(6, 1)(L.AveragePooling2D(2, padding="same")(d)))
    f = L.BatchNormalization(center=False)(L.Dense(5)(L.GlobalAveragePooling2D()(e)))
    return keras.Model(given, L.Dense(3, activation="softmax")(L.PReLU()(f)))


def main() -> None:
    """A file of Keras's own for each model, its configuration, samples and predictions."""
    for name, make in {"functional": functional, "sequential": sequential, "mobile": mobile}.items():
        keras.utils.set_random_seed(1)
        model = make()
        if name == "mobile":
            r = np.random.default_rng(2)
            moved: list[Any] = [w + r.normal(0, 0.3, w.shape) for w in model.get_weights()]
            model.set_weights([np.abs(w) if w.ndim == 1 else w for w in moved])
        model.compile("rmsprop", "sparse_categorical_crossentropy")
        x = np.random.default_rng(1).uniform(0, 1, (8, *model.input_shape[1:])).astype(np.float32)
        model.save(PLACE / f"{name}.keras")
        (PLACE / f"{name}.json").write_text(json.dumps(model.get_config(), sort_keys=True, indent=1) + "\n")
        np.savez(PLACE / f"{name}.npz", x=x, y=model.predict(x, verbose=0), **{
            f"w{i}": w for i, w in enumerate(model.get_weights())
        })  # fmt: skip


if __name__ == "__main__":
    main()
