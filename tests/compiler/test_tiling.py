"""Layers too large for a machine are split in every dimension, and still compute the same bits.

What was split is read from the decoded binary, not from the planner.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from compiler.ir.graph import Graph
from compiler.ir.types import DType
from compiler.ops.conv2d import Conv2d
from compiler.ops.gemm import Gemm
from compiler.schedule.tile_graph import Buffer, Memory
from isa import instructions
from isa.container import load
from isa.program import Program
from isa.target import load_target
from tests.networks import compiled_and_verified
from x1 import api

MatrixConv, MatrixGemm = instructions.matrix.Conv, instructions.matrix.ArrayGemm


def conv_network(size: int, cin: int, cout: int, kernel: int, stride: int, pad: int) -> Graph:
    """One convolution."""
    generator = np.random.default_rng(cin * kernel)
    graph = Graph("conv")
    x = graph.input("x", DType.F32, (1, size, size, cin))
    fan = np.float32(np.sqrt(cin * kernel * kernel))
    w = graph.const(generator.standard_normal((cout, cin, kernel, kernel)).astype(np.float32) / fan, "w")
    b = graph.const(generator.standard_normal(cout).astype(np.float32), "b")
    operation = Conv2d((stride, stride), (pad, pad, pad, pad), (1, 1), "NHWC")
    graph.set_outputs([graph.add(operation, (x, w, b), name="y")], ["y"])
    return graph


def gemm_network(rows: int, depth: int, columns: int) -> Graph:
    """One matrix product."""
    generator = np.random.default_rng(depth)
    graph = Graph("gemm")
    x = graph.input("x", DType.F32, (rows, depth))
    w = graph.const(
        generator.standard_normal((depth, columns)).astype(np.float32) / np.float32(np.sqrt(depth)), "w"
    )
    b = graph.const(generator.standard_normal(columns).astype(np.float32), "b")
    graph.set_outputs([graph.add(Gemm(), (x, w, b), name="y")], ["y"])
    return graph


def tiny_program(graph: Graph) -> Program:
    """The decoded tiny8 binary of a graph, every tensor found equal to ONNX Runtime's."""
    binary, result = compiled_and_verified(graph, "tiny8", samples=1)
    assert result.mismatches == 0
    return load(binary.data)


def splits(program: Program) -> dict[str, int]:
    """How many different pieces of each dimension the program's matrix instructions have."""
    seen: dict[str, set[Any]] = defaultdict(set)
    sums: dict[tuple[int, ...], int] = defaultdict(int)
    for row in program.debug.rows:
        for instr in program.instructions[row.first : row.first + row.count]:
            if isinstance(instr, MatrixConv):
                _, h, w, c = row.tile
                seen["rows"].add(h)
                seen["columns"].add(w)
                seen["output channels"].add(c)
                sums[row.tile] += 1
                seen["kernel rows"].add(instr.kh)
                seen["input channels"].add(instr.cin)
            elif isinstance(instr, MatrixGemm):
                seen["m"].add(row.tile[0])
                seen["n"].add(row.tile[1])
                sums[row.tile] += 1
    return {**{k: len(v) for k, v in seen.items()}, "parts of a sum": max(sums.values(), default=0)}


def kernel_rows(program: Program) -> set[int]:
    return {i.kh for i in program.instructions if isinstance(i, MatrixConv)}


def input_channels(program: Program) -> set[int]:
    return {i.cin for i in program.instructions if isinstance(i, MatrixConv)}


def test_rows_columns_and_output_channels_are_split() -> None:
    found = splits(tiny_program(conv_network(size=70, cin=4, cout=40, kernel=3, stride=1, pad=1)))
    assert found["rows"] > 1
    assert found["columns"] > 1
    assert found["output channels"] > 1


def test_input_channels_are_split_with_stride_and_pads() -> None:
    program = tiny_program(conv_network(size=15, cin=300, cout=8, kernel=3, stride=2, pad=1))
    assert max(input_channels(program)) < 300
    assert splits(program)["parts of a sum"] > 1
    assert any(i.accum for i in program.instructions if isinstance(i, MatrixConv))


def test_kernel_rows_are_split_with_stride_and_pads() -> None:
    program = tiny_program(conv_network(size=40, cin=16, cout=8, kernel=15, stride=2, pad=7))
    assert max(kernel_rows(program)) < 15
    assert splits(program)["parts of a sum"] > 1
    assert any(i.pt for i in program.instructions if isinstance(i, MatrixConv))


def test_gemm_depth_and_columns_are_split() -> None:
    program = tiny_program(gemm_network(rows=3, depth=5000, columns=30))
    gemms = [i for i in program.instructions if isinstance(i, MatrixGemm)]
    assert max(i.k for i in gemms) < 5000
    assert splits(program)["parts of a sum"] > 1
    many = tiny_program(gemm_network(rows=200, depth=16, columns=600))
    assert splits(many)["n"] > 1
    assert splits(many)["m"] > 1


def test_a_tile_that_sees_padding_alone_is_the_bias() -> None:
    graph = conv_network(size=3, cin=2, cout=4, kernel=1, stride=1, pad=30)
    program = tiny_program(graph)
    assert any(i.mnemonic == "ldf" for i in program.instructions)


def test_every_target_gives_the_same_bytes() -> None:
    graph = conv_network(size=21, cin=12, cout=35, kernel=3, stride=2, pad=1)
    from compiler import driver
    from tests.networks import random_inputs
    from x1.session import Session

    model = api.quantize(api.Model("conv", driver.prepare(graph)), random_inputs(graph, 2))
    (sample,) = random_inputs(graph, 1, seed=5)
    targets = [load_target(t) for t in ("tiny8", "edge16", "edge32", "edge64")]
    targets.append(load_target("edge32", ["spm.bytes=16384", "acc.rows=128"]))
    outputs = {Session(api.compile(model, t)).run(None, sample)[0].tobytes() for t in targets}
    assert len(outputs) == 1


def test_memory_is_used_again_when_a_tensor_has_been_read() -> None:
    """A chain of layers needs two tensors at a time, in the arena as in the scratchpad."""
    generator = np.random.default_rng(1)
    for target, layers in (("tiny8", 8), ("edge32", 60)):
        graph = Graph("chain")
        x = graph.input("x", DType.F32, (1, 16, 16, 32))
        for index in range(layers):
            w = graph.const(
                generator.standard_normal((32, 32, 1, 1)).astype(np.float32) / np.float32(6), f"w{index}"
            )
            b = graph.const(np.zeros(32, np.float32), f"b{index}")
            x = graph.add(Conv2d((1, 1), (0, 0, 0, 0), (1, 1), "NHWC"), (x, w, b), name=f"y{index}")
        graph.set_outputs([x], ["y"])
        binary, result = compiled_and_verified(graph, target, samples=1)
        assert result.mismatches == 0
        assert binary.program.arena_bytes <= 2 * 16 * 16 * 32
        if target == "edge32":
            assert binary.program.arena_bytes == 0


def test_an_allocator_that_lets_buffers_overlap_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted: every buffer at the first address. The check after placement must object."""
    from compiler.schedule.order.scratchpad import AddressMap

    def find(places: AddressMap, buffer: Buffer, time: int, last: int, *, tight: bool) -> tuple[int, int]:
        del places, last, tight
        return time, buffer.align if buffer.memory is Memory.PRM else 0

    monkeypatch.setattr(AddressMap, "find", find)
    with pytest.raises(AssertionError, match="share memory"):
        tiny_program(conv_network(size=8, cin=4, cout=8, kernel=3, stride=1, pad=1))
