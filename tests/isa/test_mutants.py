"""How many faults, planted in compiled programs, the checker finds.

Five hundred mutants of each kind nightly, and 120 otherwise. A mutant that means the same, by a decision that knows nothing of the
checker and by the bytes of several runs, counts apart; of the others at most one in a hundred may escape.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from isa.checker import check
from isa.faults import MachineTrap
from isa.program import Program
from runtime.session import ProgramSession
from tests.bench import executor
from tests.mutant_hunt import Original, hunt
from tests.mutants import MUTATIONS, keeps_order
from tests.networks import compiled_and_verified, random_graph, random_inputs

LOG = logging.getLogger(__name__)
INPUTS = 8
SEEDS = {80: 12, 500: 30}
"""Random networks for so many mutants of each kind."""
LEAST_VALUES = 16
COUNTS = pytest.mark.parametrize("count", [80, pytest.param(500, marks=pytest.mark.nightly)])
Inputs = list[dict[str, np.ndarray]]


@dataclass
class Network(Original):
    """A program of inference."""

    inputs: Inputs

    def run(self, program: Program, seed: int | None = None) -> bytes:
        """The bytes of all outputs."""
        return outputs(program, self.inputs, seed)

    def is_telling(self) -> bool:
        """Whether the outputs tell inputs apart, by many values: some random networks give constants."""
        each = [outputs(self.program, [sample]) for sample in self.inputs]
        return len(set(each)) == len(each) and min(len(set(y)) for y in each) >= LEAST_VALUES


@cache
def originals(seeds: int) -> list[Network]:
    """Random networks of which a wrong byte can be seen in the output."""
    made: list[Network] = []
    for seed in range(seeds):
        graph = random_graph(seed)
        for target in ("tiny8", "edge32"):
            program = compiled_and_verified(graph, target, samples=1)[0].program
            made.append(Network(program, random_inputs(graph, INPUTS, seed=3)))
    return [o for o in made if o.is_telling()]


def outputs(program: Program, inputs: Inputs, seed: int | None = None) -> bytes:
    """The bytes of all outputs; a trap is a result too."""
    session = ProgramSession(program)
    try:
        return b"".join(
            y.tobytes()
            for sample in inputs
            for y in session.execute(sample, executor=executor(seed)).outputs.values()
        )
    except MachineTrap as trap:
        return str(trap).encode()


@COUNTS
@pytest.mark.parametrize("kind", MUTATIONS)
def test_of_hundreds_of_mutants_at_most_one_in_a_hundred_escapes(kind: str, count: int) -> None:
    random = np.random.default_rng([7, *kind.encode()])
    found = hunt(kind, count, originals(SEEDS[count]), random)
    escaped = found.escaped
    LOG.info("%s: %d caught, %d equivalent, %d escaped", kind, found.caught, found.equivalent, len(escaped))
    for text in escaped:
        LOG.info(text)
    assert len(escaped) <= 0.01 * (found.caught + len(escaped)), "\n".join(escaped)
    assert found.equivalent <= 0.6 * count


@COUNTS
def test_no_original_is_rejected(count: int) -> None:
    programs = originals(SEEDS[count])
    assert len(programs) >= 0.8 * SEEDS[count]
    assert [check(o.program).violations for o in programs] == [()] * len(programs)


def test_the_decision_of_equivalence_is_not_always_yes() -> None:
    """A dropped token that the checker finds must not count as equivalent either."""
    random = np.random.default_rng(1)
    for original in originals(SEEDS[80]):
        mutant = MUTATIONS["dropped pair"](original.program, random)
        if mutant is not None and check(mutant.program).violations:
            assert not keeps_order(original.program, original.conflicts, mutant)
