"""Engines in any legal interleaving compute the same bytes; without a token, some interleaving does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from isa.assembly.assembler import assemble
from isa.program import Program
from isa.target import Target, load_target
from runtime import Interleaving, Machine, MachineTrap, Session
from tests.networks import compiled_and_verified, random_graph, random_inputs
from tests.tokens import token_pairs, without_pair

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("seed", range(4))
def test_fifty_interleavings_of_a_network_have_the_same_bytes(seed: int) -> None:
    graph = random_graph(seed)
    binary, _ = compiled_and_verified(graph, "tiny8", samples=1)
    (sample,) = random_inputs(graph, 1)
    session = Session(binary.program)
    expected = session.run(None, sample)[0].tobytes()
    for number in range(50):
        assert session.execute(sample, seed=number).outputs["y"].tobytes() == expected


def edges(depth: int = 8) -> tuple[Session, dict[str, np.ndarray]]:
    folder = REPOSITORY / "samples" / "asm"
    program = assemble((folder / "edges.x1s").read_text(encoding="utf-8"), "edges.x1s", folder).program
    target = load_target("tiny8", [f"ctl.queue_depth={depth}"])
    return Session(retargeted(program, target)), {
        "picture": np.random.default_rng(1).integers(-128, 128, (1, 16, 16, 1)).astype(np.int8)
    }


def retargeted(program: Program, target: Target) -> Program:
    return replace(program, target=target)


@pytest.mark.parametrize("depth", [1, 2, 64])
def test_interleavings_of_the_sample_have_the_same_bytes_at_every_queue_depth(depth: int) -> None:
    session, inputs = edges(depth)
    expected = session.run(None, inputs)[0].tobytes()
    assert {session.execute(inputs, seed=n).outputs["edges"].tobytes() for n in range(50)} == {expected}


def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    program = compiled_and_verified(random_graph(1), "tiny8", samples=1)[0].program
    orders: list[list[int]] = []
    for seed in (5, 5, 6, 7, 8):
        order: list[int] = []
        Interleaving(Machine(program), seed, lambda pc, _, order=order: order.append(pc)).run()
        assert sorted(order) == list(range(len(program.instructions)))
        orders.append(order)
    assert orders[0] == orders[1]
    assert len({tuple(o) for o in orders}) == 4


def test_every_dropped_token_of_the_sample_shows_in_some_interleaving() -> None:
    session, inputs = edges()
    expected = session.run(None, inputs)[0].tobytes()
    pairs = list(token_pairs(session.program.instructions))
    shown = 0
    for pair in pairs:
        mutant = Session(without_pair(session.program, pair))
        shown += any(
            mutant.execute(inputs, seed=n).outputs["edges"].tobytes() != expected for n in range(200)
        )
    assert shown >= 0.8 * len(pairs)


def test_a_program_that_cannot_go_on_traps() -> None:
    text = ".target tiny8\nwait.vx wait(1)\nwait.ld wait(2) signal(1)\nwait.vx signal(2)\nhalt"
    with pytest.raises(MachineTrap, match="deadlocked"):
        Session(assemble(text).program).execute({}, seed=1)
