"""Spoilt binaries and models at the command line: refused with a reason, in little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from x1 import api
from x1.samples import sample_folder

FLIPS = Path(__file__).with_name("flips.py")
DOES_NOT_FIT = 3
GIB = 1 << 20
"""In the kibibytes of rusage."""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The compiled sample, and a digit."""
    folder, sample = tmp_path_factory.mktemp("spoilt"), sample_folder("mnist")
    with np.load(sample / "calibration.npz") as calibration, np.load(sample / "digits.npz") as data:
        samples = [{"image": calibration["inputs"][i : i + 1]} for i in range(8)]
        np.save(folder / "digit.npy", data["inputs"][:1])
    api.compile(sample / "mnist.net", calibrate=samples).save(folder / "mnist.x1")
    return folder / "mnist.x1", folder / "digit.npy"


@pytest.mark.parametrize(("flips", "cuts"), [(300, 30), pytest.param(5000, 200, marks=pytest.mark.nightly)])
def test_flipped_and_truncated_binaries_are_refused(digits: tuple[Path, Path], flips: int, cuts: int) -> None:
    """Even where only padding has changed: the loader refuses what it would not have written."""
    binary, digit = digits
    command = [sys.executable, str(FLIPS), str(binary), f"@{digit}", str(flips), str(cuts)]
    environment = {**os.environ, "PYTHONPATH": str(FLIPS.parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert not found["wrong"]
    assert found["codes"] == {"5": flips + cuts}
    assert found["seconds"] < 2
    assert found["mebibytes"] < 512


def test_the_sound_binary_runs(digits: tuple[Path, Path]) -> None:
    binary, digit = digits
    ((code, _, _, _),) = limited([["run", str(binary), "--input", f"@{digit}"]], binary.parent)
    assert code == 0


EACH = """
import json, os, sys, tempfile
from x1.cli.main import main
from x1.cli.result import run_command
import x1.cli.compile_command, x1.cli.run_command

for arguments in json.loads(sys.stdin.read()):
    with tempfile.TemporaryFile() as messages:
        child = os.fork()
        if child == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.dup2(messages.fileno(), 2)
            code = run_command(main, arguments)
            sys.stderr.flush()
            os._exit(code)
        _, status, usage = os.wait4(child, 0)
        messages.seek(0)
        text = messages.read().decode()
    seconds = usage.ru_utime + usage.ru_stime
    print(json.dumps([os.waitstatus_to_exitcode(status), text, seconds, usage.ru_maxrss]))
"""
"""Every command in a process of its own; what all need is imported once, and then they part."""


def limited(commands: list[list[str]], folder: Path) -> list[tuple[int, str, float, int]]:
    """Exit code, messages, CPU seconds and kibibytes of each command."""
    done = subprocess.run([sys.executable, "-c", EACH], input=json.dumps(commands), cwd=folder, text=True,
                          env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(FLIPS.parents[2])},
                          capture_output=True, check=True)  # fmt: skip
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def test_every_malformed_model_is_refused_and_named(
    assets: Path, tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    folder = assets / "tools" / "mutated"
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    lines: list[str] = []
    names = sorted(manifest)
    commands = [
        ["compile", str(folder / name), "--calibrate", "random:1", "-o", f"{number}.x1"]
        for number, name in enumerate(names)
    ]
    for number, (name, result) in enumerate(zip(names, limited(commands, tmp_path), strict=True)):
        code, text, seconds, memory = result
        assert code == (0 if name.startswith("control") else DOES_NOT_FIT), name
        assert (tmp_path / f"{number}.x1").exists() == (code == 0), name
        assert seconds < 5, name
        assert memory < GIB, name
        lines += [
            f"{name}: {manifest[name]}",
            text.replace(str(folder), "MUTATED").replace(f"{number}.x1", "made.x1"),
        ]
    made = {f"{n}.x1" for n, name in enumerate(names) if name.startswith("control")}
    assert {p.name for p in tmp_path.iterdir()} == made, "something was left behind"
    golden("errors/mutated.txt", "\n".join(lines))
