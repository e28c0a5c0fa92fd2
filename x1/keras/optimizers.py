"""Keras's optimizers, as far as the device has them."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any, Final, cast

import numpy as np

import compiler.train.optimizers  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.train.optimizers.optimizer import Optimizer, optimizer_of
from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.records import asdict
from x1.keras.utils import is_neutral

NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "name": (),
    "amsgrad": (False,),
    "centered": (False,),
    "weight_decay": (None, 0),
    "clipnorm": (None,),
    "global_clipnorm": (None,),
    "clipvalue": (None,),
    "use_ema": (False,),
    "ema_momentum": (),
    "ema_overwrite_frequency": (),
    "loss_scale_factor": (None,),
    "gradient_accumulation_steps": (None,),
    "jit_compile": (),
}
"""Options of Keras that change nothing while they have one of these values; none: whatever they are."""


class KerasOptimizer:
    """An optimizer whose learning rate may change between steps."""

    def __init__(self, chosen: Optimizer) -> None:
        self.chosen = chosen
        self.learning_rate: Any = chosen.learning_rate

    def __repr__(self) -> str:
        return f"<{self.chosen.name}: learning rate {self.learning_rate}>"

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0: a number, or a schedule's.

        Raises:
            UsageError: it is no finite number of 0 or more.
        """
        rate: Any = self.learning_rate
        found: Any = rate(step) if callable(rate) else rate
        if not isinstance(found, Real) or not 0 <= float(found) < np.inf:
            text = f"the learning rate of step {step} is {found!r}"
            raise UsageError(Diagnostic("train.optimizer", text, allowed="finite numbers of 0 or more"))
        return float(found)

    def get_config(self) -> dict[str, Any]:
        """Its options."""
        name = "sgd" if self.chosen.name == "momentum" else self.chosen.name
        return {"name": name, **asdict(self.chosen), "learning_rate": self.learning_rate}


def _made(name: str, options: Mapping[str, Any]) -> KerasOptimizer:
    rate = options.get("learning_rate")
    schedule = rate if callable(rate) else None
    unset = {k for k, v in options.items() if v is None or (k == "learning_rate" and schedule is not None)}
    kept = {k: v for k, v in options.items() if k not in unset}
    made = KerasOptimizer(optimizer_of(name, kept))
    if schedule is not None:
        made.learning_rate = schedule
    return made


def SGD(  # noqa: N802
    learning_rate: Any = 0.01, momentum: float = 0.0, nesterov: bool = False, **options: Any
) -> KerasOptimizer:
    """Gradient descent, with momentum if it is not 0; the option clipvalue, as of all optimizers."""
    options = {"learning_rate": learning_rate, **options}
    if momentum:
        return _made("momentum", {**options, "momentum": momentum, "nesterov": nesterov})
    return _made("sgd", options)


def Adam(learning_rate: Any = 0.001, **options: Any) -> KerasOptimizer:  # noqa: N802
    """The options beta_1=0.9, beta_2=0.999, epsilon=1e-7."""
    return _made("adam", {"learning_rate": learning_rate, **options})


def AdamW(learning_rate: Any = 0.001, **options: Any) -> KerasOptimizer:  # noqa: N802
    """As Adam, and weight_decay=0.004."""
    return _made("adamw", {"learning_rate": learning_rate, **options})


def RMSprop(learning_rate: Any = 0.001, **options: Any) -> KerasOptimizer:  # noqa: N802
    """The options rho=0.9, epsilon=1e-7; not centered."""
    return _made("rmsprop", {"learning_rate": learning_rate, **options})


NAMED: Final = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def get(identifier: Any) -> KerasOptimizer:
    """An optimizer of a name, of a configuration, or of an object of Keras's.

    Raises:
        UsageError: there is none of that name, or it has an option that the device has not.
    """
    if isinstance(identifier, KerasOptimizer):
        return identifier
    if isinstance(identifier, str):
        name, options = identifier.lower(), dict[str, Any]()
    else:
        describes = hasattr(identifier, "get_config") and not isinstance(identifier, type)
        asked: Any = identifier
        given: Any = asked.get_config() if describes else asked
        if not isinstance(given, Mapping):
            text = f"{identifier!r} is no optimizer"
            raise UsageError(
                Diagnostic("train.optimizer", text, allowed=f"a name ({', '.join(NAMED)}) or an object")
            )
        config = dict(cast("Mapping[str, Any]", given))
        named = str(config.pop("name", "")).lower()
        kind = type(identifier).__name__.lower()  # the name of an object of Keras's may be any
        name = kind if kind in NAMED else named
        options = {k: v for k, v in config.items() if not _is_neutral(name, k, v)}
    if name not in NAMED:
        raise UsageError(not_among("train.optimizer", f"there is no optimizer '{name}'", name, list(NAMED)))
    if name == "sgd" and not options.get("momentum"):
        options = {k: v for k, v in options.items() if k not in ("momentum", "nesterov")}
    return NAMED[name](**options)


def _is_neutral(optimizer: str, option: str, value: Any) -> bool:
    if optimizer == "adamw" and option == "weight_decay":
        return False
    if option == "momentum" and optimizer == "rmsprop":
        return value == 0
    return is_neutral(NEUTRAL, option, value)


def restored(name: str, options: Mapping[str, Any]) -> KerasOptimizer:
    """The optimizer of a checkpoint: by the name and the options of the device's own.

    Raises:
        UsageError: there is none.
    """
    return KerasOptimizer(optimizer_of(name, options))
