"""Adam (Kingma and Ba, 2015), and with decoupled weight decay AdamW (Loshchilov and Hutter, 2019)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from compiler.train.optimizers.optimizer import Optimizer, W, optimizer

DIGITS = 60
"""Of the powers, before they are rounded."""
LEAST_EXPONENT = -149
"""Of float32: all numbers are multiples of 2 to this."""


def power(base: float, exponent: int) -> np.float32:
    """A float32 number to a power, rounded to float32 once, half to even; numpy's is off in some steps."""
    import mpmath as library  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]  (late: it is slow)

    m: Any = library
    with m.workdps(DIGITS):
        exact = m.mpf(float(np.float32(base))) ** exponent
        _, binary = m.frexp(exact)
        unit = max(int(binary) - 24, LEAST_EXPONENT)
        return np.float32(float(m.ldexp(m.nint(m.ldexp(exact, -unit)), unit)))


@optimizer("adam")
class Adam(Optimizer):
    """m += (g-m)*(1-b1); v += (g*g-v)*(1-b2); w -= (m*alpha)/(sqrt(v)+eps); keras.optimizers.Adam."""

    slots = ("momentum", "velocity")
    step_numbers = ("rate", "alpha")
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def constants(self) -> Mapping[str, float]:
        """What the means gain from a step, and what keeps the quotient finite."""
        return {"gain_1": 1 - self.beta_1, "gain_2": 1 - self.beta_2, "epsilon": self.epsilon}

    def of_step(self, step: int, learning_rate: np.float32) -> Mapping[str, np.float32]:
        """The rate, and alpha = rate*sqrt(1-b2^t)/(1-b1^t), which makes up for means that began at 0."""
        one = np.float32(1)
        above, below = one - power(self.beta_2, step), one - power(self.beta_1, step)
        return {"rate": learning_rate, "alpha": learning_rate * np.sqrt(above) / below}

    def update(
        self, w: W, g: W, slots: Mapping[str, W], k: Mapping[str, W], sqrt: Callable[[W], W]
    ) -> tuple[W, Mapping[str, W]]:
        """Both means first, then the weights by them."""
        m, v = slots["momentum"], slots["velocity"]
        m = m + (g - m) * k["gain_1"]
        v = v + (g * g - v) * k["gain_2"]
        return w - (m * k["alpha"]) / (sqrt(v) + k["epsilon"]), {"momentum": m, "velocity": v}


@optimizer("adamw")
class AdamW(Adam):
    """w -= (w*decay)*rate, then as Adam; keras.optimizers.AdamW."""

    weight_decay: float = 0.004

    def constants(self) -> Mapping[str, float]:
        """The decay besides."""
        return {**super().constants(), "decay": self.weight_decay}

    def update(
        self, w: W, g: W, slots: Mapping[str, W], k: Mapping[str, W], sqrt: Callable[[W], W]
    ) -> tuple[W, Mapping[str, W]]:
        """The decay first."""
        return super().update(w - (w * k["decay"]) * k["rate"], g, slots, k, sqrt)
