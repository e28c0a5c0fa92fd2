"""Writes what tests/training/test_callbacks.py compares with: when callbacks of real Keras stop or slow down.

Run by hand in an environment with keras: python tests/training/make_callbacks_golden.py
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "numpy"
import importlib

import numpy as np

PLACE = Path(__file__).resolve().parents[1] / "golden" / "training" / "callbacks.json"
EPOCHS = 24


class Optimizer:
    learning_rate: Any = np.float64(0.5)


class Model:
    """Stands for a model in training: its weights tell the epoch."""

    def __init__(self) -> None:
        self.optimizer, self.stop_training, self.weights = Optimizer(), False, [-1]

    def get_weights(self) -> list[int]:
        return list(self.weights)

    def set_weights(self, weights: list[int]) -> None:
        self.weights = list(weights)


def run(kind: str, options: dict[str, Any], values: list[float]) -> dict[str, Any]:
    """What a callback does in epochs of these values."""
    keras: Any = importlib.import_module("keras")
    callback, model = getattr(keras.callbacks, kind)(**options), Model()
    callback.set_model(model)
    callback.on_train_begin({})
    rates: list[float] = []
    for epoch, value in enumerate(values):
        model.weights = [epoch]
        callback.on_epoch_begin(epoch, {})
        logs = {options.get("monitor", "val_loss"): value}
        callback.on_epoch_end(epoch, logs)
        rates.append(float(model.optimizer.learning_rate))
        if model.stop_training:
            break
    callback.on_train_end({})
    return {"kind": kind, "options": options, "values": values, "rates": rates, "weights": model.weights}


def main() -> None:
    """Random walks, and options that matter."""
    r, found = np.random.default_rng(1), list[dict[str, Any]]()
    for number in range(60):
        walk = [round(float(v), 3) for v in 1 + np.cumsum(r.normal(-0.02, 0.1, EPOCHS))]
        monitor = str(r.choice(["val_loss", "val_accuracy"]))
        options: dict[str, Any] = {
            "monitor": monitor,
            "mode": str(r.choice(["auto", "min", "max"] if monitor == "val_loss" else ["min", "max"])),
            "min_delta": float(r.choice([0, 0.05])),
            "patience": int(r.integers(0, 5)),
        }
        if number % 2:
            more = {"factor": 0.5, "cooldown": int(r.integers(0, 3)), "min_lr": float(r.choice([0, 0.1]))}
            found.append(run("ReduceLROnPlateau", options | more, walk))
        else:
            more = {
                "restore_best_weights": bool(r.integers(2)),
                "start_from_epoch": int(r.integers(0, 4)),
                "baseline": [None, 0.9][int(r.integers(2))],
            }
            found.append(run("EarlyStopping", options | more, walk))
    lines = ",\n".join(json.dumps(case, sort_keys=True) for case in found)
    PLACE.write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    main()
