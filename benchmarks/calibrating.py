"""How much memory calibration takes on 200 samples and on 20,000.

    python -m benchmarks.calibrating

Peak memory and CPU seconds of `x1 quantize` on the sample network, its digits random.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Final

from benchmarks.commands import REPOSITORY, Commands

COUNTS: Final = (200, 20_000)
MOST: Final = 1.05
SAMPLES: Final = """
import sys
import numpy as np
np.savez(sys.argv[2], inputs=np.random.default_rng(0).random((int(sys.argv[1]), 28, 28, 1), np.float32))
"""
"""A process of its own: the peak of a child counts what its parent held when it started."""


def main() -> int:
    """Print the figures; 1 if memory grows by more than 5 percent."""
    network = REPOSITORY / "samples" / "mnist" / "mnist.net"
    peaks: list[float] = []
    for count in COUNTS:
        with tempfile.TemporaryDirectory() as folder:
            run = Commands(Path(folder))
            data, output = str(run.folder / "samples.npz"), str(run.folder / "q.onnx")
            run.measured("-c", SAMPLES, str(count), data)
            seconds, peak = run.measured(
                "-m", "x1", "quantize", str(network), "--calibrate", data, "-o", output
            )
        print(f"{count:6,} samples: {peak:.1f} MiB at most, {seconds:.1f} s CPU")
        peaks.append(peak)
    print(f"ratio {peaks[1] / peaks[0]:.3f}, at most {MOST}")
    return 0 if peaks[1] <= MOST * peaks[0] else 1


if __name__ == "__main__":
    raise SystemExit(main())
