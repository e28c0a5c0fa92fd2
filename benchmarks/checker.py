"""How fast a program of 100,000 instructions is checked.

    python -m benchmarks.checker

Two convolutions and a sum over 56 x 56 x 32, compiled for tiny8, one after another behind fences until
there are 100,000 instructions. Decoding is timed apart. The yardstick is a loop of plain Python and a sort
in numpy, run in turn with it; median of several runs, thread CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from compiler import driver
from compiler.ir.graph import Graph
from compiler.ir.types import DType
from compiler.ops.add import Add
from compiler.ops.conv2d import Conv2d
from compiler.quantize.methods import Recipe
from compiler.schedule.options import schedule_options
from isa.checker import check
from isa.encoding import decode_all, encode_all
from isa.instructions.control import Fence
from isa.program import DebugMap, Note, Program
from isa.support.records import replace
from isa.target import load_target

SIZE, CHANNELS, LAYERS = 56, 32, 2
INSTRUCTIONS = 100_000
MOST_SECONDS = 2.0


def network() -> Program:
    """The compiled network, its weights random."""
    generator = np.random.default_rng(1)
    graph = Graph("residual")
    x = y = graph.input("x", DType.F32, (1, SIZE, SIZE, CHANNELS))
    for _ in range(LAYERS):
        w = graph.const(generator.standard_normal((CHANNELS, CHANNELS, 3, 3), np.float32))
        b = graph.const(generator.standard_normal(CHANNELS, np.float32))
        y = graph.add(Conv2d((1, 1), (1, 1, 1, 1), (1, 1), "NHWC"), (y, w, b))
    graph.set_outputs([graph.add(Add(), (y, x))], ["z"])
    samples = [{"x": generator.standard_normal(x.shape, np.float32)}]
    prepared = driver.prepare(graph)
    scheme = driver.calibrate(prepared, samples, Recipe())
    device = driver.lower(driver.quantize(prepared, scheme))
    target = load_target("tiny8")
    return driver.generate(
        device, next(driver.schedules(device, target, schedule_options(3))), target, Note()
    )


def repeated(program: Program) -> Program:
    """The program again and again, until it has enough instructions."""
    *body, halt = program.instructions
    times = -(-INSTRUCTIONS // (len(body) + 1))
    return replace(program, instructions=(*(*body, Fence()) * times, halt), debug=DebugMap())


def yardstick() -> None:
    """Work that does not change with this project."""
    table = {i: i * 7 % 1013 for i in range(400_000)}
    np.sort(np.fromiter(table.values(), np.int64))


def median_seconds(works: list[Callable[[], object]], runs: int) -> list[float]:
    """The median thread CPU time of each, taken in turn."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(runs):
        for work, taken in zip(works, times, strict=True):
            start = time.thread_time()
            work()
            taken.append(time.thread_time() - start)
    return [statistics.median(t) for t in times]


def main() -> int:
    """Print the figures; 1 if the check takes too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    program = repeated(network())
    text = encode_all(program.instructions)
    count = len(program.instructions)
    if check(program).violations:
        raise SystemExit("the program was rejected")
    decoded, checked, unit = median_seconds(
        [lambda: decode_all(text), lambda: check(replace(program)), yardstick], runs
    )
    for name, seconds in (("decode", decoded), ("check", checked)):
        print(f"{name:10}{seconds:6.2f} s  {1e6 * seconds / count:5.1f} us an instruction, {count} of them")
    print(f"{'yardstick':10}{unit:6.2f} s  (check: {checked / unit:.1f} of it; at most {MOST_SECONDS} s)")
    return 0 if checked < MOST_SECONDS else 1


if __name__ == "__main__":
    raise SystemExit(main())
