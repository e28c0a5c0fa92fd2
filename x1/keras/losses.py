"""Keras's losses, as far as the device has them."""

from __future__ import annotations

from typing import Any, Final

from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.records import Frozen

SPARSE: Final = "sparse_categorical_crossentropy"
ONE_HOT: Final = "categorical_crossentropy"
NAMED: Final = {
    SPARSE: SPARSE,
    ONE_HOT: ONE_HOT,
    "SparseCategoricalCrossentropy": SPARSE,
    "CategoricalCrossentropy": ONE_HOT,
}


class Loss(Frozen):
    """A loss: its name, and whether it takes the softmax itself."""

    name: str
    from_logits: bool = False

    @property
    def one_hot(self) -> bool:
        """Whether labels are rows with a 1 for the class."""
        return self.name == ONE_HOT


def SparseCategoricalCrossentropy(from_logits: bool = False) -> Loss:  # noqa: N802
    """For labels that are numbers of classes."""
    return Loss(SPARSE, from_logits)


def CategoricalCrossentropy(from_logits: bool = False) -> Loss:  # noqa: N802
    """For labels that are rows with a 1 for the class."""
    return Loss(ONE_HOT, from_logits)


def get(identifier: Any) -> Loss:
    """A loss of a name, or of an object of Keras's.

    Raises:
        UsageError: there is none, or it has an option that the device has not.
    """
    if isinstance(identifier, Loss):
        return identifier
    if identifier is None:
        raise UsageError(Diagnostic("train.loss", "the model has no loss", remedy="compile(loss=...)"))
    if isinstance(identifier, str):
        name, options = identifier, {}
    else:
        name = type(identifier).__name__
        options = dict(identifier.get_config()) if hasattr(identifier, "get_config") else {}
    if name not in NAMED:
        raise UsageError(not_among("train.loss", f"there is no loss '{name}'", name, [SPARSE, ONE_HOT]))
    if options.get("label_smoothing"):
        raise UsageError(Diagnostic("train.loss", f"{name}: label_smoothing is not supported", allowed="0"))
    return Loss(NAMED[name], bool(options.get("from_logits", False)))
