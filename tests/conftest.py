"""Fixtures that all tests share: assets, golden files, hypothesis profiles."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"

settings.register_profile(
    "default", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected texts")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of networks and data that do not belong into the repository."""
    given = os.environ.get("X1_ASSETS")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "assets"
    if not (folder / "models").is_dir():
        if os.environ.get("X1_REQUIRE_ASSETS") == "1":
            pytest.fail(f"the assets are required, and {folder} does not hold them")
        pytest.skip(f"no assets at {folder}; set X1_ASSETS")
    return folder


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with a file under tests/golden, or rewrite the file."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", newline="\n")
            return
        expected = path.read_text(encoding="utf-8") if path.is_file() else ""
        if text != expected:
            lines = difflib.unified_diff(
                expected.splitlines(), text.splitlines(), "expected", "got", lineterm=""
            )
            pytest.fail(f"{name} differs (pytest --update-golden rewrites it):\n" + "\n".join(lines))

    return compare


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY
