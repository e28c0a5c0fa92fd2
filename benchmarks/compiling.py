"""How long `x1 compile` takes for networks that are quantized already, and how much memory.

    python -m benchmarks.compiling [Q.onnx...]

User and system CPU seconds of the whole command, start-up and checker included, on one thread; the median
of several runs, in turn with a yardstick of numpy and plain Python in a process of its own. Without
arguments the networks are random ones of the sizes of ResNet-50 and MobileNetV2 from the test assets beside
the repository, quantized before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
ASSETS: Final = Path(os.environ.get("X1_ASSETS", REPOSITORY.parent / "shared" / "assets"))
MOST: Final = {"resnet50": (8.0, 1536.0), "mobilenetv2": (2.5, 1536.0)}
"""CPU seconds and MiB."""
YARDSTICK: Final = """
import numpy as np
table = {i: i * 7 % 1013 for i in range(1_000_000)}
for _ in range(5):
    np.sort(np.fromiter(table.values(), np.int64))
"""
ONE_THREAD: Final = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}


def measured(command: list[str]) -> tuple[float, float]:
    """User and system CPU seconds of a command, and its peak memory in MiB."""
    process = subprocess.Popen(command, env=os.environ | ONE_THREAD, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def random_network(name: str, folder: Path) -> Path:
    """A quantized network with random weights."""
    real, quantized = folder / f"{name}.onnx", folder / f"q_{name}.onnx"
    measured([sys.executable, str(ASSETS / "tools" / "random_net.py"), name, str(real)])
    measured(
        [sys.executable, "-m", "x1", "quantize", str(real), "--calibrate", "random:2", "-o", str(quantized)]
    )
    return quantized


def main() -> int:
    """Print the figures; 1 if one is too large."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("models", nargs="*", type=Path)
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as folder:
        models = options.models or [random_network(name, Path(folder)) for name in MOST]
        for model in models:
            command = [sys.executable, "-m", "x1", "compile", str(model), "-o", str(Path(folder) / "out.x1")]
            runs = [
                (measured(command), measured([sys.executable, "-c", YARDSTICK])) for _ in range(options.runs)
            ]
            seconds, unit = (statistics.median(r[i][0] for r in runs) for i in (0, 1))
            memory = max(r[0][1] for r in runs)
            print(
                f"{model.stem}: {seconds:.2f} s CPU, {memory:.0f} MiB; yardstick {unit:.2f} s, "
                f"ratio {seconds / unit:.1f}  (x1 compile {model.name}, {options.runs} runs)"
            )
            most = MOST.get(model.stem.removeprefix("q_"))
            good &= most is None or (seconds <= most[0] and memory <= most[1])
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
