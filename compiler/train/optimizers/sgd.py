"""Stochastic gradient descent: plain, with momentum, with Nesterov's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compiler.train.optimizers.optimizer import Optimizer, W, optimizer


@optimizer("sgd")
class Sgd(Optimizer):
    """w -= g*rate; keras.optimizers.SGD without momentum."""

    learning_rate: float = 0.01

    def update(
        self, w: W, g: W, slots: Mapping[str, W], k: Mapping[str, W], sqrt: Callable[[W], W]
    ) -> tuple[W, Mapping[str, W]]:
        """One product, one difference."""
        del slots, sqrt
        return w - g * k["rate"], {}


@optimizer("momentum")
class Momentum(Optimizer):
    """m = m*mu - g*rate; w += m, or with nesterov w += m*mu - g*rate; keras.optimizers.SGD with momentum."""

    slots = ("momentum",)
    learning_rate: float = 0.01
    momentum: float = 0.9
    nesterov: bool = False

    def constants(self) -> Mapping[str, float]:
        """The share of the last step that the next one keeps."""
        return {"mu": self.momentum}

    def update(
        self, w: W, g: W, slots: Mapping[str, W], k: Mapping[str, W], sqrt: Callable[[W], W]
    ) -> tuple[W, Mapping[str, W]]:
        """The momentum first, then the weights by it."""
        del sqrt
        m = slots["momentum"] * k["mu"] - g * k["rate"]
        step = m * k["mu"] - g * k["rate"] if self.nesterov else m
        return w + step, {"momentum": m}
