"""The samples of training run as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "training"
NIGHTLY = pytest.mark.nightly


@pytest.mark.parametrize(
    ("name", "epochs", "output"),
    [
        ("digits.py", "1", "digits.x1"),
        pytest.param("residual.py", "1", "residual.x1", marks=NIGHTLY),
        pytest.param("finetune.py", "4", "tuned.onnx", marks=NIGHTLY),
    ],
)
def test_a_sample_trains_and_writes_what_it_says(name: str, epochs: str, output: str, tmp_path: Path) -> None:
    command = [sys.executable, str(SAMPLES / name), "--epochs", epochs, "--output", output]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    losses = [float(found) for found in re.findall(r"loss:? (\d+\.\d+)", done.stdout)]
    assert losses[-1] < losses[0], done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [output]
