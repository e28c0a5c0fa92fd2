"""ONNX's own node tests: none fails, and what is refused is listed with its constraint."""

from __future__ import annotations

import warnings
from itertools import islice
from pathlib import Path

import pytest

from tests.conformance.suite import node_tests, result

REFUSED = Path(__file__).with_name("refused.txt")
MOST_REFUSED = 0.1
"""Of the tests of operators that are ours."""


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.nightly), 4])
def test_no_node_test_fails_and_the_refused_ones_are_those_that_are_listed(
    pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str], step: int
) -> None:
    found = outcomes(step)
    refused = {name: why for name, (outcome, why) in found.items() if outcome == "refused"}
    if pytestconfig.getoption("update_golden") and step == 1:
        text = "".join(f"{name}: {why}\n" for name, why in sorted(refused.items()))
        REFUSED.write_text(text, encoding="utf-8")
    with capsys.disabled():
        print(f"\nONNX node tests: {len(found)}, {len(refused)} of them refused")  # noqa: T201
    listed = dict(line.split(": ", 1) for line in REFUSED.read_text(encoding="utf-8").splitlines())
    assert [f"{name}: {why}" for name, (outcome, why) in found.items() if outcome == "fail"] == []
    assert refused == {name: why for name, why in listed.items() if name in found}
    assert len(refused) <= MOST_REFUSED * len(found)


def outcomes(step: int) -> dict[str, tuple[str, str]]:
    """What becomes of one of `step` tests, by name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # tests on NaN and infinity
        return {test.name: result(test) for test in islice(node_tests(), 0, None, step)}
