"""Writes tests/golden/training/optimizers.json: what Keras's own optimizers do on its numpy backend.

    pip install keras jax scipy && python tests/training/make_optimizer_golden.py

Weights and gradients come from raw Philox words, so that they are the same bits everywhere: see `gradients`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

COUNT, STEPS = 20_000, 200
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "sgd": ("SGD", "sgd", {"learning_rate": 0.01}),
    "momentum": ("SGD", "momentum", {"learning_rate": 0.01, "momentum": 0.9}),
    "nesterov": ("SGD", "momentum", {"learning_rate": 0.01, "momentum": 0.9, "nesterov": True}),
    "rmsprop": ("RMSprop", "rmsprop", {}),
    "adam": ("Adam", "adam", {}),
    "adamw": ("AdamW", "adamw", {}),
    "sgd_clipped": ("SGD", "sgd", {"learning_rate": 0.01, "clipvalue": 0.01}),
    "adam_clipped": ("Adam", "adam", {"clipvalue": 0.5}),
}
"""The class in Keras, the name here, the options of both."""
Float = NDArray[np.float32]


def words(step: int) -> NDArray[np.uint64]:
    return np.random.Philox(key=np.array([7, step], np.uint64)).random_raw(COUNT)


def gradients(step: int) -> Float:
    """From 2^-31 to 8, both signs, three in ten 0: 24 random bits times a power of two."""
    w = words(step)
    sizes = (w >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    powers = np.ldexp(np.float32(1), (w & np.uint64(31)).astype(np.int32) - 28).astype(np.float32)
    signs = np.where(w & np.uint64(32), np.float32(-1), np.float32(1))
    zero = (w >> np.uint64(6)) % np.uint64(10) < np.uint64(3)
    return np.where(zero, np.float32(0), sizes * powers * signs)


def weights() -> Float:
    return (words(0) >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-23) - np.float32(1)


def digest(values: Float) -> str:
    return hashlib.sha256(np.ascontiguousarray(values, "<f4").tobytes()).hexdigest()[:16]


def main() -> None:
    os.environ["KERAS_BACKEND"] = "numpy"
    keras: Any = importlib.import_module("keras")
    found: dict[str, Any] = {"keras": keras.__version__, "steps": STEPS, "elements": COUNT, "digests": {}}
    for name, (cls, _, options) in CASES.items():
        variable = keras.Variable(weights())
        optimizer = getattr(keras.optimizers, cls)(**options)
        optimizer.build([variable])
        found["digests"][name] = []
        for step in range(1, STEPS + 1):
            optimizer.apply([gradients(step)], [variable])
            found["digests"][name].append(digest(np.asarray(variable.value)))
    powers = {str(b): [int(np.power(np.float32(b), np.float32(t)).view(np.uint32)) for t in range(1, STEPS + 1)]
              for b in (0.9, 0.999)}  # fmt: skip
    found["powers"] = powers
    target = Path(__file__).resolve().parents[1] / "golden" / "training" / "optimizers.json"
    target.write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
