"""Layers beyond the fields of an instruction are cut or refused with a reason; scales stay computable."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from compiler import driver
from compiler.errors import CompileError, FitError
from compiler.ir.evaluate import outputs
from compiler.ir.graph import Graph, Node
from compiler.ir.types import DType
from compiler.ops.activation import Clamp
from compiler.ops.add import Add
from compiler.ops.average_pool import AveragePool
from compiler.ops.conv2d import Conv2d
from compiler.ops.gemm import Gemm
from compiler.ops.max_pool import MaxPool
from compiler.ops.shapes import Reshape, Transpose
from compiler.ops.softmax import Softmax
from isa.target import load_target
from tests import models
from tests.networks import compiled_and_verified, random_inputs
from x1 import api
from x1.lab.verification import verify
from x1.session import Session

WIDE = load_target(
    "edge64",
    [
        "spm.bytes=8388608",
        "acc.rows=16384",
        "prm.bytes=524288",
        "mx.cols=256",
        "mx.rows=256",
        "spm.port_bytes=256",
    ],
)


class Layers:
    """Layers on NHWC values with seeded weights."""

    def __init__(self, *shape: int) -> None:
        self.random = np.random.default_rng(0)
        self.graph = Graph("limits")
        self.x = self.graph.input("x", DType.F32, shape)

    def weights(self, *shape: int) -> Node:
        fan = np.float32(np.sqrt(max(1, np.prod(shape[1:]))))
        return self.graph.const(self.random.standard_normal(shape).astype(np.float32) / fan)

    def conv(self, x: Node, cout: int, kh: int, kw: int, pad: int = 0, dilation: int = 1) -> Node:
        operation = Conv2d((1, 1), (pad, pad, pad, pad), (dilation, dilation), "NHWC")
        return self.graph.add(operation, (x, self.weights(cout, x.shape[3], kh, kw), self.weights(cout)))

    def pool(
        self,
        kernel: tuple[int, int],
        strides: tuple[int, int] = (2, 2),
        pads: tuple[int, int, int, int] = (1, 1, 1, 1),
        dilations: tuple[int, int] = (1, 1),
    ) -> Node:
        return self.graph.add(MaxPool(kernel, strides, pads, "NHWC", dilations), (self.x,))

    def average(self, kernel: tuple[int, int], strides: tuple[int, int] = (2, 2)) -> Node:
        operation = AveragePool(kernel, strides, (1, 1, 1, 1), count_include_pad=False, layout="NHWC")
        return self.graph.add(operation, (self.x,))

    def window(
        self,
        cout: int,
        kernel: tuple[int, int],
        strides: tuple[int, int],
        pads: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilations: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> Node:
        operation = Conv2d(strides, pads, dilations, "NHWC", groups=groups)
        w = self.weights(cout, self.x.shape[3] // groups, *kernel)
        return self.graph.add(operation, (self.x, w, self.weights(cout)))

    def dense(self, x: Node, columns: int) -> Node:
        depth = x.type.elements // x.shape[0]
        flat = self.graph.add(Reshape((x.shape[0], depth)), (x,))
        return self.graph.add(Gemm(), (flat, self.weights(depth, columns), self.weights(columns)))


Build = tuple[tuple[int, ...], Callable[[Layers], Node]]
CUT: dict[str, Build] = {
    "rows of 800,000 bytes": ((1, 2, 4000, 200), lambda net: net.conv(net.x, 8, 1, 3)),
    "resident rows": ((1, 2, 2040, 16), lambda net: net.conv(net.conv(net.x, 64, 1, 1), 8, 1, 1)),
    "wide sum": ((1, 2, 1100, 400), lambda net: net.graph.add(Add(), (net.x, net.x))),
    "wide table": ((1, 3, 2100, 100), lambda net: net.graph.add(Clamp(-1, 0.5), (net.x,))),
    "wide pool": ((1, 5, 1030, 300), lambda net: net.pool((3, 3))),
    "wide average": ((1, 5, 1030, 30), lambda net: net.graph.add(
        AveragePool((3, 3), (2, 2), (1, 1, 1, 1), count_include_pad=False, layout="NHWC"), (net.x,))),
    "wide softmax": ((1, 2, 40, 70), lambda net: net.graph.add(Softmax(3), (net.x,))),
    "deep product": ((1, 25088), lambda net: net.dense(net.x, 128)),
    "tall product": ((3000, 40), lambda net: net.dense(net.x, 300)),
    "many input channels": ((1, 4, 4, 4100), lambda net: net.conv(net.x, 9, 3, 3, pad=1)),
    "many output channels": ((1, 3, 3, 5), lambda net: net.conv(net.x, 4100, 1, 1)),
    "dilation 16": ((1, 20, 20, 5), lambda net: net.conv(net.x, 4, 3, 3, pad=16, dilation=16)),
    "product of a reshaped resident": ((3, 9, 100, 3), lambda net: net.dense(net.conv(net.x, 10, 1, 1), 3)),
    "kernel of a convolution": ((1, 20, 20, 5), lambda net: net.conv(net.x, 4, 17, 3)),
    "kernel over rows and columns": ((1, 40, 37, 3), lambda net: net.conv(net.x, 4, 33, 20, pad=7)),
    "pad of a convolution": ((1, 20, 20, 5), lambda net: net.conv(net.x, 4, 3, 3, pad=40)),
    "dilation of a convolution": ((1, 45, 50, 5), lambda net: net.conv(net.x, 4, 3, 2, pad=2, dilation=17)),
    "patches": ((1, 64, 64, 3), lambda net: net.window(6, (32, 32), (32, 32))),
    "stride beyond the kernel": ((2, 50, 40, 3), lambda net: net.window(6, (2, 3), (20, 5), (1, 1, 2, 0))),
    "large depthwise kernel": ((1, 30, 31, 6), lambda net: net.window(6, (31, 31), (1, 1), (15, 15, 15, 15), groups=6)),
    "large grouped kernel": ((1, 30, 12, 6), lambda net: net.window(4, (18, 3), (2, 1), (9, 1, 8, 1), groups=2)),
    "dilated grouped": ((1, 50, 12, 6), lambda net: net.window(4, (3, 3), (2, 1), (9, 1, 8, 1), (20, 2), groups=2)),
    "kernel of a pool": ((1, 80, 30, 3), lambda net: net.pool((70, 3))),
    "kernel of a pool over columns": ((1, 9, 200, 3), lambda net: net.pool((3, 150))),
    "stride of a pool": ((1, 80, 30, 3), lambda net: net.pool((3, 3), (17, 2))),
    "pad of a pool": ((1, 80, 30, 3), lambda net: net.pool((60, 3), pads=(40, 1, 1, 1))),
    "dilated pool": ((2, 30, 29, 5), lambda net: net.pool((3, 2), (2, 1), (2, 1, 3, 1), (3, 2))),
    "turned": ((1, 100, 90, 3), lambda net: net.graph.add(Clamp(-1, 0.5), (
        net.graph.add(Transpose((0, 2, 1, 3)), (net.conv(net.x, 9, 1, 1),)),))),
}  # fmt: skip


@pytest.mark.parametrize("target", ["wide", "edge32"])
@pytest.mark.parametrize("name", CUT)
def test_what_exceeds_a_field_is_cut(name: str, target: str) -> None:
    shape, build = CUT[name]
    layers = Layers(*shape)
    layers.graph.set_outputs([build(layers)], ["y"])
    samples = random_inputs(layers.graph, 1)
    model = api.quantize(api.Model("limits", driver.prepare(layers.graph)), samples)
    result = verify(model, api.compile(model, WIDE if target == "wide" else target, search=1), samples)
    assert result.mismatches == 0


REFUSED: dict[str, tuple[Build, str]] = {
    "kernel of an average": (((1, 80, 30, 3), lambda net: net.average((70, 3))), "at most 64"),
    "stride of an average": (((1, 80, 30, 3), lambda net: net.average((3, 3), (17, 2))), "at most 16"),
    "length of a softmax": (((1, 70000), lambda net: net.graph.add(Softmax(1), (net.x,))), "at most 65535"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_instruction_expresses_is_refused_with_the_limit(name: str) -> None:
    (shape, build), limit = REFUSED[name]
    layers = Layers(*shape)
    layers.graph.set_outputs([build(layers)], ["y"])
    with pytest.raises(CompileError) as refused:
        compiled_and_verified(layers.graph, "edge32", samples=1)
    assert refused.value.diagnostics[0].allowed == limit


def test_every_layer_that_does_not_fit_is_told_with_what_it_needs() -> None:
    layers = Layers(1, 8, 8, 16)
    first = layers.conv(layers.x, 64, 5, 5)
    second = layers.conv(first, 64, 3, 3)
    layers.graph.set_outputs([layers.graph.add(Clamp(-1, 0.5), (second,))], ["y"])
    small = load_target(
        "edge32", ["spm.bytes=2048", "mx.rows=128", "mx.cols=128", "spm.port_bytes=128", "spm.banks=1"]
    )
    model = api.quantize(api.Model("limits", driver.prepare(layers.graph)), random_inputs(layers.graph, 1))
    with pytest.raises(FitError) as refused:
        api.compile(model, small)
    assert len(refused.value.diagnostics) == 2
    for diagnostic in refused.value.diagnostics:
        found = re.search(
            r"needs (\d+) bytes of the scratchpad, (\d+) more than the (\d+) available", diagnostic.message
        )
        assert found is not None
        needed, excess, available = map(int, found.groups())
        assert (available, needed - available) == (2048, excess)


def test_every_layer_that_no_machine_can_do_is_told() -> None:
    layers = Layers(1, 80, 80, 3)
    outputs = [layers.average((70, 3)), layers.average((3, 71))]
    layers.graph.set_outputs(outputs, ["y", "z"])
    with pytest.raises(CompileError) as refused:
        compiled_and_verified(layers.graph, "edge32", samples=1)
    assert len(refused.value.diagnostics) == 2


def convolution(weight_scale: float, bias_scale: float) -> Graph:
    """A convolution of which a channel has no weights, and another next to none."""
    layers = Layers(1, 6, 6, 3)
    w = layers.random.standard_normal((5, 3, 3, 3)) * weight_scale
    w[1], w[2] = 0, w[2] * 1e-12
    b = layers.random.standard_normal(5) * bias_scale
    graph = layers.graph
    constants = (graph.const(v.astype(np.float32)) for v in (w, b))
    operation = Conv2d((1, 1), (0, 0, 0, 0), (1, 1), "NHWC")
    graph.set_outputs([graph.add(operation, (layers.x, *constants))], ["y"])
    return graph


@pytest.mark.parametrize(
    ("weight_scale", "bias_scale"), [(1, 1), (1e-30, 1), (1e30, 1), (1, 1e20), (1e36, 1e38), (1, 0), (1e-20, 1e-20), (0, 1)]
)  # fmt: skip
def test_small_weights_beside_a_large_bias_keep_the_bias(weight_scale: float, bias_scale: float) -> None:
    """The bias is int32 at the scale of input times weights: dead channels must not saturate it."""
    graph = convolution(weight_scale, bias_scale)
    binary, result = compiled_and_verified(graph, "edge32", samples=1)
    assert result.mismatches == 0
    (sample,) = random_inputs(graph, 1, seed=2)
    expected = outputs(graph, sample)["y"]
    (got,) = Session(binary).run(None, sample)
    assert np.abs(expected - got).max() < 0.02 * np.abs(expected).max()


def test_scales_whose_product_overflows_are_refused() -> None:
    layers = Layers(1, 4)
    first = layers.graph.add(
        Gemm(), (layers.x, layers.graph.const(np.full((4, 4), 1e37, np.float32)), layers.weights(4))
    )
    second = layers.graph.add(
        Gemm(), (first, layers.graph.const(np.full((4, 4), 1e-30, np.float32)), layers.weights(4))
    )
    third = layers.graph.add(Add(), (second, layers.graph.const(np.full((1, 4), 1e-30, np.float32))))
    layers.graph.set_outputs([third], ["y"])
    compiled_and_verified(layers.graph, "edge32", samples=1)
    layers = Layers(1, 4)
    huge = layers.graph.const(np.full((1, 4), 3e38, np.float32))
    tiny = layers.graph.const(np.full((1, 4), 1e-37, np.float32))
    total = layers.graph.add(Add((0.0, 1e-30)), (layers.x, huge))
    layers.graph.set_outputs([layers.graph.add(Add((0.0, 1e-36)), (total, tiny))], ["y"])
    with pytest.raises(CompileError, match="infinite in float32"):
        compiled_and_verified(layers.graph, "edge32", samples=1)


def test_weights_that_are_not_finite_are_refused_by_name() -> None:
    layers = Layers(1, 4)
    bad = np.ones((4, 4), np.float32)
    bad[1, 2] = np.nan
    y = layers.graph.add(Gemm(), (layers.x, layers.graph.const(bad, "w"), layers.weights(4)))
    layers.graph.set_outputs([y], ["y"])
    with pytest.raises(CompileError, match="1 of 16 elements of the constant 'w' are NaN or infinite"):
        driver.prepare(layers.graph)


def test_sums_that_double_before_a_masked_softmax_are_looked_at_once() -> None:
    nodes, x = list[models.onnx.NodeProto](), "x"
    for i in range(60):
        nodes += [models.node("Add", f"{x} {x}", f"a{i}"), models.node("Add", f"a{i} {x}", f"b{i}")]
        x = f"b{i}"
    nodes += [models.node("Add", f"{x} m", "s"), models.node("Softmax", "s", "y", axis=-1)]
    made = models.model(nodes, {"x": (1, 4)}, "y", {"m": np.array([0, 0, 0, -np.inf], np.float32)})
    binary = api.compile(made, calibrate=[{"x": np.full((1, 4), 1e-30, np.float32)}], search=1)
    (given,) = Session(binary).run(None, {"x": np.full((1, 4), 1e-30, np.float32)})
    assert given[0, 3] == 0
