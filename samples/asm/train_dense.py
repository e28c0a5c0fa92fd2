"""Train the dense layer of dense.x1s on the simulated machine: python train_dense.py [STEPS]."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.assembly.assembler import assemble
from runtime.devices import Devices

SOURCE = Path(__file__).with_name("dense.x1s")
UNIT = 2.0**-12
"""Of the targets."""


def batches(steps: int, seed: int = 0) -> Iterator[dict[str, NDArray[Any]]]:
    """Inputs of 1/128 and the outputs of a layer that is to be found, 8 samples at a time."""
    generator = np.random.default_rng(seed)
    wanted = generator.uniform(-1, 1, (16, 8))
    for _ in range(steps):
        x = generator.integers(-128, 128, (8, 16)).astype(np.int8)
        yield {"x": x, "t": np.rint(x / 128 @ wanted / UNIT).astype(np.int32)}


def outputs(device: Devices, x: NDArray[np.int8]) -> NDArray[np.float64]:
    """What the layer makes of inputs now: the stream `eval`."""
    found = device.run("eval", {"x": x}).outputs
    return found["y"] * 2.0 ** (int(found["e"][0]) - 7)


def main(steps: int) -> None:
    """Train, and print the mean squared error now and then."""
    device = Devices(assemble(SOURCE.read_text(encoding="utf-8"), str(SOURCE)).executable)
    for step, batch in enumerate(batches(steps)):
        if step % 250 == 0 or step == steps - 1:
            error = np.mean((outputs(device, batch["x"]) - batch["t"] * UNIT) ** 2)
            sys.stdout.write(f"step {step:5}: mean squared error {error:.5f}\n")
        device.run("train", batch)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
