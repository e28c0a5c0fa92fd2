"""RMSprop."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from compiler.train.optimizers.optimizer import Optimizer, W, optimizer


@optimizer("rmsprop")
class RmsProp(Optimizer):
    """v = rho*v + (1-rho)*(g*g); w -= (rate*g)/sqrt(v+eps); keras.optimizers.RMSprop, not centered."""

    slots = ("velocity",)
    rho: float = 0.9
    epsilon: float = 1e-7

    def constants(self) -> Mapping[str, float]:
        """Shares of the old and the new mean square, and what keeps the root from 0."""
        return {"rho": self.rho, "rest": 1 - self.rho, "epsilon": self.epsilon}

    def update(
        self, w: W, g: W, slots: Mapping[str, W], k: Mapping[str, W], sqrt: Callable[[W], W]
    ) -> tuple[W, Mapping[str, W]]:
        """The mean square first, then the weights by it."""
        v = slots["velocity"] * k["rho"] + (g * g) * k["rest"]
        return w - (g * k["rate"]) / sqrt(v + k["epsilon"]), {"velocity": v}
