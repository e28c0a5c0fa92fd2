"""How fast the cycle model takes a program of 100,000 instructions, and a compiled network.

    python -m benchmarks.cycle_model [BINARY.x1...]

Without arguments the network is a random one of the size of ResNet-50 from the test assets beside the
repository, compiled before. A program is profiled as `x1 profile` does it once it is loaded: legality, costs,
simulation, figures of every layer. Thread CPU time, the median of several runs, in turn with a yardstick of
numpy and plain Python.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.checker import median_seconds, network, repeated, yardstick
from benchmarks.commands import Commands
from isa.container import load
from isa.program import Program
from isa.structs import replace
from runtime.profile import profile

LEAST_RATE: Final = 50_000
"""Instructions a second, of the long program."""
MOST_SECONDS: Final = 0.5
"""For a network."""


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
        seconds, unit = median_seconds([lambda p=program: profile(replace(p)), yardstick], options.runs)
        rate = len(program.instructions) / seconds
        print(
            f"{name}: {len(program.instructions)} instructions in {seconds:.3f} s, {rate:,.0f} a second; "
            f"yardstick {unit:.2f} s, ratio {seconds / unit:.1f}"
        )
        good &= rate >= LEAST_RATE if name == "long program" else seconds <= MOST_SECONDS
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
