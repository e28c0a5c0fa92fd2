"""How compile time grows with the depth of a network, and with the number of tiles.

    python -m benchmarks.growth

CPU seconds of scheduling, code generation and checking at -O3, on one thread, by layer and by instruction.
Growth is linear if these stay level: the last column is the ratio to the first row.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Final

import numpy as np

from compiler import driver
from compiler.ir.graph import Graph
from compiler.ir.types import DType
from compiler.ops.conv2d import Conv2d
from isa.target import load_target
from x1 import api

DEPTHS: Final = (10, 50, 100, 200, 400)
SIZES: Final = (16, 32, 64, 128, 256)
RUNS: Final = 3
MOST: Final = 2.0


def chain(layers: int, size: int, channels: int) -> Graph:
    """Convolutions of 3 x 3 and 1 x 1 in turn."""
    generator = np.random.default_rng(layers)
    graph = Graph("chain")
    x = graph.input("x", DType.F32, (1, size, size, channels))
    for index in range(layers):
        kernel = 3 if index % 2 else 1
        shape = (channels, channels, kernel, kernel)
        w = graph.const(generator.standard_normal(shape).astype(np.float32) / np.float32(9), f"w{index}")
        b = graph.const(np.zeros(channels, np.float32), f"b{index}")
        pad = kernel // 2
        x = graph.add(Conv2d((1, 1), (pad, pad, pad, pad), (1, 1), "NHWC"), (x, w, b), name=f"y{index}")
    graph.set_outputs([x], ["y"])
    return graph


def rows() -> Iterator[tuple[str, int, Graph, str]]:
    """What is compiled: its kind, the number that grows, the network, the target."""
    for layers in DEPTHS:
        yield "layers", layers, chain(layers, 28, 32), "edge32"
    for size in SIZES:
        yield "rows and columns", size, chain(3, size, 16), "tiny8"


def main() -> int:
    """Print the table; 1 if a unit of work takes far more in large networks than in small ones."""
    good = True
    first: dict[str, float] = {}
    for kind, number, graph, target in rows():
        sample = {"x": np.random.default_rng(0).standard_normal(graph.inputs[0].shape).astype(np.float32)}
        model = api.quantize(api.Model("chain", driver.prepare(graph)), [sample], method="minmax")
        machine = load_target(target)
        seconds: list[float] = []
        instructions = 0
        for _ in range(RUNS):
            began = time.process_time()
            instructions = len(api.compile(model, machine).program.instructions)
            seconds.append(time.process_time() - began)
        taken = statistics.median(seconds)
        unit = 1000 * taken / (number if kind == "layers" else instructions)
        ratio = unit / first.setdefault(kind, unit)
        good &= ratio <= MOST
        what = "layer" if kind == "layers" else "instruction"
        print(
            f"{number:4} {kind:16} on {target}: {instructions:7} instructions {taken:7.2f} s "
            f"{unit:7.3f} ms per {what}   x {ratio:.2f}",
            flush=True,
        )
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
