"""Networks for tests of training, as layers of the oracle and as float graphs of the compiler."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from compiler.ir.graph import Graph, Node
from compiler.ir.types import DType
from compiler.ops.activation import Clamp, Unary
from compiler.ops.add import Add
from compiler.ops.average_pool import AveragePool
from compiler.ops.batch_norm import BatchNorm
from compiler.ops.concat import Concat
from compiler.ops.conv2d import Conv2d
from compiler.ops.depth_to_space import Take
from compiler.ops.gemm import Gemm
from compiler.ops.max_pool import MaxPool
from compiler.ops.reduce import Reduce
from compiler.ops.shapes import Dropout, Reshape
from compiler.ops.slices import Pad
from tests.training.oracle import Array, Layer

RELU = (0.0, float("inf"))
POOL = {"kernel": (2, 2), "strides": (2, 2)}
SEED_NET = [
    Layer("conv", "conv", options={"kernel": (3, 3), "relu": True}),
    Layer("max_pool", "pool", options=POOL),
    Layer("flatten", "flatten"),
    Layer("dense", "dense", options={"logits": True}),
]
LENET = [
    Layer("conv", "conv1", options={"kernel": (5, 5), "pads": (2, 2, 2, 2), "relu": True}),
    Layer("max_pool", "pool1", options=POOL),
    Layer("conv", "conv2", options={"kernel": (5, 5), "relu": True}),
    Layer("max_pool", "pool2", options=POOL),
    Layer("flatten", "flatten"),
    Layer("dense", "dense1", options={"relu": True}),
    Layer("dense", "dense2", options={"relu": True}),
    Layer("dense", "dense3", options={"logits": True}),
]
RESIDUAL = [
    Layer("conv", "stem", options={"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1), "relu": True}),
    Layer("conv", "a", options={"kernel": (3, 3), "pads": (1, 1, 1, 1), "relu": True}),
    Layer("conv", "b", options={"kernel": (3, 3), "pads": (1, 1, 1, 1)}),
    Layer("add", "sum", ("stem", "b"), {"relu": True}),
    Layer("conv", "c", options={"kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    Layer("conv", "short", ("sum",), {"kernel": (1, 1), "strides": (2, 2)}),
    Layer("add", "sum2", ("short", "c"), {"relu": True}),
    Layer("max_pool", "pool", options={"kernel": (3, 3), "strides": (2, 2)}),
    Layer("flatten", "flatten"),
    Layer("dense", "dense", options={"logits": True}),
]
JOINED = [
    Layer("conv", "a", options={"kernel": (3, 3), "strides": (2, 2), "relu": True}),
    Layer("conv", "b", ("input",), {"kernel": (5, 5), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    Layer("concat", "both", ("a", "b")),
    Layer("average_pool", "halved", options={"kernel": (2, 2), "strides": (2, 2)}),
    Layer("pad", "padded", options={"pads": (1, 2, 0, 1)}),
    Layer("conv", "c", options={"kernel": (3, 3), "relu": True}),
    Layer("average_pool", "smooth", options={"kernel": (3, 3)}),
    Layer("global_average", "mean"),
    Layer("dense", "dense", options={"logits": True}),
]
DROPPED = [
    Layer("conv", "conv", options={"kernel": (3, 3), "strides": (2, 2), "relu": True}),
    Layer("dropout", "drop1", options={"rate": 0.25}),
    Layer("max_pool", "pool", options=POOL),
    Layer("flatten", "flatten"),
    Layer("dense", "dense1", options={"relu": True}),
    Layer("dropout", "drop2", options={"rate": 0.5}),
    Layer("dense", "dense", options={"logits": True}),
]


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)."""
    return 1 / (1 + np.exp(-x))


def swish(x: Array) -> Array:
    """x / (1 + e^-x)."""
    return x * sigmoid(x)


def leaky(x: Array) -> Array:
    """A quarter of what is below 0."""
    return np.where(x > 0, x, x * 0.25)


def below(x: Array) -> Array:
    """What is below 0."""
    return np.minimum(x, 0)


