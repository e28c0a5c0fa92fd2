"""Cycles of a step of training by phase, and CPU time of a step on the reference interpreter.

    python -m benchmarks.training [--target edge32] [--batch 32] [--steps 20] [NETWORK ...]

Networks: the listing of docs/training.md, LeNet, a residual network with batch normalization. Cycles come
from the cycle model; a phase is bound by what is busy for most cycles under it. CPU time is that of one
thread, beside a fixed yardstick in between: small operations of numpy.
"""

from __future__ import annotations

import os

for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"  # before numpy is imported

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final

import numpy as np

from isa.timing.profile import LayerProfile, Profile, profile
from tests.training.test_accuracy import lenet, mission, residual
from x1.keras.models import Model

PHASES: Final = ("weights", "forward", "loss", "errors", "gradients", "update")
MOST: Final = 215_000
"""Cycles of a step of the listing, batch 32, on edge32."""
ROUNDS: Final = 400
"""Of the yardstick."""
LEAST_SHARE: Final = 200
"""A layer is named if DRAM works for it longer than this part of a step."""
SAMPLES: Final = 54_000
"""Of an epoch of the listing."""


NETWORKS: Final[dict[str, Callable[[], Model]]] = {"listing": mission, "lenet": lenet, "residual": residual}


@dataclass
class Phase:
    """Cycles of a phase that no other has, and how long engines and DRAM work for it."""

    cycles: int = 0
    array: int = 0
    vector: int = 0
    dram: int = 0

    def add(self, layer: LayerProfile) -> None:
        """A layer of it."""
        self.cycles += layer.cycles
        self.array += layer.mx_busy_cycles
        self.vector += layer.vx_busy_cycles
        self.dram += layer.dram_busy_cycles

    @property
    def bound(self) -> str:
        """What is busy for most cycles."""
        busy = {"array": self.array, "vector unit": self.vector, "DRAM": self.dram}
        return max(busy, key=lambda name: busy[name])


def phase_of(name: str) -> str:
    """The phase of a layer, from what a step calls it."""
    last = name.rpartition("/")[2]
    if last in ("codes", "words") or last.startswith("turned"):
        return "weights"
    if name.startswith("loss/"):
        return "loss"
    if last in ("update", "moving"):
        return "update"
    if last in ("weight_gradient", "sums", "products", "error_totals"):
        return "gradients"
    words = ("error", "unclamped", "part", "sum", "slope", "more")
    return "errors" if "/error" in name or last.partition("_")[0] in words else "forward"


def yardstick() -> float:
    """CPU seconds of small operations of numpy."""
    sums, rows = np.arange(10_816, dtype=np.int32).reshape(13, 26, 32), np.ones((50, 32), np.float32)
    began = time.process_time()
    for _ in range(ROUNDS):
        real = sums.astype(np.float32)
        real *= rows[0]
        np.rint(np.maximum(real, np.float32(1), out=real)).astype(np.int8)
        for _ in range(8):
            (rows + rows).reshape(-1)
    return time.process_time() - began


def table(found: Profile) -> str:
    """Phases with their cycles, and the layers for which DRAM works longest."""
    phases = {p: Phase() for p in PHASES}
    for layer in found.per_layer:
        phases[phase_of(layer.name)].add(layer)
    lines = [f"  {'phase':10} {'cycles':>9} {'array':>9} {'vector':>9} {'DRAM':>9}  bound by"]
    for label, phase in phases.items():
        busy = f"{phase.cycles:9,} {phase.array:9,} {phase.vector:9,} {phase.dram:9,}"
        lines.append(f"  {label:10} {busy}  {phase.bound}")
    by_dram = [
        f"{v.name} ({v.dram_busy_cycles:,})"
        for v in found.per_layer
        if v.dram_busy_cycles > max(v.mx_busy_cycles, v.vx_busy_cycles, found.cycles // LEAST_SHARE)
    ]
    return "\n".join([*lines, f"  layers that DRAM bounds: {', '.join(by_dram) or 'none'}"])


def measured(name: str, target: str, batch: int, steps: int) -> bool:
    """Print the tables of a network; whether it takes as few cycles as it should."""
    made = NETWORKS[name]()
    made.compile("adam", "sparse_categorical_crossentropy", ["accuracy"])
    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (batch, 28, 28, 1)).astype(np.uint8), random.integers(0, 10, batch)
    made.fit(x, y, batch_size=batch, verbose=0, target=target)
    trainer = made.trainer
    assert trainer is not None
    program = trainer.executable.stream("train")
    found, count = profile(program), len(program.instructions)
    print(f"{name}, batch {batch}, {target}: {found.cycles:,} cycles a step, {count:,} instructions")
    print(table(found))
    seconds, yards = list[float](), [yardstick()]
    for _ in range(5):
        began = time.process_time()
        for _ in range(steps):
            trainer.step(x, y.astype(np.int32), 1e-3)
        seconds.append((time.process_time() - began) / steps)
        yards.append(yardstick())
    each, yard = median(seconds), median(yards)
    epoch = f", an epoch of {SAMPLES:,} samples {each * SAMPLES / batch:.1f} s" if name == "listing" else ""
    print(
        f"  CPU: {1e3 * each:.1f} ms a step{epoch}; {each / yard:.3f} of the yardstick ({1e3 * yard:.0f} ms)"
    )
    judged = (name, target, batch) == ("listing", "edge32", 32)
    return not judged or found.cycles <= MOST


def main() -> int:
    """Print all tables; 1 if the listing takes more than it may."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="edge32")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    given = parser.parse_args()
    names = given.networks or list(NETWORKS)
    if unknown := set(names) - set(NETWORKS):
        parser.error(f"there is no network {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    good = True
    for name in names:
        good &= measured(name, given.target, given.batch, given.steps)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
