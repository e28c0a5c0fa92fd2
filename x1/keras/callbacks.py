"""Callbacks: any object with Keras's methods will do; a few of Keras's own."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from isa.support.diagnostics import Diagnostic, UsageError, not_among

MODES: Final = ("auto", "min", "max")


class Callback:
    """The base of callbacks; `model` is the model in training."""

    model: Any = None
    params: dict[str, Any] | None = None

    def set_model(self, model: Any) -> None:
        """Called before training."""
        self.model = model

    def set_params(self, params: dict[str, Any]) -> None:
        """Called before training with epochs, steps and verbosity."""
        self.params = params


class Writer(Callback):
    """Writes files at the end of epochs, after all other callbacks."""

    def write(self, epoch: int, logs: dict[str, float]) -> None:
        """Write one, or not."""


class History(Callback):
    """The numbers of every epoch, by name."""

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}
        self.noted: frozenset[str] = frozenset()
        """What the last epoch has numbers of."""

    def note(self, epoch: int, logs: dict[str, float]) -> None:
        """The numbers of an epoch."""
        self.epoch.append(epoch)
        self.noted = frozenset(logs)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def amend(self, logs: dict[str, float]) -> None:
        """Other numbers of the epoch that was noted last, or more."""
        for name, value in logs.items():
            values = self.history.setdefault(name, [])
            if name in self.noted:
                values[-1] = value
            else:
                values.append(value)


class _Watching(Callback):
    """Watches one of the numbers of epochs: whether it has become better.

    `mode` "auto" takes accuracies as the better the greater, all else as the better the less.
    """

    def __init__(self, monitor: str, mode: str, min_delta: float) -> None:
        if mode not in MODES:
            raise UsageError(not_among("keras.callback", f"there is no mode '{mode}'", str(mode), MODES))
        monitor = str(monitor)
        self.monitor, self.min_delta = monitor, abs(min_delta)
        self.greater = mode == "max" or (mode == "auto" and monitor.endswith(("acc", "accuracy")))
        self.best: float | None = None

    def watched(self, logs: Mapping[str, float]) -> float | None:
        """The number, and a warning where there is none of that name."""
        if self.monitor not in logs:
            there = ", ".join(logs)
            text = f"{type(self).__name__} watches '{self.monitor}', but an epoch has {there}"
            warnings.warn(text, stacklevel=2)
        return logs.get(self.monitor)

    def better(self, value: float, than: float | None) -> bool:
        """Whether it is by more than `min_delta`."""
        if than is None:
            return True
        return value - self.min_delta > than if self.greater else value + self.min_delta < than


class EarlyStopping(_Watching):
    """Ends training where a number has not become better for `patience` epochs, as Keras's does."""

    def __init__(
        self,
        monitor: str = "val_loss",
        min_delta: float = 0,
        patience: int = 0,
        verbose: int = 0,
        mode: str = "auto",
        baseline: float | None = None,
        restore_best_weights: bool = False,
        start_from_epoch: int = 0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience, self.baseline, self.verbose = patience, baseline, verbose
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best_weights: list[Any] | None = None
        self.best_state: Mapping[str, Any] | None = None

    def on_train_begin(self, logs: dict[str, float]) -> None:
        """Nothing has been seen yet."""
        del logs
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best, self.best_weights, self.best_state = None, None, None

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Count the epochs that were not better."""
        value = self.watched(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        self.wait += 1
        if self.better(value, self.best):
            self.best, self.best_epoch = value, epoch
            if self.restore_best_weights:
                self.best_weights = self.model.get_weights()
                self.best_state = getattr(self.model, "forward_state", None)
            if self.baseline is None or self.better(value, self.baseline):
                self.wait = 0
            return
        if self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def on_train_end(self, logs: dict[str, float]) -> None:
        """Say where training was ended, and take the best weights."""
        del logs
        if self.stopped_epoch and self.verbose:
            sys.stdout.write(f"Epoch {self.stopped_epoch + 1}: early stopping\n")
        if self.best_weights is not None:
            self.model.set_weights(self.best_weights)
        if self.best_state is not None:  # the shifts that those weights had
            self.model.restore(self.best_state)


class ModelCheckpoint(_Watching, Writer):
    """Writes the model after every epoch, or where a number has become better: "net-{epoch}.x1"."""

    def __init__(
        self,
        filepath: str | Path,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        mode: str = "auto",
    ) -> None:
        super().__init__(monitor, mode, 0)
        self.filepath, self.save_best_only, self.verbose = str(filepath), save_best_only, verbose

    def write(self, epoch: int, logs: dict[str, float]) -> None:
        """Write it, where it is wanted."""
        if self.save_best_only:
            value = self.watched(logs)
            if value is None or not self.better(value, self.best):
                return
            self.best = value
        try:
            path = self.filepath.format(epoch=epoch + 1, **logs)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            text = f"filepath={self.filepath!r} cannot be filled in: {error}"
            raise UsageError(
                Diagnostic("keras.callback", text, allowed=", ".join(["epoch", *logs]))
            ) from None
        self.model.save(path)
        if self.verbose:
            sys.stdout.write(f"Epoch {epoch + 1}: saving model to {path}\n")


def rate_of(model: Any) -> float:
    """The learning rate of a model, a number.

    Raises:
        UsageError: it is a function of the step.
    """
    try:
        return float(model.optimizer.learning_rate)
    except TypeError:
        text = "the learning rate is a function of the step"
        remedy = "give the optimizer a number where a callback changes it"
        raise UsageError(Diagnostic("keras.callback", text, remedy=remedy)) from None


class LearningRateScheduler(Callback):
    """Sets the learning rate before every epoch: schedule(epoch, rate), or schedule(epoch)."""

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            text = f"the schedule {schedule!r} is no function"
            raise UsageError(Diagnostic("keras.callback", text, allowed="schedule(epoch, rate)"))
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: dict[str, float]) -> None:
        """Set it."""
        del logs
        rate = rate_of(self.model)
        try:
            found = self.schedule(epoch, rate)
        except TypeError:  # as Keras does
            found = self.schedule(epoch)
        try:
            self.model.optimizer.learning_rate = float(found)
        except (TypeError, ValueError):
            text = f"the schedule gave {found!r} for epoch {epoch}"
            raise UsageError(Diagnostic("keras.callback", text, allowed="a number")) from None
        if self.verbose:
            rate = self.model.optimizer.learning_rate
            sys.stdout.write(f"Epoch {epoch + 1}: learning rate {rate:g}\n")

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Add it to the numbers of the epoch."""
        del epoch
        logs["learning_rate"] = rate_of(self.model)


class ReduceLROnPlateau(_Watching):
    """Multiplies the learning rate by `factor` where a number has not become better for `patience` epochs."""

    def __init__(
        self,
        monitor: str = "val_loss",
        factor: float = 0.1,
        patience: int = 10,
        verbose: int = 0,
        mode: str = "auto",
        min_delta: float = 1e-4,
        cooldown: int = 0,
        min_lr: float = 0.0,
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        if factor >= 1:
            raise UsageError(Diagnostic("keras.callback", f"factor={factor}", allowed="less than 1"))
        self.factor, self.patience, self.cooldown, self.min_lr = factor, patience, cooldown, min_lr
        self.wait, self.resting, self.verbose = 0, 0, verbose

    def on_train_begin(self, logs: dict[str, float]) -> None:
        """Nothing has been seen yet."""
        del logs
        self.best, self.wait, self.resting = None, 0, 0

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Count the epochs that were not better."""
        rate = logs["learning_rate"] = rate_of(self.model)
        value = self.watched(logs)
        if value is None:
            return
        if self.resting:
            self.resting, self.wait = self.resting - 1, 0
        if self.better(value, self.best):
            self.best, self.wait = value, 0
        elif not self.resting:
            self.wait += 1
            if self.wait >= self.patience and rate > self.min_lr:
                self.model.optimizer.learning_rate = max(rate * self.factor, self.min_lr)
                self.resting, self.wait = self.cooldown, 0
                if self.verbose:
                    rate = self.model.optimizer.learning_rate
                    sys.stdout.write(f"Epoch {epoch + 1}: learning rate {rate:g}\n")


class CallbackList:
    """Callbacks that are told what happens; a method that one lacks is left out."""

    def __init__(self, callbacks: Any, model: Any, params: dict[str, Any]) -> None:
        several = isinstance(callbacks, Sequence)
        self.callbacks: list[Any] = list(cast("Sequence[Any]", callbacks)) if several else [callbacks]
        for callback in self.callbacks:
            told = any(name.startswith("on_") for name in dir(callback)) or isinstance(callback, Writer)
            if isinstance(callback, type) or not told:
                text = f"{callback!r} is no callback: no object with methods on_..."
                raise UsageError(Diagnostic("keras.callback", text))
            if hasattr(callback, "set_params"):
                callback.set_params(params)
            if hasattr(callback, "set_model"):
                callback.set_model(model)

    def tell(self, event: str, *arguments: Any) -> None:
        """Call a method of every callback that has it."""
        for callback in self.callbacks:
            method = getattr(callback, event, None)
            if method is not None:
                method(*arguments)

    def tell_writers(self, epoch: int, logs: dict[str, float]) -> None:
        """Let those that write files do so, once the numbers of an epoch are complete."""
        for callback in self.callbacks:
            if isinstance(callback, Writer):
                callback.write(epoch, logs)
