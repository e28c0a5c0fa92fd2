"""Compiles random ONNX networks and compares every tensor with ONNX Runtime.

python -m tests.random_run FIRST COUNT TARGET     stops at the first that differs, with exit code 1
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from isa.support.diagnostics import X1Error
from tests.random_onnx import random_network
from x1 import api
from x1.lab.verification import verify


@dataclass
class Tally:
    """What became of some networks."""

    equal: int = 0
    different: list[str] = field(default_factory=list[str])
    refused: list[str] = field(default_factory=list[str])
    operators: Counter[str] = field(default_factory=Counter[str])


def run(seeds: range, target: str, *, stop: bool = False, search: int | None = None) -> Tally:
    """Compile the networks of these seeds, and compare them; with `stop`, until one differs.

    `search` is the number of schedules that are tried, as of `api.compile`.
    """
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "random.onnx"
        for seed in seeds:
            model, operators = random_network(seed)
            place.write_bytes(model.SerializeToString())
            try:
                difference = compare(place, seed, target, search)
            except X1Error as error:
                tally.refused.append(f"{seed}: {error}")
                continue
            except AssertionError as error:
                difference = str(error)
            if difference:
                tally.different.append(f"{seed} on {target}: {difference}")
                if stop:
                    break
            else:
                tally.equal += 1
                tally.operators += operators
    return tally


def compare(path: Path, seed: int, target: str, search: int | None = None) -> str:
    """Where the binary differs from ONNX Runtime; empty where it does not."""
    network = api.load_network(path)
    generator = np.random.default_rng(seed)
    (name, shape), *_ = network.input_shapes.items()
    samples = [{name: generator.standard_normal(shape).astype(np.float32)} for _ in range(3)]
    quantized = api.quantize(network, samples[:2])
    result = verify(quantized, api.compile(quantized, target, search=search), samples[2:])
    return (
        ""
        if result.mismatches == 0
        else f"{result.mismatches} mismatches, first in {result.first_divergence}"
    )


if __name__ == "__main__":
    first, count, machine = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    found = run(range(first, first + count), machine, stop=True)
    for line in (*found.different, *found.refused):
        sys.stderr.write(f"{line}\n")
    raise SystemExit(bool(found.different))