LEAKY = {"name": ("leaky_relu", (0.25,)), "table": (0, 0, False), "f": leaky}
SWISH = {"name": ("silu", ()), "table": (-4, -4, False), "f": swish}
SIGMOID = {"name": ("sigmoid", ()), "table": (-4, -8, True), "f": sigmoid}
HALVES = {"kernel": (3, 3), "strides": (2, 2)}
CURVED = [
    Layer("conv", "c1", options={**HALVES, "relu6": True, "fixed": (-5, True, 192)}),
    Layer("conv", "c2", options=HALVES),
    Layer("reshape", "reshape", options={"shape": (4, 9, 12)}),
    Layer("function", "leaky", options=LEAKY),
    Layer("conv", "c3", options={"kernel": (3, 3), "fixed": (-4, False, 127)}),
    Layer("function", "swish", options=SWISH),
    Layer("flatten", "flatten"),
    Layer("dense", "d1", options={"fixed": (-4, False, 127)}),
    Layer("function", "squash", options=SIGMOID),
    Layer("dense", "dense", options={"logits": True}),
]
SEPARABLE = [
    Layer("conv", "first", options={"kernel": (3, 3), "strides": (2, 2), "relu": True}),
    Layer("depthwise", "dw1", options={"kernel": (3, 3), "pads": (1, 1, 1, 1), "relu": True}),
    Layer("conv", "pw1", options={"kernel": (1, 1), "relu": True}),
    Layer("depthwise", "dw2", options={"kernel": (3, 3), "strides": (2, 2), "pads": (0, 0, 1, 1)}),
    Layer("conv", "pw2", options={"kernel": (1, 1), "relu": True}),
    Layer("global_average", "mean"),
    Layer("dense", "dense", options={"logits": True}),
]
NORM = {"epsilon": 1e-3, "momentum": 0.99}
RECTIFIED = {**NORM, "relu": True}
FREE = {"kernel": (3, 3), "pads": (1, 1, 1, 1), "free": True}
BLOCK = [
    Layer("conv", "stem", options={**FREE, "strides": (2, 2)}),
    Layer("batch_norm", "n1", options=RECTIFIED),
    Layer("conv", "a", options=FREE),
    Layer("batch_norm", "n2", options=RECTIFIED),
    Layer("conv", "b", options=FREE),
    Layer("batch_norm", "n3", options=NORM),
    Layer("add", "sum", ("n1", "n3"), {"relu": True}),
    Layer("conv", "c", options={**FREE, "strides": (2, 2)}),
]
NORMALIZED = [
    *BLOCK,
    Layer("batch_norm", "n4", options=NORM),
    Layer("conv", "short", ("sum",), {"kernel": (1, 1), "strides": (2, 2), "free": True}),
    Layer("batch_norm", "n5", options=NORM),
    Layer("add", "sum2", ("n5", "n4"), {"relu": True}),
    Layer("global_average", "mean"),
    Layer("dense", "d1"),
    Layer("batch_norm", "n6", options={**RECTIFIED, "epsilon": 1e-5, "momentum": 0.9}),
    Layer("dense", "dense", options={"logits": True}),
]
RESNET = [
    *BLOCK,
    Layer("batch_norm", "n4", options=RECTIFIED),
    Layer("conv", "d", options=FREE),
    Layer("batch_norm", "n5", options=NORM),
    Layer("conv", "short", ("sum",), {"kernel": (1, 1), "strides": (2, 2), "free": True}),
    Layer("batch_norm", "n6", options=NORM),
    Layer("add", "sum2", ("n6", "n5"), {"relu": True}),
    Layer("global_average", "mean"),
    Layer("dense", "dense", options={"logits": True}),
]
FACTORS = [
    Layer(
        "conv", "a", options={"kernel": (3, 3), "strides": (2, 2), "relu6": True, "fixed": (-5, True, 192)}
    ),
    Layer("conv", "b", ("input",), {"kernel": (3, 3), "strides": (2, 2)}),
    Layer("add", "sum", ("a", "b"), {"relu": True}),
    Layer("average_pool", "smooth", options={"kernel": (3, 3), "pads": (1, 1, 1, 1)}),
    Layer("conv", "c", ("sum",), {"kernel": (3, 3), "pads": (1, 1, 1, 1)}),
    Layer("concat", "both", ("c", "smooth")),
    Layer("flatten", "flatten"),
    Layer("dense", "dense", options={"logits": True}),
]
FORKED = [
    Layer("conv", "c1", options={**HALVES, "fixed": (-4, False, 127)}),
    Layer("function", "swish", options=SWISH),
    Layer("conv", "a", options={"kernel": (3, 3), "strides": (2, 2)}),
    Layer("max_pool", "pool", ("swish",), {"kernel": (3, 3), "strides": (2, 2)}),
    Layer("relu", "positive", options={"relu": True}),
    Layer("concat", "both", ("a", "positive")),
    Layer("global_average", "mean"),
    Layer("dense", "dense", options={"logits": True}),
]
BELOW = {"name": ("clamp", (-math.inf, 0.0)), "table": (0, 0, False), "f": below}
SLOPED = [
    Layer("conv", "c1", options={**HALVES, "fork_apart": 4}),
    Layer("relu", "positive", options={"relu": True}),
    Layer("function", "negative", ("c1",), BELOW),
    Layer("depthwise", "dw1", options={"kernel": (1, 1), "free": True}),
    Layer("add", "sum", ("positive", "dw1"), {"apart": 4}),
    Layer("conv", "c2", options=HALVES),
    Layer("flatten", "flatten"),
    Layer("dense", "dense", options={"logits": True}),
]
"""What split-prelu makes of a PReLU."""
GROUPS = "groups_of_channels"
GROUPED = [
    Layer("conv", "a", options={"kernel": (3, 3), "strides": (2, 2), "relu": True}),
    Layer("conv", "c1", options={"kernel": (3, 3), "strides": (2, 2), GROUPS: 4, "relu": True}),
    Layer("repeat", "rows", options={"axis": 1, "count": 2}),
    Layer("repeat", "columns", options={"axis": 2, "count": 3}),
    Layer("conv", "pw1", options={"kernel": (3, 3), "pads": (1, 1, 0, 1), GROUPS: 8}),
    Layer("flatten", "flatten"),
    Layer("dense", "dense", options={"logits": True}),
]
FILTERS = {"c1": 8, "dw1": 8, "c2": 12, "c3": 10, "d1": 20, "first": 12, "pw1": 40, "pw2": 24, "conv": 32, "conv1": 6, "conv2": 16, "dense1": 120, "dense2": 84, "stem": 8, "a": 8, "b": 8, "c": 16, "d": 16,
           "short": 16}  # fmt: skip
