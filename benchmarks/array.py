"""How long the array is busy with one convolution that nothing else holds up.

    python -m benchmarks.array [--channels 64] [--outputs 64] [--size 56] [--kernel 3] [--target edge32]

A convolution of random weights, padded so that its result has the input's size, behind a DRAM that is never
the limit. Beside its cycles stand the bound, every row of the array busy in every cycle, and for the first
example the cycles that SCALE-Sim gives a stall-free array of that size.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.commands import Commands
from isa.target import load_target

FAST: Final = "dram.bytes_per_cycle=1024"
SCALE_SIM: Final = {(64, 64, 56, 3, "edge32"): (116_279, 122_000)}
"""Cycles, and those that we allow ourselves."""


def convolution(channels: int, outputs: int, size: int, kernel: int) -> onnx.ModelProto:
    """One convolution."""
    generator = np.random.default_rng(0)
    shape = (outputs, channels, kernel, kernel)
    weights = generator.standard_normal(shape).astype(np.float32) / np.float32(math.sqrt(channels) * kernel)
    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, count, size, size))
        for name, count in (("x", channels), ("y", outputs))
    ]
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[kernel // 2] * 4)
    constants = [numpy_helper.from_array(weights, "w")]
    graph = helper.make_graph([node], "convolution", images[:1], images[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def main() -> int:
    """Print the figures; 1 if the array is busy for too long."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("channels", 64), ("outputs", 64), ("size", 56), ("kernel", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--target", default="edge32")
    given = parser.parse_args()
    array = load_target(given.target).mx
    depth = math.ceil(given.channels / array.rows) * math.ceil(given.outputs / array.cols)
    bound = given.kernel**2 * depth * given.size**2
    with tempfile.TemporaryDirectory() as place:
        run = Commands(Path(place))
        model, binary = str(run.folder / "conv.onnx"), str(run.folder / "conv.x1")
        content = convolution(given.channels, given.outputs, given.size, given.kernel)
        Path(model).write_bytes(content.SerializeToString())
        machine = ("--target", given.target, "--set", FAST)
        run.measured("-m", "x1", "compile", model, "--calibrate", "random:4", *machine, "-o", binary)
        run.measured("-m", "x1", "profile", binary, "--json")
        body: dict[str, Any] = json.loads(run.said.read_text())
    busy, cycles = int(body["mx_busy_cycles"]), int(body["cycles"])
    peer, most = SCALE_SIM.get(
        (given.channels, given.outputs, given.size, given.kernel, given.target), (None, None)
    )
    text = "" if peer is None else f"; SCALE-Sim {peer:,}, ratio {busy / peer:.3f}"
    print(
        f"{given.kernel} x {given.kernel}, {given.channels} to {given.outputs} channels, "
        f"{given.size} x {given.size} on {given.target} with {FAST}: "
        f"array busy {busy:,} cycles of {cycles:,}; bound {bound:,}, ratio {busy / bound:.3f}{text}"
    )
    return 0 if most is None or busy <= most else 1


if __name__ == "__main__":
    raise SystemExit(main())
