"""The wheel, installed in an empty environment outside the repository, works."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = {"google": "protobuf"}
"""Distributions whose name is not that of their module."""
PACKAGES = ("isa", "compiler", "runtime", "x1")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_files_of_the_packages_and_the_sample(wheel: Path) -> None:
    """Those that git knows, and no others, each byte for byte."""
    command = ["git", "ls-files", "-z", *PACKAGES, "samples/mnist"]
    if not (REPOSITORY / ".git").exists():
        pytest.skip("no checkout of git")
    known = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    expected = {
        name.replace("samples/mnist/", "x1/samples/mnist/", 1): (REPOSITORY / name).read_bytes()
        for name in known.split("\0")
        if name
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {n: archive.read(n) for n in archive.namelist() if ".dist-info/" not in n}
        licensed = [n for n in archive.namelist() if n.endswith("/LICENSE")]
    assert sorted(held) == sorted(expected)
    assert [n for n in held if held[n] != expected[n]] == []
    assert len(licensed) == 1


def test_every_import_is_of_a_declared_dependency(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        said = archive.read(metadata).decode()
        code = [archive.read(n).decode() for n in archive.namelist() if n.endswith(".py")]
    declared = set(re.findall(r"^Requires-Dist: ([\w-]+)(?!.*extra == '(?:dev|fuzz)')", said, re.MULTILINE))
    used = {name.partition(".")[0] for text in code for name in imported_names(text)}
    ours = {*sys.stdlib_module_names, *PACKAGES}
    assert {DISTRIBUTIONS.get(name, name) for name in used - ours} <= declared


def imported_names(code: str) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(code)):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(module), level=0):
                yield module
            case _:
                pass


def demo(python: Path, environment: dict[str, str], folder: Path) -> None:
    """The demo of the wheel, not of the repository."""
    done = subprocess.run([python, "-m", "x1", "demo", "--json"], check=False, env=environment, cwd=folder,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verify"]["mismatches"] == 0


def test_the_unpacked_wheel_runs_the_demo_outside_the_repository(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    shown = subprocess.run([sys.executable, "-c", "import x1; print(x1.__file__)"], cwd=tmp_path, env=environment,
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert shown.stdout.startswith(str(tmp_path / "site"))
    demo(Path(sys.executable), environment, tmp_path)


@pytest.mark.nightly
def test_the_wheel_runs_the_demo_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    install = [python, "-m", "pip", "install", "-q", "-c", REPOSITORY / "constraints.txt", f"{wheel}[oracle]"]
    subprocess.run(install, check=True, env=environment, cwd=tmp_path, capture_output=True)
    demo(python, environment, tmp_path)


def test_a_package_that_shadows_ours_is_named(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(repository)!r}]; import x1"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"'{tmp_path / 'runtime'}' shadows it" in done.stderr