CLASSES = 10


def weights(layers: Sequence[Layer], seed: int) -> dict[str, Array]:
    """Glorot's uniform weights and zero biases for pictures of 28 x 28 x 1."""
    r = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"input": (28, 28, 1)}
    found: dict[str, Array] = {}
    last = "input"
    for layer in layers:
        shape = shapes[(layer.of or (last,))[0]]
        shapes[layer.name], kernel = _shapes(layer, shape)
        if layer.kind == "concat":
            shapes[layer.name] = (*shape[:2], sum(shapes[n][2] for n in layer.of))
        if kernel:
            limit = np.sqrt(6 / (np.prod(kernel[:-1]) + np.prod(kernel[:-2]) * kernel[-1]))
            found[f"{layer.name}/kernel"] = r.uniform(-limit, limit, kernel).astype(np.float32)
            count = kernel[-2] * kernel[-1] if layer.kind == "depthwise" else kernel[-1]
            if not layer.options.get("free"):
                found[f"{layer.name}/bias"] = np.zeros(count, np.float32)
        if layer.kind == "batch_norm":
            for kind, value in (("gamma", 1), ("beta", 0), ("mean", 0), ("variance", 1)):
                found[f"{layer.name}/{kind}"] = np.full(shape[-1], value, np.float32)
        last = layer.name
    return found


