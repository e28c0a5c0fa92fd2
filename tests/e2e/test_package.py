"""The wheel, installed in an empty environment outside the repository, works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = Path(__file__).resolve().parents[2]
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(folder),
        str(repository),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (found,) = folder.glob("*.whl")
    return found


def test_wheel_holds_the_package_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"isa/grammars/assembly.lark", "isa/targets/edge32.toml", "compiler/grammars/dsl.lark",
            "x1/schemas/run.json", "x1/samples/mnist/mnist.net", "x1/samples/mnist/digits.npz",
            "isa/py.typed"} <= names  # fmt: skip
    assert not [n for n in names if n.startswith(("tests/", "benchmarks/", "samples/", "docs/"))]


def test_wheel_runs_the_demo_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    constraints = Path(__file__).resolve().parents[2] / "constraints.txt"
    install = [python, "-m", "pip", "install", "-q", "-c", constraints, f"{wheel}[oracle]"]
    subprocess.run(install, check=True, env=environment, cwd=tmp_path, capture_output=True)
    done = subprocess.run([python, "-m", "x1", "demo", "--json"], check=False, env=environment, cwd=tmp_path,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verify"]["mismatches"] == 0


def test_a_package_that_shadows_ours_is_named(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "__init__.py").write_text("")
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(repository)!r}]; import x1"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert f"'{tmp_path / 'runtime'}' shadows it" in done.stderr
