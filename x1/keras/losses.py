"""Keras's losses, as far as the device has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from isa.instructions.vector_loss import STEPS_BITS
from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.records import Frozen
from x1.keras.utils import is_neutral

Array = NDArray[Any]
SPARSE: Final = "sparse_categorical_crossentropy"
ONE_HOT: Final = "categorical_crossentropy"
BINARY: Final = "binary_crossentropy"
SQUARED: Final = "mean_squared_error"
NAMED: Final = {
    SPARSE: SPARSE,
    ONE_HOT: ONE_HOT,
    BINARY: BINARY,
    SQUARED: SQUARED,
    "mse": SQUARED,
    "SparseCategoricalCrossentropy": SPARSE,
    "CategoricalCrossentropy": ONE_HOT,
    "BinaryCrossentropy": BINARY,
    "MeanSquaredError": SQUARED,
}
KINDS: Final = {SPARSE: ONE_HOT}
"""The compiler's name of a loss, where it is another."""
ACCURACIES: Final = {
    SPARSE: "sparse_categorical_accuracy",
    ONE_HOT: "categorical_accuracy",
    BINARY: "binary_accuracy",
}
NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "name": (),
    "from_logits": (),
    "dtype": (),
    "label_smoothing": (0, None),
    "ignore_class": (None,),
    "axis": (-1,),
    "reduction": ("sum_over_batch_size", "auto", None),
}
"""Options of Keras that change nothing while they have one of these values; none: whatever they are."""
LEAST_PROBABILITY: Final = 1e-7
"""Keras's: a smaller one counts as this in a loss."""
STEPS_PER_UNIT: Final = 1 << STEPS_BITS
"""Logits count in such steps in what the device leaves of a batch."""
ONE: Final = -128
"""The label of 1 as the device takes it: what is added to a probability of 2^-7."""


class Measures(Frozen):
    """Of every sample the loss, and the part of its values that is right."""

    losses: NDArray[np.float64]
    hits: NDArray[np.float64]


class Loss(Frozen):
    """A loss: its name, and whether it takes the softmax or the sigmoid itself."""

    name: str
    from_logits: bool = False

    @property
    def kind(self) -> str:
        """The compiler's name."""
        return KINDS.get(self.name, self.name)

    @property
    def one_hot(self) -> bool:
        """Whether labels are rows with a 1 for the class."""
        return self.name == ONE_HOT

    @property
    def of_classes(self) -> bool:
        """Whether a label is the number of a class, on the device."""
        return self.kind == ONE_HOT

    def require_end(self, of_function: bool) -> None:
        """Refuse a network whose last function the loss takes itself, and one that lacks it.

        Raises:
            UsageError: the loss does not fit the last layer.
        """
        if self.name == SQUARED or of_function != self.from_logits:
            return
        end = "sigmoid" if self.name == BINARY else "softmax"
        text = f"{self.name} takes the {end} itself, and the network ends in one"
        remedy = f"leave the {end} out, or from_logits=False"
        if not of_function:
            text = f"{self.name} takes probabilities, and the network does not end in a {end}"
            remedy = f"activation='{end}' in the last layer, or a loss with from_logits=True"
        raise UsageError(Diagnostic("train.loss", text, remedy=remedy))

    @property
    def accuracies(self) -> tuple[str, ...]:
        """The names that Keras has for its accuracy."""
        return ("accuracy", "acc", ACCURACIES[self.name]) if self.name in ACCURACIES else ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that it has."""
        return self.accuracies[:1]

    def given(self, labels: Array) -> Array:
        """Labels as the device takes them."""
        if self.name == BINARY:
            return (labels * ONE).astype(np.int8)
        return labels.astype(np.int32 if self.of_classes else np.float32)

    def of_records(self, records: Array, labels: Array) -> Measures:
        """From what the device leaves of a batch in training: differences and sums, logits, or values."""
        if self.of_classes:  # difference to the greatest logit, sum of the table's entries, class
            sums = records[:, 1].copy().view(np.float32).astype(np.float64)
            losses = np.log(sums) - records[:, 0] / STEPS_PER_UNIT
            return Measures(losses, (records[:, 2] == labels).astype(np.float64))
        if self.name == BINARY:
            x = records / STEPS_PER_UNIT
            losses = np.maximum(x, 0) - x * labels + np.log1p(np.exp(-np.abs(x)))
            return Measures(losses.mean(axis=1), ((x > 0) == (labels > 0)).mean(axis=1))
        return self._squared(records, labels)

    def of_results(self, results: Array, labels: Array) -> Measures:
        """From what the network gives: probabilities or values."""
        if self.of_classes:
            p = results[np.arange(len(labels)), labels].astype(np.float64)
            losses = -np.log(np.clip(p, LEAST_PROBABILITY, 1))
            return Measures(losses, (results.argmax(axis=1) == labels).astype(np.float64))
        if self.name == BINARY:
            p = np.where(labels > 0, results, 1 - results).astype(np.float64)
            losses = -np.log(np.clip(p, LEAST_PROBABILITY, 1))
            return Measures(losses.mean(axis=1), ((results > 0.5) == (labels > 0)).mean(axis=1))
        return self._squared(results, labels)

    @staticmethod
    def _squared(values: Array, labels: Array) -> Measures:
        losses = np.square(values.astype(np.float64) - labels).mean(axis=1)
        return Measures(losses, np.zeros(len(losses)))


def SparseCategoricalCrossentropy(from_logits: bool = False) -> Loss:  # noqa: N802
    """For labels that are numbers of classes."""
    return Loss(SPARSE, from_logits)


def CategoricalCrossentropy(from_logits: bool = False) -> Loss:  # noqa: N802
    """For labels that are rows with a 1 for the class."""
    return Loss(ONE_HOT, from_logits)


def BinaryCrossentropy(from_logits: bool = False) -> Loss:  # noqa: N802
    """For labels of 0 and 1."""
    return Loss(BINARY, from_logits)


def MeanSquaredError() -> Loss:  # noqa: N802
    """For labels that are real numbers."""
    return Loss(SQUARED)


def get(identifier: Any) -> Loss:
    """A loss of a name, or of an object of Keras's.

    Raises:
        UsageError: there is none, or it has an option that the device has not.
    """
    if isinstance(identifier, Loss):
        return identifier
    if identifier is None:
        raise UsageError(Diagnostic("train.loss", "the model has no loss", remedy="compile(loss=...)"))
    name, options = str(identifier), dict[str, Any]()
    if isinstance(identifier, Mapping):  # as Keras writes it into files
        described = cast("Mapping[str, Any]", identifier)
        name, given = str(described.get("class_name")), described.get("config")
        options = dict(cast("Mapping[str, Any]", given)) if isinstance(given, Mapping) else options
    elif not isinstance(identifier, str):
        name = type(identifier).__name__
        options = dict(identifier.get_config()) if hasattr(identifier, "get_config") else {}
    if name not in NAMED:
        raise UsageError(
            not_among("train.loss", f"there is no loss '{name}'", name, [SPARSE, ONE_HOT, BINARY, SQUARED])
        )
    other = [name for name, value in options.items() if not is_neutral(NEUTRAL, name, value)]
    if other:
        text = f"{name}: {other[0]}={options[other[0]]!r} is not supported"
        raise UsageError(Diagnostic("train.loss", text, allowed="Keras's default"))
    return Loss(NAMED[name], bool(options.get("from_logits", False)))
