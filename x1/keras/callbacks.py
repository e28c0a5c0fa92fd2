"""Callbacks: any object with Keras's methods will do; a few of Keras's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast


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


class History(Callback):
    """The numbers of every epoch, by name."""

    def __init__(self) -> None:
        self.epoch: list[int] = []
        self.history: dict[str, list[float]] = {}

    def note(self, epoch: int, logs: dict[str, float]) -> None:
        """The numbers of an epoch."""
        self.epoch.append(epoch)
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)


class CallbackList:
    """Callbacks that are told what happens; a method that one lacks is left out."""

    def __init__(self, callbacks: Any, model: Any, params: dict[str, Any]) -> None:
        several = isinstance(callbacks, Sequence)
        self.callbacks: list[Any] = list(cast("Sequence[Any]", callbacks)) if several else [callbacks]
        for callback in self.callbacks:
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
