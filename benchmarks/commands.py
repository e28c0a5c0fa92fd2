"""Commands in processes of their own, measured, and the networks of the test assets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[1]
ASSETS: Final = Path(os.environ.get("X1_ASSETS", REPOSITORY.parent / "shared" / "assets"))
ONE_THREAD: Final = {f"{name}_NUM_THREADS": "1" for name in ("OPENBLAS", "OMP", "MKL")}


class Commands:
    """Runs Python commands on one thread; bytecode stays in a folder, as an installed package has it."""

    def __init__(self, folder: Path) -> None:
        kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self.folder = folder
        self.said = folder / "said"
        """What the last command wrote to stdout."""
        self._environment = kept | ONE_THREAD | {"PYTHONPYCACHEPREFIX": str(folder / "bytecode")}

    def measured(self, *arguments: str) -> tuple[float, float]:
        """User and system CPU seconds, and the peak of memory in MiB."""
        command = [sys.executable, *arguments]
        with self.said.open("wb") as said:
            process = subprocess.Popen(command, env=self._environment, stdout=said, stderr=subprocess.DEVNULL)
            _, status, used = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed")
        return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024

    def random_network(self, name: str) -> Path:
        """A network of the assets with random weights, quantized."""
        real, quantized = self.folder / f"{name}.onnx", self.folder / f"q_{name}.onnx"
        self.measured(str(ASSETS / "tools" / "random_net.py"), name, str(real))
        self.measured("-m", "x1", "quantize", str(real), "--calibrate", "random:4", "-o", str(quantized))
        return quantized
