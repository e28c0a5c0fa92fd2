"""ONNX's own node tests: none fails, and what is refused is listed with its constraint."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest

from tests.conformance.suite import node_tests, result

REFUSED = Path(__file__).with_name("refused.txt")
LEAST_SHARE = 0.9
"""Of the tests of operators that are ours."""


def test_no_node_test_fails_and_the_refused_ones_are_those_that_are_listed(
    pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    passed, failed, refused = 0, list[str](), list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # tests on NaN and infinity
        for test in node_tests():
            outcome, why = result(test)
            passed += outcome == "pass"
            failed += [f"{test.name}: {why}"] if outcome == "fail" else []
            refused += [f"{test.name}: {why}"] if outcome == "refused" else []
    text = "\n".join(sorted(refused)) + "\n"
    if pytestconfig.getoption("update_golden"):
        REFUSED.write_text(text, encoding="utf-8")
    with capsys.disabled():
        print(f"\nONNX node tests: {passed} pass, {len(refused)} refused, {len(failed)} fail")  # noqa: T201
    assert failed == []
    assert text == REFUSED.read_text(encoding="utf-8")
    assert passed >= LEAST_SHARE * (passed + len(refused))
