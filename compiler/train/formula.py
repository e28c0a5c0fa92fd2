"""An optimizer's formula as steps of `v32`: recorded from the one statement that also computes in numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from compiler.train.optimizers.optimizer import GREATEST, LEAST, Optimizer
from isa.instructions.vector_words import Function32
from isa.support.records import Frozen, Struct, field

WEIGHT: Final = "w"
GRADIENT: Final = "g"


class Step(Frozen):
    """One float32 operation on every weight: its function, its result, its operands by name.

    A name is the weight, the gradient, a slot, a number (a constant of the formula or one of the step), or a
    result before.
    """

    function: Function32
    result: str
    a: str
    b: str | None = None


class Formula(Frozen):
    """The steps of an optimizer, and what then are the new weight and slots."""

    steps: tuple[Step, ...]
    results: Mapping[str, str]
    numbers: tuple[str, ...]
    """The constants and the numbers of the step that are used, in order of first use."""

    def last_uses(self) -> dict[str, int]:
        """For every name the last step that reads it; results of the formula are read after all."""
        found = {name: i for i, s in enumerate(self.steps) for name in (s.a, s.b) if name is not None}
        return found | dict.fromkeys(self.results.values(), len(self.steps))


class Term:
    """An operand that notes what is done to it."""

    def __init__(self, recorder: _Recorder, name: str) -> None:
        self.recorder, self.name = recorder, name

    def __add__(self, other: Term) -> Term:
        """A step that adds."""
        return self.recorder.step(Function32.FADD, self, other)

    def __sub__(self, other: Term) -> Term:
        """A step that subtracts."""
        return self.recorder.step(Function32.FSUB, self, other)

    def __mul__(self, other: Term) -> Term:
        """A step that multiplies."""
        return self.recorder.step(Function32.FMUL, self, other)

    def __truediv__(self, other: Term) -> Term:
        """A step that divides."""
        return self.recorder.step(Function32.FDIV, self, other)


class _Recorder(Struct):
    """The steps so far; what has been computed once is not computed again."""

    steps: list[Step] = field(default_factory=list[Step])
    known: dict[tuple[Function32, str, str | None], Term] = field(
        default_factory=dict[tuple[Function32, str, "str | None"], Term]
    )

    def step(self, function: Function32, a: Term, b: Term | None = None) -> Term:
        """The result of a function."""
        key = (function, a.name, None if b is None else b.name)
        if key not in self.known:
            result = f"t{len(self.steps)}"
            self.steps.append(Step(function, result, *key[1:]))
            self.known[key] = Term(self, result)
        return self.known[key]

    def sqrt(self, x: Term) -> Term:
        """The square root."""
        return self.step(Function32.FSQRT, x)


def formula_of(chosen: Optimizer) -> Formula:
    """The steps of an optimizer's update."""
    recorder = _Recorder()
    names = (*chosen.all_constants(), *chosen.step_numbers)
    clashing = {WEIGHT, GRADIENT, *chosen.slots} & set(names)
    assert not clashing, f"{chosen.name}: {clashing} name two things"
    terms = {name: Term(recorder, name) for name in (WEIGHT, GRADIENT, *chosen.slots, *names)}
    gradient = terms[GRADIENT]
    if chosen.bounds:
        gradient = recorder.step(Function32.FMAX, gradient, terms[LEAST])
        gradient = recorder.step(Function32.FMIN, gradient, terms[GREATEST])
    w, slots = chosen.update(
        terms[WEIGHT],
        gradient,
        {name: terms[name] for name in chosen.slots},
        {name: terms[name] for name in names},
        recorder.sqrt,
    )
    assert set(slots) == set(chosen.slots), f"{chosen.name} does not say all its slots"
    read = [n for s in recorder.steps for n in (s.a, s.b) if n is not None]
    used = dict.fromkeys(n for n in read if n in names)
    results = {WEIGHT: w.name} | {name: term.name for name, term in slots.items()}
    return Formula(tuple(recorder.steps), results, tuple(used))
