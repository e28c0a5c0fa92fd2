"""The rules of the repository: format, lint, types, imports, generated pages."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rooms import PACKAGES

LIMIT = 500
LONGEST_FUNCTION = 50


def tool(*command: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_code_is_formatted(repository: Path) -> None:
    tool("ruff", "format", "--check", ".", folder=repository)


def test_code_is_lint_free(repository: Path) -> None:
    tool("ruff", "check", ".", folder=repository)


@pytest.mark.parametrize("folders", [tuple(PACKAGES), pytest.param((), marks=pytest.mark.nightly)])
def test_code_is_typed(folders: tuple[str, ...], repository: Path) -> None:
    """The four packages; nightly the tests and benchmarks too."""
    tool("basedpyright", "--pythonpath", sys.executable, *folders, folder=repository)


def test_no_module_has_grown_too_long(repository: Path) -> None:
    """A little over the limit is allowed where one thing is described."""
    for package in PACKAGES:
        for path in (repository / package).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= LIMIT * 1.4, path


def test_no_function_is_longer_than_a_screen(repository: Path) -> None:
    for package in PACKAGES:
        for path in (repository / package).rglob("*.py"):
            assert list(long_functions(path.read_text(encoding="utf-8"))) == [], path


def long_functions(code: str) -> Iterator[str]:
    """Functions of more than so many lines from def to end, docstring included."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            if node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION:
                yield node.name


def test_a_function_that_is_too_long_is_found() -> None:
    lines = ["def long(", "    a: int,", ") -> None:", *["    a += 1"] * 48]
    assert list(long_functions("\n".join(lines))) == ["long"]
    assert list(long_functions("\n".join(lines[:-1]))) == []


def test_the_page_of_operators_is_current(repository: Path) -> None:
    from compiler.manual import page

    text = (repository / "docs" / "operators.md").read_text(encoding="utf-8")
    assert text == page(), "python -m compiler.manual docs"


def test_the_manual_is_current(repository: Path) -> None:
    from isa.manual import pages

    for name, text in pages().items():
        assert (repository / "docs" / "isa" / name).read_text(encoding="utf-8") == text, (
            "python -m isa.manual docs/isa"
        )


def test_only_the_declarations_and_the_planner_name_instructions(repository: Path) -> None:
    """The rest derives from the declarations: no file compares with a mnemonic, but for halt."""
    from isa.spec import INSTRUCTIONS

    for package in ("isa", "runtime", "x1"):
        for path in (repository / package).rglob("*.py"):
            if "instructions" in path.parts:
                continue
            words = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
            assert words & set(INSTRUCTIONS) <= {"halt", "fence"}, path


def test_no_module_takes_the_place_of_a_public_name() -> None:
    """Importing a submodule sets an attribute of its package: every name is asked for before and after."""
    import x1

    first = {name: getattr(x1, name) for name in x1.__all__}
    modules = [m.name for m in pkgutil.iter_modules(x1.__path__) if m.name != "__main__"]
    for name in modules:
        importlib.import_module(f"x1.{name}")
    assert {name: getattr(x1, name) for name in x1.__all__} == first
    assert not set(modules) & set(x1.__all__)
