"""How fast the cycle model takes a program of 100,000 instructions, and a compiled network.

    python -m benchmarks.cycle_model [BINARY.x1...]

Without arguments the network is a random one of the size of ResNet-50 from the test assets beside the
repository, compiled before. A loaded program is simulated (legality, costs, the time of every instruction),
and profiled as `x1 profile` does it (figures of every layer besides). Thread CPU time, the median of several
runs, in turn with a yardstick of numpy and plain Python.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.checker import median_seconds, network, repeated, yardstick
from benchmarks.commands import Commands
from isa.container import load
from isa.program import Program
from isa.support.records import replace
from isa.timing.model import simulate
from isa.timing.profile import profile

LEAST_RATE: Final = 50_000
"""Instructions of the long program that are simulated in a second."""
MOST_SECONDS: Final = 0.5
"""In which a network is profiled."""


def resnet50(run: Commands) -> Program:
    """The random network, compiled."""
    binary = run.folder / "resnet50.x1"
    run.measured("-m", "x1", "compile", str(run.random_network("resnet50")), "-o", str(binary))
    return load(binary.read_bytes())


def main() -> int:
    """Print the figures; 1 if one is too small."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("binaries", nargs="*", type=Path)
    options = parser.parse_args()
    programs = {"long program": repeated(network())}
    if options.binaries:
        programs |= {path.name: load(path.read_bytes()) for path in options.binaries}
    else:
        with tempfile.TemporaryDirectory() as folder:
            programs["resnet50"] = resnet50(Commands(Path(folder)))
    good = True
    for name, program in programs.items():
        works: list[Callable[[], object]] = [
            lambda p=program: simulate(replace(p)),
            lambda p=program: profile(replace(p)),
            yardstick,
        ]
        simulated, profiled, unit = median_seconds(works, options.runs)
        count = len(program.instructions)
        print(
            f"{name}: {count} instructions simulated in {simulated:.3f} s, {count / simulated:,.0f} a second;"
            f" profiled in {profiled:.3f} s; yardstick {unit:.2f} s, ratio {simulated / unit:.1f}"
        )
        good &= count / simulated >= LEAST_RATE if name == "long program" else profiled <= MOST_SECONDS
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
