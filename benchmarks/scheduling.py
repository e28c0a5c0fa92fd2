"""Cycles and DRAM traffic of compiled networks beside the lower bound, and what each technique is worth.

    python -m benchmarks.scheduling [--without] [--levels] [--target edge32] [--set KEY=VALUE]... [MODEL...]

Models are quantized ONNX files; without arguments random networks of four sizes from the test assets beside
the repository. `--without` leaves one technique out at a time, `--levels` compares -O0 to -O3. Cycles come
from `x1 profile`, so the figures do not depend on the machine this runs on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.commands import Commands
from compiler.schedule.options import TECHNIQUES

NETWORKS: Final = ("resnet50", "resnet18", "mobilenetv2", "squeezenet1_1")
MOST: Final = {
    "resnet50": (4_700_000, 40_000_000),
    "resnet18": (2_150_000, 13_500_000),
    "mobilenetv2": (560_000, 5_000_000),
    "squeezenet1_1": (500_000, 2_000_000),
}
"""Cycles, and bytes of DRAM, at -O3 on edge32."""


@dataclass(frozen=True)
class Figures:
    """One row."""

    cycles: int
    traffic: int
    bound: int


def figures(model: Path, folder: Path, machine: list[str], options: list[str]) -> Figures:
    """Compile and profile."""
    binary = str(folder / "out.x1")
    x1 = [sys.executable, "-m", "x1"]
    compiled = subprocess.run(
        [*x1, "compile", str(model), *machine, *options, "-o", binary],
        capture_output=True,
        text=True,
        check=False,
    )
    if compiled.returncode:
        raise SystemExit(compiled.stderr)
    done = subprocess.run([*x1, "profile", binary, "--json"], capture_output=True, text=True, check=True)
    body: dict[str, Any] = json.loads(done.stdout)
    return Figures(body["cycles"], body["dram_read_bytes"] + body["dram_write_bytes"], body["bound_cycles"])


def row(name: str, found: Figures, whole: Figures) -> str:
    """A line of the table: figures, and how much more than with everything."""
    more = 100 * (found.cycles / whole.cycles - 1)
    return (
        f"{name:28} {found.cycles:12,} cycles {found.traffic / 1e6:8.2f} MB   "
        f"{found.cycles / found.bound:5.2f} x bound   {more:+6.1f} %"
    )


def main() -> int:
    """Print the table; 1 if a network of the assets takes more than it may."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without", action="store_true")
    parser.add_argument("--levels", action="store_true")
    parser.add_argument("--target", default="edge32")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("models", nargs="*", type=Path)
    given = parser.parse_args()
    machine = ["--target", given.target, *(part for s in given.set for part in ("--set", s))]
    judged = machine == ["--target", "edge32"]
    good = True
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models = given.models or [Commands(folder).random_network(name) for name in NETWORKS]
        for model in models:
            name = model.stem.removeprefix("q_")
            whole = figures(model, folder, machine, ["-O3"])
            print(row(name, whole, whole), flush=True)
            if judged and name in MOST:
                good &= whole.cycles <= MOST[name][0] and whole.traffic <= MOST[name][1]
            for level in "012" if given.levels else "":
                print(row(f"  -O{level}", figures(model, folder, machine, [f"-O{level}"]), whole), flush=True)
            for technique in TECHNIQUES if given.without else ():
                options = ["-O3", "--without", technique]
                print(
                    row(f"  without {technique}", figures(model, folder, machine, options), whole), flush=True
                )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
