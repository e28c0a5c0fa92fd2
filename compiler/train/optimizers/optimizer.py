"""How an optimizer is declared, and the vocabulary of its formula.

The formula is stated once. With numpy arrays it computes; with operands that note what is done to them it
becomes instructions. Each of its operations is rounded to float32 once, in the order that it says, which is
Keras's: so the bits are those of Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, ClassVar, Final, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.records import Frozen, names_of


class Word(Protocol):
    """A float32 value for each weight, or one for all: an array, or an operand of instructions."""

    def __add__(self, other: Any, /) -> Any:
        """The sum."""
        ...

    def __sub__(self, other: Any, /) -> Any:
        """The difference."""
        ...

    def __mul__(self, other: Any, /) -> Any:
        """The product."""
        ...

    def __truediv__(self, other: Any, /) -> Any:
        """The quotient."""
        ...


W = TypeVar("W", bound=Word)


LEAST: Final = "least"
GREATEST: Final = "greatest"
"""The bounds of gradients."""


class Optimizer(Frozen):
    """The base of optimizers; the options are those of Keras."""

    name: ClassVar[str]
    slots: ClassVar[tuple[str, ...]] = ()
    """What is kept for every weight beside itself, 0 at first."""
    step_numbers: ClassVar[tuple[str, ...]] = ("rate",)
    """What the host computes for every step: the names that `of_step` gives."""

    learning_rate: float = 0.001
    clipvalue: float = 0.0
    """Gradients are clipped to -clipvalue..clipvalue; 0: they are not."""

    @property
    def bounds(self) -> Mapping[str, float]:
        """Between which gradients are clipped, if they are."""
        return {LEAST: -self.clipvalue, GREATEST: self.clipvalue} if self.clipvalue else {}

    def all_constants(self) -> Mapping[str, float]:
        """The numbers that never change: of the formula, and the bounds of gradients."""
        return {**self.constants(), **self.bounds}

    def constants(self) -> Mapping[str, float]:
        """The numbers of the formula that never change; rounded to float32."""
        return {}

    def of_step(self, step: int, learning_rate: np.float32) -> Mapping[str, np.float32]:
        """The numbers of the formula that the host computes for a step, counted from 1."""
        del step
        return {"rate": learning_rate}

    def update(
        self, w: W, g: W, slots: Mapping[str, W], k: Mapping[str, W], sqrt: Callable[[W], W]
    ) -> tuple[W, Mapping[str, W]]:
        """The new weights and slots; `k` has the constants and the numbers of the step."""
        raise NotImplementedError


OPTIMIZERS: Final[dict[str, type[Optimizer]]] = {}
OptimizerT = TypeVar("OptimizerT", bound=Optimizer)


def optimizer(name: str) -> Callable[[type[OptimizerT]], type[OptimizerT]]:
    """Declare an optimizer by the name that Keras gives it."""

    def declare(cls: type[OptimizerT]) -> type[OptimizerT]:
        assert name not in OPTIMIZERS, f"{name} is declared twice"
        assert cls.__doc__, f"{name} has no text"
        cls.name = name
        OPTIMIZERS[name] = cls
        return cls

    return declare


def optimizer_of(name: str, options: Mapping[str, Any] | None = None) -> Optimizer:
    """The optimizer of a name, with options.

    Raises:
        UsageError: no such optimizer, or it has no such option.
    """
    if name not in OPTIMIZERS:
        message = f"there is no optimizer '{name}'"
        raise UsageError(not_among("train.optimizer", message, name, list(OPTIMIZERS)))
    cls, given = OPTIMIZERS[name], options or {}
    known = names_of(cls)
    unknown = [
        not_among("train.optimizer", f"{name} has no option '{option}'", option, list(known))
        for option in given
        if option not in known
    ]
    unknown += [
        Diagnostic("train.optimizer", f"{name}: {option}={value!r}", allowed="finite numbers of 0 or more")
        for option, value in given.items()
        if not isinstance(value, Real) or not 0 <= float(value) < np.inf
    ]
    if unknown:
        raise UsageError(unknown)
    return cls(**given)


def apply(
    chosen: Optimizer,
    w: NDArray[np.float32],
    g: NDArray[np.float32],
    slots: Mapping[str, NDArray[np.float32]],
    numbers: Mapping[str, np.float32],
) -> tuple[NDArray[np.float32], Mapping[str, NDArray[np.float32]]]:
    """A step on arrays; `numbers` are those of the step."""
    k: dict[str, Any] = {name: np.float32(v) for name, v in chosen.all_constants().items()} | dict(numbers)
    if chosen.bounds:
        g = np.minimum(np.maximum(g, k[LEAST]), k[GREATEST])
    with np.errstate(all="ignore"):
        return chosen.update(w, g, slots, k, np.sqrt)
