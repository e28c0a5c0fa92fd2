"""Optimizers: the bits of Keras's own on its numpy backend, step by step, from a file that Keras wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import compiler.train.optimizers  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.train.optimizers.adam import Adam, AdamW, power
from compiler.train.optimizers.optimizer import OPTIMIZERS, Optimizer, apply, optimizer_of
from isa.support.diagnostics import UsageError
from tests.training.make_optimizer_golden import CASES, Float, digest, gradients, weights

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).resolve().parents[1] / "golden" / "training" / "optimizers.json").read_text(
        encoding="utf-8"
    )
)
STEPS: int = GOLDEN["steps"]
F = np.float32


def numpy_power(base: float, step: int) -> np.float32:
    """What numpy's own power gave where the file was written."""
    return np.uint32(GOLDEN["powers"][str(base)][step - 1]).view(np.float32)


def numbers_of(chosen: Optimizer, step: int) -> dict[str, np.float32]:
    """Those of the step; of Adam with the powers that Keras had."""
    rate = F(chosen.learning_rate)
    if not isinstance(chosen, Adam):
        return dict(chosen.of_step(step, rate))
    above, below = F(1) - numpy_power(chosen.beta_2, step), F(1) - numpy_power(chosen.beta_1, step)
    return {"rate": rate, "alpha": rate * np.sqrt(above) / below}


def first_difference(chosen: Optimizer, digests: list[str], steps: int = STEPS) -> int | None:
    """The first step whose weights are not those of Keras."""
    w = weights()
    slots: dict[str, Float] = {name: np.zeros_like(w) for name in chosen.slots}
    for step in range(1, steps + 1):
        w, after = apply(chosen, w, gradients(step), slots, numbers_of(chosen, step))
        slots = dict(after)
        assert w.dtype == np.float32
        if digest(w) != digests[step - 1]:
            return step
    return None


@pytest.mark.parametrize("name", CASES)
def test_the_weights_are_those_of_keras_after_every_step(name: str) -> None:
    _, ours, options = CASES[name]
    assert first_difference(optimizer_of(ours, options), GOLDEN["digests"][name]) is None


def test_every_optimizer_is_compared() -> None:
    assert {ours for _, ours, _ in CASES.values()} == set(OPTIMIZERS)


def test_an_operation_in_another_place_is_found() -> None:
    class Reordered(AdamW):
        """w*(decay*rate): the same in real numbers."""

        def update(self, w: Any, g: Any, slots: Any, k: Any, sqrt: Any) -> Any:
            return Adam.update(self, w - w * (k["decay"] * k["rate"]), g, slots, k, sqrt)

    assert first_difference(Reordered(), GOLDEN["digests"]["adamw"], 20) is not None


@pytest.mark.parametrize("base", [0.9, 0.999, 0.5])
def test_powers_are_rounded_once(base: float) -> None:
    """Against exact fractions, subnormals and 0 included."""
    exact = Fraction(1)
    for step in range(1, 1200 if base == 0.9 else 400):
        exact *= Fraction(float(F(base)))
        found = power(base, step)
        below, above = (np.nextafter(found, F(side)) for side in (0, 2))
        error = abs(Fraction(float(found)) - exact)
        assert error <= min(abs(Fraction(float(v)) - exact) for v in (below, above)), step


def test_numpy_powers_that_are_off_are_off_by_one_place(golden: Callable[[str, str], None]) -> None:
    """Steps whose power in Keras was not the correctly rounded one: there Adam's alpha may differ."""
    lines: list[str] = []
    for base in (0.9, 0.999):
        steps = [t for t in range(1, STEPS + 1) if power(base, t) != numpy_power(base, t)]
        for step in steps:
            ours, theirs = power(base, step), numpy_power(base, step)
            assert theirs in (np.nextafter(ours, F(0)), np.nextafter(ours, F(1)))
        lines.append(f"{base}: {' '.join(map(str, steps))}\n")
    golden("training/powers.txt", "".join(lines))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [("adan", {}, "did you mean 'adam'"), ("adam", {"amsgrad": True}, "adam has no option 'amsgrad'")],
)
def test_what_is_not_known_is_refused_with_what_is(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as refused:
        optimizer_of(name, options)
    assert said in str(refused.value)
