"""Programs of training under the checker: planted faults are found, and every legal interleaving gives one state."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.codegen.emit_step import state_image
from compiler.codegen.training import generate_streams
from compiler.schedule.options import schedule_options
from compiler.train.network import rebatched
from compiler.train.optimizers.optimizer import optimizer_of
from compiler.train.step import initial_state, training_step
from isa.faults import MachineTrap
from isa.program import Note, Program
from isa.target import load_target
from runtime.session import ProgramSession
from tests.bench import executor
from tests.mutant_hunt import Original, hunt
from tests.mutants import MUTATIONS
from x1.keras.data import Codes
from x1.keras.layers import (
    Add,
    BatchNormalization,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Flatten,
    Input,
    MaxPooling2D,
)
from x1.keras.models import Model

Array = NDArray[Any]
LOG = logging.getLogger(__name__)
TARGETS: Final = ("edge32", "tiny8")
BATCH: Final = 3
SETTLED: Final = 5
"""Times that all batches have been seen."""
INTERLEAVINGS = pytest.mark.parametrize("seeds", [3, pytest.param(20, marks=pytest.mark.nightly)])
COUNTS = pytest.mark.parametrize("count", [4, pytest.param(500, marks=pytest.mark.nightly)])


def plain() -> Model:
    given = Input((6, 6, 1))
    x = MaxPooling2D(2)(Conv2D(5, 3, activation="relu")(given))
    return Model(given, Dense(3, activation="softmax")(Dense(9)(Flatten()(x))))


def normalized() -> Model:
    given = Input((6, 6, 2))
    x = BatchNormalization()(Conv2D(4, 3, padding="same", use_bias=False)(given))
    x = Add()([x, DepthwiseConv2D(3, padding="same")(x)])
    return Model(given, Dense(3, activation="softmax")(Flatten()(x)))


@dataclass
class Step(Original):
    """A step of training."""

    states: list[bytes]
    """From which steps are made: a number may be 0 by chance in one."""
    inputs: list[Mapping[str, Array]]

    def run(self, program: Program, seed: int | None = None) -> bytes:
        """What steps on several batches leave: outputs and the state; a trap is a result too."""
        left: list[bytes] = []
        try:
            for begun in self.states:
                state = np.frombuffer(begun, np.uint8).copy()
                session = ProgramSession(program, kept=[state])
                for given in self.inputs:
                    result = session.execute(given, executor=executor(seed))
                    left += [y.tobytes() for y in result.outputs.values()]
                left.append(state.tobytes())
        except MachineTrap as trap:
            return str(trap).encode()
        return b"".join(left)


@cache
def original(kind: str, target: str) -> Step:
    """A step of a small network of that kind."""
    model = {"plain": plain, "normalized": normalized}[kind]()
    model.codes = Codes.of(np.zeros(1, np.float32))
    network, optimizer = model.network(), optimizer_of("momentum")
    step = training_step(rebatched(network, BATCH, BATCH), optimizer)
    values = initial_state(step.states, model.parameters())
    made, place = generate_streams(
        {"train": step}, values, load_target(target), schedule_options(3), Note(), search=False
    )
    program = made.programs[0]
    r = np.random.default_rng(3)
    inputs: list[Mapping[str, Array]] = []
    for count in range(1, 4):
        numbers = optimizer.of_step(count, np.float32(0.02))
        inputs.append(
            {
                network.source.name: r.integers(0, 256, (BATCH, *network.source.shape[1:])).astype(np.uint8),
                "labels": r.integers(0, 3, BATCH).astype(np.int32),
                "numbers": np.array([numbers[n] for n in optimizer.step_numbers], np.float32),
            }
        )
    states: list[bytes] = []
    for _ in range(2):
        values = {n: v if n not in network.parameters else _other(r, v) for n, v in values.items()}
        begun = np.frombuffer(state_image(place, values), np.uint8).copy()
        session = ProgramSession(program, kept=[begun])
        for _ in range(SETTLED):  # nothing is learned, or errors would fade; shifts come to fit
            for given in inputs:
                session.execute({**given, "numbers": np.zeros_like(given["numbers"])})
        states.append(begun.tobytes())
    return Step(program, states, inputs)


def _other(r: np.random.Generator, value: Array) -> Array:
    """Other weights; rows of 0 or 1 become positive, so that few channels are silent."""
    return (value + r.uniform(-0.3 if value.ndim > 1 else 0.1, 0.3, value.shape)).astype(np.float32)


@INTERLEAVINGS
@pytest.mark.parametrize("kind", ["plain", pytest.param("normalized", marks=pytest.mark.nightly)])
@pytest.mark.parametrize("target", ["edge32", pytest.param("tiny8", marks=pytest.mark.nightly)])
def test_every_legal_interleaving_leaves_the_same_state(kind: str, target: str, seeds: int) -> None:
    found = original(kind, target)
    assert all(found.run(found.program, seed) == found.left for seed in range(seeds))


@COUNTS
@pytest.mark.parametrize("kind", MUTATIONS)
def test_at_most_one_in_a_hundred_mutants_of_training_escapes(kind: str, count: int) -> None:
    random = np.random.default_rng([11, *kind.encode()])
    kinds = ("plain",) if count < 100 else ("plain", "normalized")
    programs = [original(k, t) for k in kinds for t in TARGETS]
    found = hunt(kind, count, programs, random)
    escaped = found.escaped
    LOG.info("%s: %d caught, %d equivalent, %d escaped", kind, found.caught, found.equivalent, len(escaped))
    assert len(escaped) <= 0.01 * (found.caught + len(escaped)), "\n".join(escaped)
