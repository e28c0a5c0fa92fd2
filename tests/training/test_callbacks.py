"""Callbacks of our own: they stop, slow down and write where those of real Keras do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isa.support.diagnostics import UsageError
from tests.training.make_callbacks_golden import Model
from tests.training.test_keras import FEW, hash_of, model
from x1.keras import callbacks
from x1.keras.callbacks import EarlyStopping, LearningRateScheduler, ModelCheckpoint
from x1.keras.loading import load
from x1.keras.models import Model as KerasModel

CASES: list[dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[1] / "golden" / "training" / "callbacks.json").read_text()
)


@pytest.mark.parametrize("case", CASES, ids=[f"{c['kind']}-{i}" for i, c in enumerate(CASES)])
def test_a_callback_does_what_that_of_keras_does(case: dict[str, Any]) -> None:
    callback, trained = getattr(callbacks, case["kind"])(**case["options"]), Model()
    told = callbacks.CallbackList([callback], trained, {})
    told.tell("on_train_begin", {})
    rates: list[float] = []
    for epoch, value in enumerate(case["values"]):
        trained.weights = [epoch]
        told.tell("on_epoch_begin", epoch, {})
        told.tell("on_epoch_end", epoch, {case["options"]["monitor"]: value})
        rates.append(float(trained.optimizer.learning_rate))
        if trained.stop_training:
            break
    told.tell("on_train_end", {})
    np.testing.assert_allclose(rates, case["rates"])
    assert trained.weights == case["weights"]


def rising(epoch: int) -> float:
    """A rate that destroys from the second epoch on."""
    return 0.001 if epoch == 0 else 3.0


def unchanged(_: int, rate: float) -> float:
    return rate


def test_training_stops_and_the_best_weights_come_back(tmp_path: Path) -> None:
    """The first epoch was the best: its file is what the model is in the end."""
    made = model()
    kept = ModelCheckpoint(tmp_path / "best-{epoch}.x1", monitor="loss", save_best_only=True)
    stops = EarlyStopping(monitor="loss", patience=1, restore_best_weights=True)
    history = made.fit(**FEW, epochs=9, callbacks=[kept, stops, LearningRateScheduler(rising)])
    assert history.epoch == [0, 1]
    assert history.history["learning_rate"] == [0.001, 3.0]
    (written,) = tmp_path.iterdir()
    again = load(written)
    assert isinstance(again, KerasModel)
    assert again.history is not None
    assert again.history.history["loss"] == history.history["loss"][:1]
    for one, other in zip(made.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_schedule_is_data() -> None:
    """The same rate from a callback and from the optimizer gives the same bits."""
    plain, scheduled = model(), model()
    plain.fit(**FEW, epochs=2)
    scheduled.fit(**FEW, epochs=2, callbacks=[LearningRateScheduler(unchanged)])
    assert hash_of(plain) == hash_of(scheduled)


def test_callbacks_that_cannot_be_are_refused() -> None:
    for callback in (3, ModelCheckpoint("a{z}.x1")):
        with pytest.raises(UsageError):
            model().fit(**FEW, callbacks=[callback])
    with pytest.raises(UsageError, match="no mode"):
        EarlyStopping(mode="best")
    with pytest.warns(UserWarning, match="watches 'val_loss'"):
        model().fit(**FEW, callbacks=[EarlyStopping()])
