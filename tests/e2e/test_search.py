"""The search for a schedule: the cycle model decides, and what it decides is the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from compiler import search
from tests.e2e.test_commands import CALIBRATION, NETWORK, as_json, x1
from tests.networks import quantized, random_graph, random_inputs
from x1 import api
from x1.session import Session


def model_of(seed: int) -> api.Model:
    return quantized(random_graph(seed), 2)


def cycles(binary: api.Binary) -> int:
    return api.profile(binary).cycles


@pytest.mark.parametrize("target", ["edge32", "tiny8"])
def test_a_longer_search_finds_no_worse_a_schedule_with_the_same_bits(target: str) -> None:
    better = 0
    for seed in range(12):
        model = model_of(seed)
        (sample,) = random_inputs(random_graph(seed), 1, seed=5)
        first, best = (api.compile(model, target, search=n) for n in (1, 12))
        assert cycles(best) <= cycles(first)
        assert first.tried == 1 < best.tried <= 12
        better += cycles(best) < cycles(first)
        outputs = {b"".join(y.tobytes() for y in Session(b.program).run(None, sample)) for b in (first, best)}
        assert len(outputs) == 1
    assert better


def test_what_the_cycle_model_says_is_what_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: a cycle model that counts backwards. The slowest schedule must win."""
    cycles_alone = search.cycles_alone
    model = model_of(0)
    best = min(cycles(api.compile(model, "tiny8", search=n)) for n in (1, 12))
    monkeypatch.setattr(search, "cycles_alone", lambda program: -cycles_alone(program))  # pyright: ignore[reportUnknownArgumentType, reportUnknownLambdaType]
    assert cycles(api.compile(model, "tiny8", search=12)) > best


def test_unasked_small_networks_get_several_tries_and_large_ones_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = model_of(3)
    assert api.compile(model).tried > 1
    monkeypatch.setattr(search, "EFFORT", 1)
    assert api.compile(model).tried == 1


def test_the_command_says_how_many_were_tried_and_shows_that_schedule(tmp_path: Path) -> None:
    given = ["compile", NETWORK, "--calibrate", CALIBRATION, "--target", "tiny8"]
    bodies = [as_json(*given, "--search", str(n), "-o", f"{n}.x1", folder=tmp_path) for n in (1, 12)]
    assert [b["schedules"] for b in bodies] == [1, 11]
    assert bodies[1]["profile"]["cycles"] <= bodies[0]["profile"]["cycles"]
    shown = x1(*given, "--search", "12", "--emit", "schedule", folder=tmp_path).stdout
    operations = [line for line in shown.splitlines() if line.startswith("  ")]
    carried = 1  # the halt
    assert len(operations) // 2 + carried <= bodies[1]["instructions"]
    wrong = x1(*given, "--search", "0", folder=tmp_path)
    assert wrong.returncode == 2
    assert "1<=x<=64" in wrong.stderr
