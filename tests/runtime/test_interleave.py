"""Engines in any legal interleaving compute the same bytes; without a token, some interleaving does not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from isa.assembly.assembler import assemble
from isa.faults import MachineTrap
from isa.support.records import replace
from isa.target import load_target
from runtime.executors.interleaved import InterleavedExecutor
from runtime.session import ProgramSession
from runtime.state import CoreState
from tests.bench import executor
from tests.networks import compiled_and_verified, random_graph, random_inputs
from tests.tokens import Pair, token_pairs, without_pair
from x1 import api
from x1.samples import sample_folder

LOG = logging.getLogger(__name__)

REPOSITORY = Path(__file__).resolve().parents[2]
Inputs = dict[str, np.ndarray]


@dataclass
class Sample:
    """A program, an input, and the bytes of program order."""

    session: ProgramSession
    inputs: Inputs

    def __post_init__(self) -> None:
        self.expected = self.bytes()

    def bytes(self, seed: int | None = None) -> bytes:
        """The bytes of all outputs."""
        found = self.session.execute(self.inputs, executor=executor(seed)).outputs
        return b"".join(y.tobytes() for y in found.values())

    def differs(self, pair: Pair, runs: int) -> bool:
        """Whether some interleaving shows that a token is missing: by other bytes, or by a trap."""
        mutant = Sample(ProgramSession(without_pair(self.session.program, pair)), self.inputs)
        try:
            return any(mutant.bytes(seed) != self.expected for seed in range(runs))
        except MachineTrap:
            return True


def by_hand(name: str, depth: int = 8) -> Sample:
    folder = REPOSITORY / "samples" / "asm"
    program = assemble((folder / f"{name}.x1s").read_text(encoding="utf-8"), f"{name}.x1s", folder).program
    target = load_target(program.target.name, [f"ctl.queue_depth={depth}"])
    (given,) = program.abi.inputs
    random = np.random.default_rng(1)
    values = random.integers(-128, 128, given.shape).astype(given.dtype)
    return Sample(ProgramSession(replace(program, target=target)), {given.name: values})


def digits(target: str) -> Sample:
    """The network that ships, and noise: most tiles of a digit are alike, so that mistaking them shows nothing."""
    folder = sample_folder("mnist")
    with np.load(folder / "digits.npz") as data:
        images = data["inputs"]
    binary = api.compile(
        folder / "mnist.net", target, calibrate=[{"image": images[i : i + 1]} for i in range(8)]
    )
    noise = np.random.default_rng(3).random((1, 28, 28, 1), np.float32)
    return Sample(ProgramSession(binary.program), {"image": noise})


def random_network(seed: int, target: str) -> Sample:
    graph = random_graph(seed)
    binary, _ = compiled_and_verified(graph, target, samples=1)
    return Sample(ProgramSession(binary.program), random_inputs(graph, 1)[0])


SAMPLES: dict[str, Callable[[], Sample]] = {
    "edges, queues of 1": lambda: by_hand("edges", 1),
    "edges, queues of 2": lambda: by_hand("edges", 2),
    "edges": lambda: by_hand("edges"),
    "edges, queues of 64": lambda: by_hand("edges", 64),
    "stem": lambda: by_hand("stem"),
    "digits on edge32": lambda: digits("edge32"),
    "digits on tiny8": lambda: digits("tiny8"),
    **{f"random {n}": lambda n=n: random_network(n, "tiny8") for n in range(4)},
}


@pytest.mark.parametrize("name", SAMPLES)
def test_fifty_interleavings_have_the_bytes_of_program_order(name: str) -> None:
    sample = SAMPLES[name]()
    assert {sample.bytes(seed) for seed in range(50)} == {sample.expected}


WITHOUT = [("edges", 15), ("digits on edge32", 15), ("digits on tiny8", 10),
           pytest.param("edges", 30, marks=pytest.mark.nightly),
           pytest.param("digits on edge32", 30, marks=pytest.mark.nightly),
           pytest.param("digits on tiny8", 25, marks=pytest.mark.nightly),
           pytest.param("stem", 40, marks=pytest.mark.nightly)]  # fmt: skip


@pytest.mark.parametrize(("name", "most"), WITHOUT)
def test_four_of_five_dropped_tokens_show_in_a_thousand_interleavings(name: str, most: int) -> None:
    sample = SAMPLES[name]()
    pairs = list(token_pairs(sample.session.program.instructions))
    chosen: list[int] = np.random.default_rng(2).permutation(len(pairs))[:most].tolist()
    shown = [sample.differs(pairs[index], 1000) for index in chosen]
    LOG.info("%s: %d of %d dropped tokens show", name, sum(shown), len(shown))
    assert sum(shown) >= 0.8 * len(shown)


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    program = compiled_and_verified(random_graph(1), "tiny8", samples=1)[0].program
    orders: list[list[int]] = []
    for seed in (5, 5, 6, 7, 8):
        order: list[int] = []
        InterleavedExecutor(seed).run([CoreState(program)], [lambda pc, _, order=order: order.append(pc)])
        assert sorted(order) == list(range(len(program.instructions)))
        orders.append(order)
    assert orders[0] == orders[1]
    assert len({tuple(o) for o in orders}) == 4


def test_a_program_that_cannot_go_on_traps() -> None:
    text = ".target tiny8\nwait.vx wait(1)\nwait.ld wait(2) signal(1)\nwait.vx signal(2)\nhalt"
    with pytest.raises(MachineTrap, match="deadlocked"):
        ProgramSession(assemble(text).program).execute({}, executor=InterleavedExecutor(1))