def _shapes(layer: Layer, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shape of a layer's value, and of its kernel if it has one."""
    o = layer.options
    match layer.kind:
        case "conv" | "max_pool" | "average_pool" | "depthwise":
            pads = o.get("pads", (0, 0, 0, 0))
            rows, columns = (
                (shape[i] + pads[i] + pads[i + 2] - o["kernel"][i]) // o.get("strides", (1, 1))[i] + 1
                for i in (0, 1)
            )
            if layer.kind.endswith("pool"):
                return (rows, columns, shape[2]), ()
            if layer.kind == "depthwise":
                return (rows, columns, shape[2]), (*o["kernel"], shape[2], 1)
            count = FILTERS[layer.name]
            return (rows, columns, count), (*o["kernel"], shape[2] // o.get(GROUPS, 1), count)
        case "dense":
            count = FILTERS.get(layer.name, CLASSES)
            return (count,), (shape[0], count)
        case "global_average":
            return (shape[2],), ()
        case "pad":
            top, left, bottom, right = o["pads"]
            return (shape[0] + top + bottom, shape[1] + left + right, shape[2]), ()
        case "repeat":
            return tuple(n * o["count"] if i + 1 == o["axis"] else n for i, n in enumerate(shape)), ()
        case "reshape":
            return o["shape"], ()
        case "flatten":
            return (int(np.prod(shape)),), ()
        case _:
            return shape, ()


def graph_of(
    layers: Sequence[Layer], given: Mapping[str, Array], batch: int
) -> tuple[Graph, Node, dict[str, Node]]:
    """The float graph of a network: the graph, its logits, its parameters; kernels as the compiler lays them."""
    graph = Graph("net")
    values = {"input": graph.input("input", DType.F32, (batch, 28, 28, 1))}
    parameters: dict[str, Node] = {}
    last = "input"

    def parameter(name: str, value: Array) -> Node:
        parameters[name] = graph.input(name, DType.F32, value.shape)
        return parameters[name]

    for layer in layers:
        o, inputs = layer.options, [values[n] for n in layer.of or (last,)]
        clamp = RELU if o.get("relu") else (0.0, 6.0) if o.get("relu6") else None
        strides, pads = o.get("strides", (1, 1)), o.get("pads", (0, 0, 0, 0))
        if layer.kind in ("conv", "dense", "depthwise"):
            turned = as_graph(f"{layer.name}/kernel", given[f"{layer.name}/kernel"])
            if f"{layer.name}/bias" in given:
                bias = parameter(f"{layer.name}/bias", given[f"{layer.name}/bias"])
            else:
                bias = graph.const(np.zeros(FILTERS[layer.name], np.float32), f"{layer.name}/no_bias")
            inputs += [parameter(f"{layer.name}/kernel", turned), bias]
        if layer.kind == "batch_norm":
            kinds = ("gamma", "beta", "mean", "variance")
            inputs += [parameter(f"{layer.name}/{k}", given[f"{layer.name}/{k}"]) for k in kinds]
        made = {
            "conv": lambda o=o, s=strides, p=pads, c=clamp: Conv2d(s, p, (1, 1), "NHWC", c, o.get(GROUPS, 1)),
            "depthwise": lambda s=strides, p=pads, c=clamp, x=inputs[0]: Conv2d(
                s, p, (1, 1), "NHWC", c, x.shape[3]
            ),
            "dense": lambda c=clamp: Gemm(1.0, c),
            "max_pool": lambda o=o, s=strides, p=pads: MaxPool(o["kernel"], s, p, "NHWC"),
            "reshape": lambda o=o: Reshape((batch, *o["shape"])),
            "flatten": lambda x=inputs[0]: Reshape((batch, x.type.elements // batch)),
            "add": lambda c=clamp: Add(c),
            "average_pool": lambda o=o, s=strides, p=pads: AveragePool(
                o["kernel"], s, p, count_include_pad=False, layout="NHWC"
            ),
            "relu": lambda: Clamp(*RELU),
            "global_average": lambda: Reduce("mean", (1, 2)),
            "concat": lambda: Concat(3),
            "function": lambda o=o: Unary(*o["name"]),
            "batch_norm": lambda o=o, c=clamp, x=inputs[0]: BatchNorm(
                len(x.shape) - 1, o["epsilon"], (), o["momentum"], c
            ),
            "repeat": lambda o=o, x=inputs[0]: repeated(x, o["axis"], o["count"]),
            "dropout": lambda o=o: Dropout(o["rate"]),
            "pad": lambda p=pads: Pad((0, *p[:2], 0), (0, *p[2:], 0), "constant", 0.0),
        }[layer.kind]()
        values[layer.name] = graph.add(made, inputs, name=layer.name)
        if layer.kind == "global_average":
            flat = Reshape((batch, values[layer.name].shape[3]))
            values[layer.name] = graph.add(flat, [values[layer.name]], name=f"{layer.name}/flat")
        last = layer.name
    return graph, values[last], parameters


def repeated(x: Node, axis: int, count: int) -> Take:
    """Every element along an axis again and again."""
    return Take(axis, tuple(i // count for i in range(x.shape[axis] * count)))


def as_graph(name: str, value: Array) -> Array:
    """A parameter, or its gradient, as the compiler lays it."""
    if not name.endswith("kernel") or value.ndim != 4:
        return value
    if name.startswith("dw"):
        return np.ascontiguousarray(value.transpose(2, 3, 0, 1))
    return value.transpose(3, 2, 0, 1)
