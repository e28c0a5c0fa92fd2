"""What the tests of training share."""

from __future__ import annotations

import pytest

from compiler.codegen import training


@pytest.fixture(autouse=True)
def one_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first schedule of a step: test_steps.py shows that no choice changes a bit, the samples are searched."""
    monkeypatch.setattr(training, "SEARCHED", ())
