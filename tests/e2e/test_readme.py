"""The README and the tutorial show what the commands print."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.sessions import replay, steps

REPOSITORY = Path(__file__).resolve().parents[2]


DIGITS = pytest.mark.parametrize("digits", [50, pytest.param(None, marks=pytest.mark.nightly)])
"""All of them, with the figures that the pages show; or some, with figures of their own."""


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A copy of the digits and their network, in which the commands follow one another."""
    return Path(shutil.copytree(REPOSITORY / "samples" / "mnist", tmp_path / "mnist"))


def keep(digits: int | None, sample: Path) -> None:
    """Keep some of the digits alone, of those for calibration too."""
    for file in ("digits.npz", "calibration.npz"):
        with np.load(sample / file) as data:
            fewer = {name: data[name][:digits] for name in data.files}
        np.savez(sample / file, **fewer)


def readme_session(folder: Path) -> Path:
    """The part of the README that is one session on the sample."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    page = folder / "session.md"
    page.write_text(
        text[text.index("## The whole job") : text.index("The same from Python")], encoding="utf-8"
    )
    return page


@DIGITS
def test_every_command_prints_what_the_readme_shows(digits: int | None, sample: Path) -> None:
    keep(digits, sample)
    assert replay(readme_session(sample), sample, figures=digits is None) == 6


@DIGITS
def test_every_command_prints_what_the_tutorial_shows(digits: int | None, sample: Path) -> None:
    shutil.copy(REPOSITORY / "samples" / "pytorch" / "net.onnx", sample / "net.onnx")
    keep(digits, sample)
    assert replay(REPOSITORY / "docs" / "tutorial.md", sample, figures=digits is None) == 10


def test_a_line_that_is_not_printed_is_found(sample: Path) -> None:
    """A planted fault: the comparison of pages must be able to fail."""
    page = readme_session(sample)
    page.write_text(page.read_text(encoding="utf-8").replace("18 instructions", "17 instructions"))
    with pytest.raises(AssertionError, match="18 instructions"):
        replay(page, sample)


def test_every_command_of_the_guides_is_among_the_steps() -> None:
    """Nothing that starts with `$` hides in a block of another language."""
    for name in ("README.md", "docs/tutorial.md"):
        text = (REPOSITORY / name).read_text(encoding="utf-8")
        shown = sum(line.startswith("$ ") for line in text.splitlines())
        assert shown == sum(command != "python" for command, _ in steps(text))
