"""Optimizers on the machine: the recorded steps as v32 instructions give the bits of the formula in numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import compiler.train.optimizers  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.train.formula import Formula, Step, formula_of
from compiler.train.optimizers.optimizer import Optimizer, apply, optimizer_of
from isa.instructions.vector_words import UNARY, Function32, Source32, Vector32
from isa.memory_map import Space, address_unit
from isa.support.records import replace
from isa.target import load_target
from tests.bench import Bench
from tests.training.make_optimizer_golden import CASES, Float, gradients, weights

TARGET = load_target("edge32")
ROWS, LANES = 24, 32
UNIT = address_unit(TARGET, Space.ACC)


def instruction(step: Step, formula: Formula, places: dict[str, int]) -> Vector32:
    """A step on row blocks; a number is the granule of its index, in both words."""
    fields: dict[str, int | Source32] = {}
    operands = (("a", step.a),) if step.function in UNARY else (("a", step.a), ("b", step.b or ""))
    for operand, name in operands:
        if name in formula.numbers:
            fields |= {f"s{operand}": Source32.PRM, "prm": formula.numbers.index(name)}
        else:
            fields[operand] = places[name]
    return replace(Vector32(fn=step.function, d=places[step.result], rows=ROWS, lanes=LANES), **fields)


def on_machine(
    chosen: Optimizer, formula: Formula, w: Float, g: Float, slots: dict[str, Float], step: int
) -> tuple[Float, dict[str, Float]]:
    """A step of the optimizer by v32: every name has a block of rows."""
    blocks = itertools.count(0, ROWS)
    places = {name: next(blocks) for name in ("w", "g", *chosen.slots, *(s.result for s in formula.steps))}
    bench = Bench(*(instruction(s, formula, places) for s in formula.steps), target=TARGET)
    numbers = {n: np.float32(v) for n, v in chosen.all_constants().items()}
    numbers |= chosen.of_step(step, np.float32(chosen.learning_rate))
    words = np.repeat(np.array([numbers[n] for n in formula.numbers], np.float32), 2)
    bench.put(Space.PRM, 0, words)
    for name, values in {"w": w, "g": g, **slots}.items():
        bench.put(Space.ACC, places[name] * UNIT, values)
    bench.run()
    found = {
        name: bench.get(Space.ACC, places[result] * UNIT, w.shape, np.float32)
        for name, result in formula.results.items()
    }
    return found.pop("w"), found


@pytest.mark.parametrize("name", CASES)
def test_the_machine_gives_the_bits_of_the_formula(name: str) -> None:
    _, ours, options = CASES[name]
    chosen = optimizer_of(ours, options)
    formula = formula_of(chosen)
    count = ROWS * LANES
    w = weights()[:count].reshape(ROWS, LANES)
    slots = {slot: np.zeros_like(w) for slot in chosen.slots}
    for step in range(1, 6):
        g = gradients(step)[:count].reshape(ROWS, LANES)
        numbers = chosen.of_step(step, np.float32(chosen.learning_rate))
        expected = apply(chosen, w, g, slots, numbers)
        w, slots = on_machine(chosen, formula, w, g, slots, step)
        np.testing.assert_array_equal(w, expected[0])
        for slot in chosen.slots:
            np.testing.assert_array_equal(slots[slot], expected[1][slot])


def test_equal_steps_are_recorded_once() -> None:
    formula = formula_of(optimizer_of("momentum", {"nesterov": True}))
    functions = [s.function for s in formula.steps]
    assert functions.count(Function32.FMUL) == 3  # m*mu twice, g*rate once
    assert formula.numbers == ("mu", "rate")


def test_last_uses_say_until_when_rows_are_needed() -> None:
    formula = formula_of(optimizer_of("sgd"))
    assert formula.steps == (
        Step(Function32.FMUL, "t0", "g", "rate"),
        Step(Function32.FSUB, "t1", "w", "t0"),
    )
    assert formula.last_uses() == {"g": 0, "rate": 0, "w": 1, "t0": 1, "t1": 2}
