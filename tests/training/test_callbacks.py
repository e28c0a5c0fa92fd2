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


def nothing(_: int) -> Any:
    return None


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
    assert made.evaluate(FEW["x"], FEW["y"]) == again.evaluate(FEW["x"], FEW["y"])  # with the shifts of then
    assert made.predict(FEW["x"]).tobytes() == again.predict(FEW["x"]).tobytes()


def test_weights_that_are_given_after_training_are_evaluated_with_shifts_of_their_own() -> None:
    good, diverged = model(), model()
    good.fit(**FEW, epochs=4)
    diverged.fit(**FEW, epochs=2, callbacks=[LearningRateScheduler(rising)])
    diverged.set_weights(good.get_weights())
    (loss, accuracy), (wanted, hits) = (m.evaluate(FEW["x"], FEW["y"]) for m in (diverged, good))
    assert abs(loss - wanted) < 0.1
    assert abs(accuracy - hits) < 0.1


def test_numbers_that_callbacks_add_are_in_the_file_of_the_same_epoch(tmp_path: Path) -> None:
    made = model()
    watching = [ModelCheckpoint(tmp_path / "{epoch}.x1"), LearningRateScheduler(unchanged)]
    made.fit(**FEW, epochs=2, callbacks=watching)
    history = load(tmp_path / "1.x1").history
    assert history is not None
    assert {name: len(values) for name, values in history.history.items()} == {
        "loss": 1, "accuracy": 1, "learning_rate": 1,
    }  # fmt: skip


def test_a_plateau_begins_anew_with_every_call() -> None:
    plateau, rates = callbacks.ReduceLROnPlateau(monitor="loss", factor=0.5, patience=1), list[list[float]]()
    for _ in range(2):
        made = model()
        rates.append(made.fit(**FEW, epochs=2, callbacks=[plateau]).history["learning_rate"])
    assert rates[0] == rates[1]


def test_a_schedule_is_data() -> None:
    """The same rate from a callback and from the optimizer gives the same bits."""
    plain, scheduled = model(), model()
    plain.fit(**FEW, epochs=2)
    scheduled.fit(**FEW, epochs=2, callbacks=[LearningRateScheduler(unchanged)])
    assert hash_of(plain) == hash_of(scheduled)


def test_callbacks_that_cannot_be_are_refused() -> None:
    nonsense = LearningRateScheduler(nothing)
    for callback in (
        3,
        EarlyStopping,
        ModelCheckpoint("a{z}.x1"),
        ModelCheckpoint("a{epoch.x}.x1"),
        nonsense,
    ):
        with pytest.raises(UsageError):
            model().fit(**FEW, callbacks=[callback])
    with pytest.raises(UsageError, match="no function"):
        LearningRateScheduler(0.1)  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="no mode"):
        EarlyStopping(mode="best")
    with pytest.warns(UserWarning, match="watches 'val_loss'"):
        model().fit(**FEW, callbacks=[EarlyStopping()])
