"""Small networks for tests: random graphs, and the comparison of a compiled one with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from compiler import driver
from compiler.ir.evaluate import Sample
from compiler.ir.graph import Graph, Node
from compiler.ir.op import ShapeError
from compiler.ir.types import DType
from compiler.ops.activation import Clamp
from compiler.ops.add import Add
from compiler.ops.affine import Affine
from compiler.ops.average_pool import AveragePool
from compiler.ops.conv2d import Conv2d
from compiler.ops.gemm import Gemm
from compiler.ops.max_pool import MaxPool
from compiler.ops.shapes import Reshape, Transpose
from compiler.ops.sliding_window import image_shape
from compiler.ops.softmax import Softmax
from compiler.quantize.methods import Recipe
from x1 import api
from x1.lab.verification import Verification, verify

Generator = np.random.Generator


class Builder:
    """Adds random layers to a graph; a layer that does not fit leaves the value as it is."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.graph = Graph(f"random{seed}")
        self.layout = str(self.random.choice(["NCHW", "NHWC"]))
        self.earlier: list[Node] = []

    def pick(self, *options: int) -> int:
        return int(self.random.choice(options))

    def weights(self, *shape: int) -> Node:
        fan = int(np.prod(shape[1:])) or 1
        values = self.random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(fan))
        return self.graph.const(values, f"w{len(self.graph.nodes())}")

    def channels(self, x: Node) -> int:
        return x.shape[1] if self.layout == "NCHW" else x.shape[3]

    def image(self) -> Node:
        n, h, w, c = (
            self.pick(1, 1, 1, 2),
            self.pick(5, 8, 13, 17),
            self.pick(4, 9, 12, 19),
            self.pick(1, 3, 8, 11),
        )
        shape = (n, c, h, w) if self.layout == "NCHW" else (n, h, w, c)
        return self.graph.input("x", DType.F32, shape)

    def conv(self, x: Node) -> Node:
        kernel = (self.pick(1, 2, 3, 5), self.pick(1, 3, 4))
        cout = self.pick(1, 4, 8, 9, 19, 40)
        pads = (self.pick(0, 1, 2), self.pick(0, 1, 2), self.pick(0, 1, 2), self.pick(0, 1))
        strides, dilations = (
            (self.pick(1, 1, 2, 3), self.pick(1, 1, 2)),
            (self.pick(1, 1, 2), self.pick(1, 1, 2)),
        )
        w, b = self.weights(cout, self.channels(x), *kernel), self.weights(cout)
        return self.graph.add(Conv2d(strides, pads, dilations, self.layout), (x, w, b))

    def norm(self, x: Node) -> Node:
        y = self.conv(x)
        axis = 1 if self.layout == "NCHW" else 3
        c = self.channels(y)
        gain = self.graph.const(self.random.uniform(0.2, 2, c).astype(np.float32))
        return self.graph.add(Affine(axis), (y, gain, self.weights(c)))

    def clamp(self, x: Node) -> Node:
        low, high = [(0.0, float("inf")), (0.0, 6.0), (-0.5, 0.7), (0.0, 1.0)][self.pick(0, 0, 1, 2, 3)]
        return self.graph.add(Clamp(low, high), (x,))

    def max_pool(self, x: Node) -> Node:
        kernel = (self.pick(1, 2, 3), self.pick(2, 3))
        pads = (self.pick(0, kernel[0] - 1), self.pick(0, 1), self.pick(0, kernel[0] - 1), 0)
        return self.graph.add(MaxPool(kernel, (self.pick(1, 2), self.pick(1, 2)), pads, self.layout), (x,))

    def average_pool(self, x: Node) -> Node:
        pads = (self.pick(0, 1), self.pick(0, 1), 0, self.pick(0, 1))
        kernel = (2, self.pick(2, 3))
        if kernel == image_shape(x.shape, self.layout)[1:3]:
            return x  # a window over the whole image is a global average
        include = bool(self.pick(0, 1))
        return self.graph.add(AveragePool(kernel, (self.pick(1, 2), 1), pads, include, self.layout), (x,))

    def residual(self, x: Node) -> Node:
        """A sum with an earlier value of the same shape, or with a 1 x 1 convolution of x."""
        same = [n for n in self.earlier if n.shape == x.shape and n is not x]
        if same:
            return self.graph.add(Add(), (x, same[self.pick(*range(len(same)))]))
        c = self.channels(x)
        other = self.graph.add(Conv2d((1, 1), (0, 0, 0, 0), (1, 1), self.layout),
                               (x, self.weights(c, c, 1, 1), self.weights(c)))  # fmt: skip
        return self.graph.add(Add(), (other, x))

    def head(self, x: Node) -> Node:
        """Flatten, one or two matrix products, sometimes softmax."""
        n = x.shape[0]
        x = self.graph.add(Reshape((n, x.type.elements // n)), (x,))
        for _ in range(self.pick(1, 2)):
            columns = self.pick(3, 10, 21)
            w = self.graph.const(self.weights(columns, x.shape[1]).constant.T.copy())
            x = self.graph.add(Gemm(), (x, w, self.weights(columns)))
            x = self.clamp(x) if self.pick(0, 1) else x
        return self.graph.add(Softmax(1), (x,)) if self.pick(0, 1) else x

    def turned(self, x: Node) -> Node:
        """A transpose that cannot be cancelled."""
        return self.graph.add(Transpose((0, 2, 1, 3) if self.pick(0, 1) else (0, 3, 2, 1)), (x,))


def random_graph(seed: int) -> Graph:
    """A network of a few random layers, with batch, layout, pads, strides and branches."""
    b = Builder(seed)
    layers: list[Callable[[Node], Node]] = [b.conv, b.conv, b.norm, b.clamp, b.clamp, b.max_pool]
    layers += [b.average_pool, b.residual]
    x = b.image()
    while True:
        try:
            x = b.conv(x)
            break
        except ShapeError:
            continue
    for _ in range(b.pick(1, 2, 3, 4)):
        b.earlier.append(x)
        try:
            x = layers[b.pick(*range(len(layers)))](x)
        except ShapeError:
            continue
    kind = b.pick(0, 0, 1, 2)
    x = b.head(x) if kind == 0 else b.turned(x) if kind == 1 else x
    b.graph.set_outputs([x], ["y"])
    b.graph.erase_dead()
    return b.graph


def random_inputs(graph: Graph, count: int, seed: int = 1) -> list[dict[str, np.ndarray]]:
    """Seeded samples."""
    generator = np.random.default_rng(seed)
    return [
        {n.name: generator.standard_normal(n.shape).astype(np.float32) for n in graph.inputs}
        for _ in range(count)
    ]


def calibrated(graph: Graph, samples: Sequence[Sample], recipe: Recipe | None = None) -> Graph:
    """The integer graph of a prepared float graph, by a recipe on samples."""
    return driver.quantize(graph, driver.calibrate(graph, samples, recipe or Recipe()))


def quantized(graph: Graph, samples: int) -> api.Model:
    """A float graph, quantized on seeded samples."""
    return api.quantize(api.Model(graph.name, driver.prepare(graph)), random_inputs(graph, samples))


def compiled_and_verified(graph: Graph, target: str, *, samples: int = 2) -> tuple[api.Binary, Verification]:
    """The binary of a float graph, of the first schedule alone, and its comparison with ONNX Runtime."""
    model = quantized(graph, 3)
    binary = api.compile(model, target, search=1)
    return binary, verify(model, binary, random_inputs(graph, samples, seed=2))
