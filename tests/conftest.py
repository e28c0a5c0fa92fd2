"""Fixtures that all tests share: assets, golden files, hypothesis profiles."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy is imported: test workers share the cores

import difflib
import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, settings

from compiler.passes.pipeline import PASS_NAMES
from isa.target import shipped_targets
from tests.isa_coverage import IsaCoverage
from x1.cli.main import GARBAGE

GROWING: Final = {"<targets>": shipped_targets(), "<passes>": PASS_NAMES}
REPOSITORY = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).resolve().parent / "golden"

gc.set_threshold(GARBAGE)  # as the command line does
settings.register_profile(
    "default", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
settings.load_profile("default")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected texts")


ISA_COVERAGE = IsaCoverage()
ISA_COVERAGE.watch()


def pytest_testnodedown(node: Any, error: object) -> None:
    """Take over what a worker process has hit."""
    del error
    ISA_COVERAGE.hits |= {tuple(hit) for hit in getattr(node, "workeroutput", {}).get("isa_coverage", ())}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand hits to the main process; there, a run of the whole suite fails if something was not hit."""
    output: dict[str, object] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["isa_coverage"] = sorted(ISA_COVERAGE.hits)
    elif _is_whole(session.config) and _coverage_faults(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the coverage of a run of the whole suite."""
    if _is_whole(config):
        terminalreporter.section("instruction set")
        terminalreporter.write_line(ISA_COVERAGE.summary())
        for line in _coverage_faults(config):
            terminalreporter.write_line(line)


def _is_whole(config: pytest.Config) -> bool:
    """Whether nothing was selected but what the configuration selects."""
    chosen = config.args == config.getini("testpaths") and not config.option.keyword
    return chosen and config.option.markexpr == "not nightly"


def _coverage_faults(config: pytest.Config) -> list[str]:
    faults = [f"no test hits {what}" for what in ISA_COVERAGE.missing()]
    return faults + _differences(config, "isa/coverage.txt", ISA_COVERAGE.report())


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
    """Compare a text with a file under tests/golden, or rewrite the file.

    Lists that grow with a new target or pass stand there as `<targets>` and `<passes>`.
    """

    def compare(name: str, text: str) -> None:
        for word, names in GROWING.items():
            one = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
            text = re.sub(rf"\b({one})(, ({one})){{2,}}(?![\w-])", word, text)
        if lines := _differences(request.config, name, text):
            pytest.fail("\n".join(lines))

    return compare


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


def _differences(config: pytest.Config, name: str, text: str) -> list[str]:
    """How a text differs from a file under tests/golden, unless that is to be rewritten."""
    path = GOLDEN / name
    if config.getoption("--update-golden"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")
        return []
    expected = path.read_text(encoding="utf-8") if path.is_file() else ""
    if text == expected:
        return []
    lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), "expected", "got", lineterm="")
    return [f"{name} differs (pytest --update-golden rewrites it):", *lines]
