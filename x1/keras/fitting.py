"""How a model is fitted, evaluated and asked: epochs, batches, validation, progress."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.records import Struct, replace
from isa.target import Target, load_target
from x1.keras import data
from x1.keras.callbacks import CallbackList, History
from x1.keras.data import Codes, Labelled, Weights
from x1.keras.losses import Measures
from x1.keras.optimizers import KerasOptimizer
from x1.trainer import Batches, Trainer

Array = NDArray[Any]
DEVICES: Final = re.compile(r"/device:X1(:0)?$")
NO_LOSS: Final = Diagnostic("train.loss", "the model has no loss", remedy="call compile(loss=...) first")
EXACT: Final = "exact"
STATISTICS: Final = (EXACT, "running")
"""What the running statistics of normalizations are after an epoch."""
MOST: Final = (1 << 63) - 1
"""Of whole numbers that options are."""
MEASURED: Final = 50
"""Batches from which they are measured at most."""


class Fitted(Protocol):
    """What fitting knows of a model."""

    optimizer: KerasOptimizer
    loss: Any
    metrics: list[str]
    stop_training: bool
    history: History | None
    codes: Codes | None
    trainer: Trainer | None
    seed: int
    epochs: int
    shuffle: bool
    validation_split: float
    bn_group: int
    bn_statistics: str
    tuned: bool

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        ...

    @property
    def classes(self) -> int:
        """Values that the last layer gives for a sample."""
        ...

    def encode(self, x: Array) -> Array:
        """The codes of samples, as the network takes them."""
        ...

    def prepare(self, batches: Batches, target: Target) -> Trainer:
        """A trainer for these batches."""
        ...

    def runner(self) -> Trainer:
        """A trainer for evaluation."""
        ...


class Totals(Struct):
    """Losses and hits of samples, summed."""

    loss: float = 0.0
    hits: float = 0.0
    count: int = 0

    def add(self, measures: Measures, weights: Array | None) -> None:
        """Some samples more; by its weight the loss of each counts, not its hits."""
        self.loss += float((measures.losses if weights is None else measures.losses * weights).sum())
        self.hits += float(measures.hits.sum())
        self.count += len(measures.losses)

    def means(self, metrics: Sequence[str], prefix: str = "") -> dict[str, float]:
        """The mean loss, and the share of hits if it is asked for."""
        found = {f"{prefix}loss": self.loss / self.count}
        return found | {f"{prefix}{name}": self.hits / self.count for name in metrics}


class Fitting(Struct):
    """One call of `fit`."""

    model: Fitted
    batch_size: int
    epochs: int
    initial_epoch: int
    steps_per_epoch: int | None
    verbose: int
    device: str
    target: str | Target
    validation_freq: int

    def run(
        self,
        x: Any,
        y: Any,
        weights: Weights,
        validation_data: tuple[Any, ...] | None,
        callbacks: Sequence[Any],
    ) -> History:
        """Train; the history of the epochs."""
        model = self.model
        taken = _checked(model, x, y, weights)
        seen = _validation(model, validation_data)
        if validation_data is None and model.validation_split:
            taken, seen = _split(taken, model.validation_split, by_class=weights.of_classes is not None)
        if self.batch_size > len(taken):
            text = f"a batch of {self.batch_size} is more than the {len(taken)} samples"
            raise UsageError(Diagnostic("train.batch", text, allowed=f"1..{len(taken)}"))
        if model.codes is None:
            model.codes = Codes.of(taken.x)
        samples = replace(taken, x=model.encode(taken.x))
        machine = self.target if isinstance(self.target, Target) else load_target(self.target)
        tail = len(taken) % self.batch_size
        if self.steps_per_epoch is not None and self.steps_per_epoch * self.batch_size <= len(taken):
            tail = 0
        batch, weighted = self.batch_size, taken.weights is not None
        trainer = model.prepare(Batches(batch, tail, batch, model.bn_group, weighted), machine)
        if model.tuned and not trainer.settled:
            trainer.adapt(samples.x[:batch])
        history = model.history if self.initial_epoch and model.history is not None else History()
        params = {"epochs": self.epochs, "steps": self._steps(len(taken)), "verbose": self.verbose}
        told = CallbackList(callbacks, model, params)
        model.stop_training, model.history = False, history
        told.tell("on_train_begin", {})
        for epoch in range(self.initial_epoch, self.epochs):
            logs = self._epoch(trainer, samples, seen, epoch, told)
            model.epochs = epoch + 1
            history.note(epoch, logs)  # before callbacks write files
            told.tell("on_epoch_end", epoch, logs)
            history.amend(logs)  # with what they have added
            told.tell_writers(epoch, logs)
            if model.stop_training:
                break
        told.tell("on_train_end", {})
        return history

    def require(self) -> None:
        """Refuse options that have no meaning.

        Raises:
            UsageError: all of them.
        """
        found: list[Diagnostic] = []
        if self.model.loss is None:
            found.append(NO_LOSS)
        if not DEVICES.match(str(self.device)):
            found.append(
                Diagnostic(
                    "train.device", f"there is no device '{self.device}'", allowed="/device:X1, /device:X1:0"
                )
            )
        for name, value, least in (
            ("batch_size", self.batch_size, 1),
            ("epochs", self.epochs, 0),
            ("initial_epoch", self.initial_epoch, 0),
            ("steps_per_epoch", self.steps_per_epoch, 1),
            ("validation_freq", self.validation_freq, 1),
            ("seed", self.model.seed, 0),
        ):
            if value is not None and not least <= value <= MOST:
                allowed = f"whole numbers of {least}..{MOST}"
                found.append(Diagnostic("train.option", f"{name}={value}", allowed=allowed))
        if self.model.bn_statistics not in STATISTICS:
            text = f"bn_statistics={self.model.bn_statistics!r} is not known"
            found.append(not_among("train.statistics", text, str(self.model.bn_statistics), STATISTICS))
        if not 0 <= self.model.bn_group <= max(self.batch_size, 0):
            text = f"bn_group={self.model.bn_group} of a batch of {self.batch_size}"
            found.append(Diagnostic("train.batch", text, allowed=f"1..{self.batch_size}, or 0 for all"))
        if found:
            raise UsageError(found)

    def _steps(self, count: int) -> int:
        """Steps of an epoch on so many samples."""
        steps = -(-count // self.batch_size)
        return steps if self.steps_per_epoch is None else min(steps, self.steps_per_epoch)

    def _epoch(
        self,
        trainer: Trainer,
        samples: Labelled,
        seen: Labelled | None,
        epoch: int,
        told: CallbackList,
    ) -> dict[str, float]:
        """All batches once, then validation."""
        model = self.model
        began, totals = time.monotonic(), Totals()
        told.tell("on_epoch_begin", epoch, {})
        order = data.order_of(len(samples), model.seed, epoch, shuffle=model.shuffle)
        steps = self._steps(len(samples))
        show = _Progress(self.verbose, epoch, self.epochs, steps)
        for number, chosen in enumerate(data.batches(order, self.batch_size)):
            if number >= steps:
                break
            told.tell("on_train_batch_begin", number, {})
            rate = model.optimizer.rate(trainer.step_number)
            labels, weights = samples.y[chosen], samples.weights_of(chosen)
            records = trainer.step(samples.x[chosen], model.loss.given(labels), rate, weights)
            totals.add(model.loss.of_records(records, labels), weights)
            told.tell("on_train_batch_end", number, totals.means(model.metrics))
            show.step(number + 1, totals.means(model.metrics))
            if model.stop_training:
                break
        if trainer.measures and self.model.bn_statistics == EXACT:
            size = self.batch_size
            first = list(data.batches(order, size))[: min(MEASURED, steps, len(samples) // size)]
            trainer.measure([samples.x[chosen] for chosen in first])
        logs = totals.means(model.metrics)
        if seen is not None and (epoch + 1) % self.validation_freq == 0:
            told.tell("on_test_begin", {})
            logs |= _measured(model, trainer, seen).means(model.metrics, "val_")
            told.tell("on_test_end", logs)
        show.end(time.monotonic() - began, logs)
        return logs


class _Progress:
    """What Keras prints: a line for each epoch, and while it runs a bar on terminals."""

    def __init__(self, verbose: int, epoch: int, epochs: int, steps: int) -> None:
        self.verbose, self.steps = verbose, steps
        self.live = verbose == 1 and sys.stdout.isatty()
        self.shown = 0.0
        if verbose:
            sys.stdout.write(f"Epoch {epoch + 1}/{epochs}\n")

    def step(self, number: int, logs: dict[str, float]) -> None:
        """A step has been made."""
        now = time.monotonic()
        if self.live and now - self.shown > 0.1:
            self.shown = now
            done = 20 * number // self.steps
            bar = "━" * done + " " * (20 - done)
            sys.stdout.write(f"\r{number}/{self.steps} {bar} {_numbers(logs)}")
            sys.stdout.flush()

    def end(self, seconds: float, logs: dict[str, float]) -> None:
        """The epoch is over."""
        if not self.verbose:
            return
        start = "\r\033[K" if self.live else ""
        sys.stdout.write(f"{start}{self.steps}/{self.steps} - {seconds:.0f}s - {_numbers(logs)}\n")
        sys.stdout.flush()


def _numbers(logs: dict[str, float]) -> str:
    return " - ".join(f"{name}: {value:.4f}" for name, value in logs.items())


def _taken(model: Fitted, x: Any, what: str) -> Array:
    """Samples; the first tell a model that does not know it their shape."""
    build_for = getattr(model, "build_for", None)
    if build_for is not None:
        build_for(np.shape(x)[1:])
    return data.samples(x, model.input_shape, what)


def _checked(model: Fitted, x: Any, y: Any, weights: Weights, of: str = "") -> Labelled:
    """Samples with their labels and weights.

    Raises:
        UsageError: there are none, or they do not fit.
    """
    taken = _taken(model, x, f"{of}x")
    if not len(taken):
        raise UsageError(Diagnostic("train.data", f"{of}x has no samples", allowed="at least one"))
    labels = data.labels(y, len(taken), model.classes, model.loss, f"{of}y")
    return Labelled(taken, labels, weights.of(labels, model.classes, model.loss))


def _validation(model: Fitted, given: tuple[Any, ...] | None) -> Labelled | None:
    """The samples of `validation_data`: x and y, or x, y and weights.

    Raises:
        UsageError: it is something else.
    """
    if given is None:
        return None
    if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):  # pyright: ignore[reportUnnecessaryIsInstance]
        text = "validation_data is something else than samples and labels"
        raise UsageError(Diagnostic("train.data", text, allowed="(x, y) or (x, y, sample_weight)"))
    return _checked(model, given[0], given[1], Weights(*given[2:]), "validation ")


@contextmanager
def _evaluating(model: Fitted, samples: Array) -> Generator[Trainer]:
    """A trainer that evaluates; a model that has met no samples takes codes of these, for this time."""
    if model.codes is not None:
        yield model.runner()
        return
    model.codes = Codes.of(samples)
    try:
        yield model.runner()
    finally:
        model.codes = model.trainer = None


def _split(samples: Labelled, share: float, *, by_class: bool) -> tuple[Labelled, Labelled]:
    """Keras's rule: the last part is kept back, before anything is shuffled; there classes count alike.

    Raises:
        UsageError: a share that leaves nothing on one side.
    """
    first = int(len(samples) * (1 - share)) if 0 < share < 1 else 0
    if not 0 < first < len(samples):
        text = f"validation_split={share} of {len(samples)} samples"
        raise UsageError(
            Diagnostic("train.data", text, allowed="a share between 0 and 1 that leaves samples")
        )
    rest = samples[first:]
    return samples[:first], replace(rest, weights=None) if by_class else rest


def _measured(model: Fitted, trainer: Trainer, samples: Labelled) -> Totals:
    """Losses and hits of samples, as the network is now."""
    totals = Totals()
    results = _results(model, trainer, samples.x)
    totals.add(model.loss.of_results(results, samples.y), samples.weights)
    return totals


def _results(model: Fitted, trainer: Trainer, x: Array) -> Array:
    """What the network gives; where no step has found its shifts yet, these are found first."""
    if trainer.settled or not len(x):
        return trainer.results(x)
    with trainer.adapted(model.encode(x[: trainer.batches.train])):
        return trainer.results(x)


def evaluate_on(model: Fitted, x: Any, y: Any, sample_weight: Any, *, verbose: int) -> dict[str, float]:
    """Loss and metrics of samples."""
    if model.loss is None:
        raise UsageError(NO_LOSS)
    taken = _checked(model, x, y, Weights(sample_weight))
    with _evaluating(model, taken.x) as trainer:
        found = _measured(model, trainer, taken).means(model.metrics)
    if verbose:
        sys.stdout.write(_numbers(found) + "\n")
    return found


def predict_on(model: Fitted, x: Any) -> NDArray[np.float32]:
    """What the network gives for samples."""
    taken = _taken(model, x, "x")
    with _evaluating(model, taken) as trainer:
        return _results(model, trainer, taken)
