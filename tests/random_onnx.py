"""Random ONNX networks: branches, residuals, squeeze-and-excitation, odd shapes, every operator.

A network is a function of its seed. Layers are chosen at random; one that does not fit the values at hand
is left out. Every layer says its operator's name to the histogram.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
T = TypeVar("T")
MAX_ELEMENTS: Final = 12_000
OPSET: Final = 18
SIMPLE: Final = (
    "Relu Sigmoid Tanh HardSigmoid HardSwish Elu Selu Softplus Softsign Erf Abs Neg Floor Ceil Round Sign Exp Sin Cos "
    "Atan Mish Identity Asinh Sinh Cosh Dropout"
)
POINTWISE: Final[dict[str, dict[str, Any]]] = {
    **{name: {} for name in SIMPLE.split()},
    "LeakyRelu": {"alpha": 0.1},
    "Celu": {"alpha": 0.7},
    "ThresholdedRelu": {"alpha": 0.5},
    "Shrink": {"lambd": 0.25, "bias": 0.125},
}
BOUNDED: Final = ("Asin", "Acos", "Tan", "Atanh")
"""Functions of numbers within -0.9..0.9."""
POSITIVE: Final = ("Sqrt", "Log", "Reciprocal", "Acosh")
"""Functions of numbers of at least 1.25."""


@dataclass(frozen=True)
class Value:
    """A tensor of the network."""

    name: str
    shape: tuple[int, ...]


class DoesNotFit(Exception):
    """The layer has no meaning for these values."""


@dataclass
class Network:
    """A network being made."""

    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list[onnx.NodeProto])
    constants: list[onnx.TensorProto] = field(default_factory=list[onnx.TensorProto])
    used: Counter[str] = field(default_factory=Counter[str])
    number: int = 0

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.images: list[Value] = []

    # --- the means ---------------------------------------------------------------------------------------

    def pick(self, *options: T) -> T:
        return options[int(self.random.integers(len(options)))]

    def constant(self, value: Array) -> str:
        self.number += 1
        name = f"c{self.number}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weights(self, *shape: int) -> str:
        fan = max(int(np.prod(shape[1:])), 1)
        return self.constant((self.random.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def row(self, *shape: int) -> str:
        return self.constant(self.random.uniform(-0.5, 0.5, shape).astype(np.float32))

    def add(
        self, op: str, inputs: Sequence[str], shape: Sequence[int], outputs: int = 1, **attributes: Any
    ) -> Value:
        """A node; the shape is checked by ONNX Runtime, not here."""
        self.number += 1
        if int(np.prod(shape)) > MAX_ELEMENTS or min(shape) < 1:
            raise DoesNotFit
        names = [f"t{self.number}"] + [f"t{self.number}.{i}" for i in range(1, outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        self.used[op] += 1
        return Value(names[0], tuple(shape))

    # --- layers on images (n, c, h, w) ---------------------------------------------------------------------

    def conv(self, x: Value) -> Value:
        n, c, h, w = x.shape
        kernel = [self.pick(1, 2, 3, 5), self.pick(1, 3, 4)]
        groups = self.pick(1, 1, c, *(g for g in (2, 3, 4) if c % g == 0))
        cout = groups * self.pick(1, 2, 3) if groups > 1 else self.pick(1, 4, 8, 9, 19, 33)
        strides, dilations = (
            [self.pick(1, 1, 2, 3), self.pick(1, 1, 2)],
            [self.pick(1, 1, 2), self.pick(1, 1, 2)],
        )
        pads = [self.pick(0, 1, 2), self.pick(0, 1, 2), self.pick(0, 1, 2), self.pick(0, 1)]
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        out = [
            (e + pads[i] + pads[i + 2] - r) // s + 1
            for i, (e, r, s) in enumerate(zip((h, w), reach, strides, strict=True))
        ]
        inputs = [x.name, self.weights(cout, c // groups, *kernel)] + (
            [self.row(cout)] if self.pick(0, 1) else []
        )
        return self.add(
            "Conv", inputs, (n, cout, *out), strides=strides, pads=pads, dilations=dilations, group=groups
        )

    def wide_conv(self, x: Value) -> Value:
        """A convolution beyond the fields of an instruction: kernel, dilation, stride or pads."""
        n, c, h, w = x.shape
        groups = self.pick(1, 1, c)
        cout = groups * self.pick(1, 2)
        kind = self.pick("kernel", "dilation", "stride", "pads")
        kernel = [self.pick(17, 18) if kind == "kernel" else 2, self.pick(1, 3)]
        dilation, stride = 17 if kind == "dilation" else 1, 17 if kind == "stride" else 1
        reach = (kernel[0] - 1) * dilation + 1
        before = 33 if kind == "pads" else reach // 2
        pads = [before, self.pick(0, 1), reach // 2, 1]
        out = [(h + before + pads[2] - reach) // stride + 1, w + pads[1] + 1 - kernel[1] + 1]
        inputs = [x.name, self.weights(cout, c // groups, *kernel)]
        return self.add("Conv", inputs, (n, cout, *out), strides=[stride, 1], pads=pads,
                        dilations=[dilation, 1], group=groups)  # fmt: skip

    def conv_transpose(self, x: Value) -> Value:
        n, c, h, w = x.shape
        groups = self.pick(1, 1, *(g for g in (2, 3) if c % g == 0))
        rows, kernel = self.pick(1, 3, 5), [self.pick(1, 2, 3, 4), self.pick(2, 3)]
        strides, dilations = [self.pick(1, 2, 3), self.pick(1, 2)], [self.pick(1, 1, 2), 1]
        pads = [self.pick(0, 1), 0, 0, self.pick(0, 1)]
        extra = [self.pick(0, strides[0] - 1), 0]
        out = [s * (e - 1) + extra[i] + (k - 1) * d + 1 - pads[i] - pads[i + 2]
               for i, (e, k, s, d) in enumerate(zip((h, w), kernel, strides, dilations, strict=True))]  # fmt: skip
        inputs = [x.name, self.weights(c, rows, *kernel), self.row(rows * groups)]
        return self.add("ConvTranspose", inputs, (n, rows * groups, *out), strides=strides, pads=pads,
                        dilations=dilations, output_padding=extra, group=groups)  # fmt: skip

    def norm(self, x: Value) -> Value:
        c = x.shape[1]
        names = [
            self.row(c),
            self.row(c),
            self.row(c),
            self.constant(self.random.uniform(0.3, 2, c).astype(np.float32)),
        ]
        return self.add("BatchNormalization", [x.name, *names], x.shape)

    def pool(self, x: Value) -> Value:
        n, c, h, w = x.shape
        op, kernel = self.pick("MaxPool", "AveragePool"), [self.pick(1, 2, 3), self.pick(2, 3)]
        strides = [self.pick(1, 2), self.pick(1, 2, 3)]
        pads = [self.pick(0, kernel[0] - 1), self.pick(0, 1), self.pick(0, kernel[0] - 1), 0]
        out = [
            (e + pads[i] + pads[i + 2] - k) // s + 1
            for i, (e, k, s) in enumerate(zip((h, w), kernel, strides, strict=True))
        ]
        if min(h - pads[0], w - pads[1]) < 1 or any(
            (o - 1) * s - p >= e for o, s, p, e in zip(out, strides, pads, (h, w), strict=False)
        ):
            raise DoesNotFit
        extra = {"count_include_pad": self.pick(0, 1)} if op == "AveragePool" else {}
        if self.pick(0, 0, 1):
            return self.other_pool(x, op, kernel, strides, extra)
        return self.add(op, [x.name], (n, c, *out), kernel_shape=kernel, strides=strides, pads=pads, **extra)

    def other_pool(
        self, x: Value, op: str, kernel: list[int], strides: list[int], extra: dict[str, Any]
    ) -> Value:
        """Dilated maxima, averages with incomplete windows at the end."""
        n, c, h, w = x.shape
        dilations = [self.pick(1, 2), self.pick(2, 3)] if op == "MaxPool" else [1, 1]
        reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        ceil = op == "AveragePool"
        out = [(e - r + (s - 1) * ceil) // s + 1 for e, r, s in zip((h, w), reach, strides, strict=True)]
        if min(h - reach[0], w - reach[1]) < 0 or any(
            (o - 1) * s >= e for o, s, e in zip(out, strides, (h, w), strict=True)
        ):
            raise DoesNotFit
        if ceil:
            extra |= {"ceil_mode": 1}
        else:
            extra |= {"dilations": dilations}
        return self.add(op, [x.name], (n, c, *out), kernel_shape=kernel, strides=strides, **extra)

    def excite(self, x: Value) -> Value:
        """Squeeze and excitation: a gain for every channel, computed from the whole image."""
        n, c, _, _ = x.shape
        mean = self.add("GlobalAveragePool", [x.name], (n, c, 1, 1))
        small = self.add("Conv", [mean.name, self.weights(2, c, 1, 1), self.row(2)], (n, 2, 1, 1))
        wide = self.add("Conv", [self.add("Relu", [small.name], small.shape).name, self.weights(c, 2, 1, 1), self.row(c)],
                        (n, c, 1, 1))  # fmt: skip
        gain = self.add(self.pick("Sigmoid", "HardSigmoid"), [wide.name], wide.shape)
        operands = [x.name, gain.name] if self.pick(0, 1) else [gain.name, x.name]
        return self.add("Mul", operands, x.shape)

    def binary(self, x: Value) -> Value:
        """With another value of the shape, with a constant that broadcasts, or with itself."""
        op = self.pick("Add", "Add", "Sub", "Mul", "Div", "Max", "Min")
        same = [v.name for v in self.images if v.shape == x.shape]
        n, c, h, w = x.shape
        shape = self.pick((1,), (c, 1, 1), (1, c, 1, 1), (h, w), (1, 1, h, 1), (n, c, h, w))
        values: Array = self.random.uniform(0.4, 2, shape) * self.random.choice([-1, 1], shape)
        other = (
            self.pick(*same, self.constant(values.astype(np.float32)))
            if op != "Div"
            else self.constant(values.astype(np.float32))
        )
        operands = [x.name, other]
        if op != "Div" and self.pick(0, 1):
            operands.reverse()
        return self.add(op, operands, x.shape)

    def concat(self, x: Value) -> Value:
        axis = self.pick(1, 1, 1, 2, 3)
        fits = [
            v
            for v in self.images
            if all(a == b for i, (a, b) in enumerate(zip(v.shape, x.shape, strict=True)) if i != axis)
        ]
        others = [fits[int(self.random.integers(len(fits)))] for _ in range(self.pick(1, 2))] if fits else [x]
        extent = x.shape[axis] + sum(v.shape[axis] for v in others)
        shape = tuple(extent if i == axis else d for i, d in enumerate(x.shape))
        return self.add("Concat", [x.name, *(v.name for v in others)], shape, axis=axis)

    def split(self, x: Value) -> Value:
        axis = self.pick(1, 1, 2, 3)
        if x.shape[axis] < 2:
            raise DoesNotFit
        first = int(self.random.integers(1, x.shape[axis]))
        sizes = [first, x.shape[axis] - first]
        shapes = [tuple(s if i == axis else d for i, d in enumerate(x.shape)) for s in sizes]
        made = self.add("Split", [x.name, self.constant(np.array(sizes))], shapes[0], 2, axis=axis)
        self.images.append(Value(f"{made.name}.1", shapes[1]))
        return made

    def slice(self, x: Value) -> Value:
        axis = self.pick(1, 2, 3)
        start, step = self.pick(0, 1), self.pick(1, 1, 2, -1)
        chosen = range(x.shape[axis])[start::step] if step > 0 else range(x.shape[axis])[::step]
        if not chosen:
            raise DoesNotFit
        end = np.iinfo(np.int64).max if step > 0 else np.iinfo(np.int64).min
        rows = [np.array([v]) for v in (start if step > 0 else x.shape[axis] - 1, end, axis, step)]
        shape = tuple(len(chosen) if i == axis else d for i, d in enumerate(x.shape))
        return self.add("Slice", [x.name, *(self.constant(r.astype(np.int64)) for r in rows)], shape)

    def pad(self, x: Value) -> Value:
        mode = self.pick("constant", "edge", "reflect")
        pads = [
            0,
            self.pick(0, 0, 1),
            self.pick(0, 1, 2),
            self.pick(0, 1),
            0,
            0,
            self.pick(0, 1),
            self.pick(0, 2),
        ]
        if mode == "reflect" and any(max(pads[i], pads[i + 4]) >= x.shape[i] for i in range(4)):
            raise DoesNotFit
        shape = tuple(d + pads[i] + pads[i + 4] for i, d in enumerate(x.shape))
        value = [self.constant(np.array(0.25, np.float32))] if mode == "constant" else []
        return self.add("Pad", [x.name, self.constant(np.array(pads)), *value], shape, mode=mode)

    def resize(self, x: Value) -> Value:
        scales = [1.0, 1.0, self.pick(1.0, 2.0, 1.5, 0.5), self.pick(1.0, 2.0, 3.0, 0.7)]
        shape = tuple(
            int(np.floor(np.float32(d) * np.float32(s))) for d, s in zip(x.shape, scales, strict=True)
        )
        transform = self.pick("half_pixel", "asymmetric", "align_corners")
        rounding = self.pick("floor", "round_prefer_floor", "ceil")
        inputs = [x.name, "", self.constant(np.array(scales, np.float32))]
        if self.pick(0, 1):
            return self.add("Resize", inputs, shape, mode=self.pick("linear", "cubic"))
        return self.add("Resize", inputs, shape, mode="nearest", coordinate_transformation_mode=transform,
                        nearest_mode=rounding)  # fmt: skip

    def blocks(self, x: Value) -> Value:
        n, c, h, w = x.shape
        if c % 4 == 0 and self.pick(0, 1):
            return self.add(
                "DepthToSpace", [x.name], (n, c // 4, 2 * h, 2 * w), blocksize=2, mode=self.pick("DCR", "CRD")
            )
        if h % 2 or w % 2:
            raise DoesNotFit
        return self.add("SpaceToDepth", [x.name], (n, c * 4, h // 2, w // 2), blocksize=2)

    def transpose(self, x: Value) -> Value:
        perm = self.pick((0, 1, 3, 2), (0, 2, 3, 1), (0, 3, 1, 2), (0, 3, 2, 1))
        return self.add("Transpose", [x.name], [x.shape[p] for p in perm], perm=perm)

    def pointwise(self, x: Value) -> Value:
        for _ in range(self.pick(2, 3, 4, 5)):
            op = self.pick(*POINTWISE, *BOUNDED, *POSITIVE)
            if op in BOUNDED:
                bounds = [self.constant(np.array(v, np.float32)) for v in (-0.9, 0.9)]
                x = self.add("Clip", [x.name, *bounds], x.shape)
            if op in POSITIVE:
                x = self.add("Add", [self.add("Abs", [x.name], x.shape).name, self.constant(np.full(1, 1.25, np.float32))],
                             x.shape)  # fmt: skip
            x = self.add(op, [x.name], x.shape, **POINTWISE.get(op, {}))
        return x

    def several(self, x: Value) -> Value:
        """Sum or mean of some values of one shape."""
        same = [v.name for v in self.images if v.shape == x.shape]
        operands = [x.name, *(self.pick(*same) for _ in range(self.pick(0, 1, 2)) if same)]
        return self.add(self.pick("Sum", "Mean", "Max", "Min"), operands, x.shape)

    def reshaped(self, x: Value) -> Value:
        """Dimensions of extent 1 come and go; a tensor is repeated."""
        if x.shape[0] != 1:
            raise DoesNotFit
        if self.pick(0, 1):
            repeats = (1, self.pick(1, 2), self.pick(1, 2), 1)
            return self.add("Tile", [x.name, self.constant(np.array(repeats))],
                            [d * r for d, r in zip(x.shape, repeats, strict=True)])  # fmt: skip
        flat = self.add("Squeeze", [x.name, self.constant(np.array([0]))], x.shape[1:])
        flat = self.add("Relu", [flat.name], flat.shape)
        return self.add("Unsqueeze", [flat.name, self.constant(np.array([0]))], x.shape)

    def expand(self, x: Value) -> Value:
        column = self.add("ReduceMax", [x.name, self.constant(np.array([3]))], (*x.shape[:3], 1), keepdims=1)
        return self.add("Expand", [column.name, self.constant(np.array([1, 1, 1, x.shape[3]]))], x.shape)

    def clip(self, x: Value) -> Value:
        low, high = self.pick((0.0, 6.0), (-0.5, 0.7), (-1.0, 1.0))
        bounds = [self.constant(np.array(v, np.float32)) for v in (low, high)]
        return self.add("Clip", [x.name, *bounds], x.shape)

    def prelu(self, x: Value) -> Value:
        return self.add("PRelu", [x.name, self.row(x.shape[1], 1, 1)], x.shape)

    def power(self, x: Value) -> Value:
        return self.add("Pow", [x.name, self.constant(np.array(2.0, np.float32))], x.shape)

    def softmax(self, x: Value) -> Value:
        return self.add("Softmax", [x.name], x.shape, axis=self.pick(1, 2, 3, -1))

    def swish(self, x: Value) -> Value:
        return self.add("Mul", [x.name, self.add("Sigmoid", [x.name], x.shape).name], x.shape)

    def reduce(self, x: Value) -> Value:
        op = self.pick("ReduceMean", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceSum", "GlobalMaxPool")
        several = [[2, 3], [1, 3], [1, 2], [1, 2, 3], [0, 2], [0, 1, 3]]
        single = [[1]] if op == "ReduceMean" else [[1], [2], [3], [0]]
        axes = [] if op == "GlobalMaxPool" else self.pick(*several, *single)
        reduced = axes or [2, 3]
        shape = tuple(1 if i in reduced else d for i, d in enumerate(x.shape))
        inputs = [x.name] + ([self.constant(np.array(axes))] if axes else [])
        keep: dict[str, Any] = {"keepdims": 1} if axes else {}
        made = self.add(op, inputs, shape, **keep)
        return self.add("Add", [x.name, made.name], x.shape)

    def product(self, x: Value) -> Value:
        """A product of two computed matrices for every channel: attention over rows."""
        n, c, h, w = x.shape
        turned = self.add("Transpose", [x.name], (n, c, w, h), perm=(0, 1, 3, 2))
        return self.add("MatMul", [x.name, turned.name], (n, c, h, h))

    def gather(self, x: Value) -> Value:
        axis = 1
        start, stop = 0, max(1, x.shape[1] - 1)
        indices = self.constant(np.arange(start, stop))
        return self.add("Gather", [x.name, indices], (x.shape[0], stop - start, *x.shape[2:]), axis=axis)

    def line(self, x: Value) -> Value:
        """As a signal of one dimension, through a convolution and a pool."""
        n, c, h, w = x.shape
        flat = self.add("Reshape", [x.name, self.constant(np.array([n, c, h * w]))], (n, c, h * w))
        conv = self.add("Conv", [flat.name, self.weights(c, c, 3)], (n, c, h * w), pads=[1, 1])
        return self.add("Reshape", [conv.name, self.constant(np.array([n, c, h, w]))], x.shape)

    def head(self, x: Value) -> Value:
        n, size = x.shape[0], int(np.prod(x.shape[1:]))
        flat = self.add("Flatten", [x.name], (n, size))
        if size > 4000:
            raise DoesNotFit
        columns = self.pick(3, 10, 21)
        if self.pick(0, 1):
            made = self.add(
                "Gemm", [flat.name, self.weights(columns, size), self.row(columns)], (n, columns), transB=1
            )
        else:
            made = self.add(
                "MatMul",
                [
                    flat.name,
                    self.constant(
                        (self.random.standard_normal((size, columns)) / np.sqrt(size)).astype(np.float32)
                    ),
                ],
                (n, columns),
            )
            made = self.add("Add", [made.name, self.row(columns)], made.shape)
        return self.add("Softmax", [made.name], made.shape, axis=-1) if self.pick(0, 1) else made

    def layers(self) -> list[Callable[[Value], Value]]:
        return [
            self.conv, self.conv, self.binary, self.conv_transpose, self.norm, self.pool, self.pool, self.excite,
            self.binary, self.binary, self.concat, self.split, self.slice, self.pad, self.resize, self.blocks,
            self.transpose, self.pointwise, self.pointwise, self.pointwise, self.pointwise, self.clip, self.prelu,
            self.power, self.softmax, self.swish, self.reduce, self.reduce, self.reduce, self.wide_conv, self.product, self.gather, self.line,
            self.several, self.several, self.reshaped, self.expand, self.pointwise, self.blocks, self.blocks,
        ]  # fmt: skip


def random_network(seed: int) -> tuple[onnx.ModelProto, Counter[str]]:
    """The model of a seed, and how often it has each operator."""
    net = Network(seed)
    shape = (net.pick(1, 1, 1, 2), net.pick(1, 3, 4, 8, 11), net.pick(5, 8, 13, 16), net.pick(4, 9, 12, 17))
    given = Value("x", shape)
    x = given
    layers = net.layers()
    for _ in range(net.pick(2, 3, 4, 5, 6)):
        try:
            made = layers[int(net.random.integers(len(layers)))](x)
        except DoesNotFit:
            continue
        net.images.append(made)
        x = made if net.pick(0, 0, 0, 1) == 0 else net.pick(*net.images)
    with contextlib.suppress(DoesNotFit):
        x = net.head(x) if net.pick(0, 0, 1) == 0 else x
    if x is given or not any(x.name in n.output for n in net.nodes):
        x = net.add("Relu", [given.name], given.shape)
    indices: list[Value] = []
    if net.pick(0, 0, 0, 1):
        axis, op = net.pick(*range(int(len(x.shape) == 4), len(x.shape))), net.pick("ArgMax", "ArgMin")
        shape = tuple(1 if i == axis else d for i, d in enumerate(x.shape))
        indices.append(net.add(op, [x.name], shape, axis=axis, select_last_index=net.pick(0, 1)))
    outputs = [x] + ([net.images[0]] if net.images and net.images[0] is not x and net.pick(0, 0, 1) else [])
    graph = helper.make_graph(
        net.nodes,
        f"random{seed}",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, given.shape)],
        [helper.make_tensor_value_info(v.name, TensorProto.FLOAT, v.shape) for v in outputs]
        + [helper.make_tensor_value_info(v.name, TensorProto.INT64, v.shape) for v in indices],
        net.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    return model, needed(model)


def needed(model: onnx.ModelProto) -> Counter[str]:
    """The operators that the outputs depend on."""
    wanted = {o.name for o in model.graph.output}
    used: Counter[str] = Counter()
    for node in reversed(model.graph.node):
        if wanted & set(node.output):
            wanted |= set(node.input)
            used[node.op_type] += 1
    return used
