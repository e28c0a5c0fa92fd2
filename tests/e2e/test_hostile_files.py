"""Spoilt binaries and models at the command line: refused with a reason, in little time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
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
    code, _, _, _ = limited("run", str(binary), "--input", f"@{digit}", folder=binary.parent)
    assert code == 0


def limited(*arguments: str, folder: Path) -> tuple[int, str, float, int]:
    """Exit code, messages, CPU seconds and kibibytes of a command."""
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen([sys.executable, "-m", "x1", *arguments], cwd=folder, stdout=subprocess.DEVNULL,
                                   stderr=messages)  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        messages.seek(0)
        text = messages.read().decode()
    return process.returncode, text, usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def test_every_malformed_model_is_refused_and_named(
    assets: Path, tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    folder = assets / "tools" / "mutated"
    manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    lines: list[str] = []
    for name, wrong in sorted(manifest.items()):
        code, text, seconds, memory = limited(
            "compile", str(folder / name), "--calibrate", "random:1", "-o", "made.x1", folder=tmp_path
        )
        assert code == (0 if name.startswith("control") else DOES_NOT_FIT), name
        assert (tmp_path / "made.x1").exists() == (code == 0), name
        assert seconds < 5, name
        assert memory < GIB, name
        (tmp_path / "made.x1").unlink(missing_ok=True)
        lines += [f"{name}: {wrong}", text.replace(str(folder), "MUTATED")]
    golden("errors/mutated.txt", "\n".join(lines))
