"""Kinds of models that people bring, each as a generator: a model is a function of its seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.models import model, node

Array = NDArray[Any]
Random = np.random.Generator


@dataclass
class Sort:
    """A model of a kind, and how it is to be verified."""

    made: onnx.ModelProto
    shapes: Mapping[str, Sequence[int]] = field(default_factory=dict[str, Sequence[int]])
    """What `--shape` says."""
    calibrate: bool | None = None
    """Whether calibration is given; None: where the model has no scales."""
    comparable: int = 1
    spread: float = 1.0
    """The standard deviation of the samples."""


KINDS: Final[dict[str, Callable[[Random], Sort]]] = {}


def kind(make: Callable[[Random], Sort]) -> Callable[[Random], Sort]:
    """Register a kind under the name of its function."""
    KINDS[make.__name__.replace("_", " ")] = make
    return make


def pick(r: Random, *options: Any) -> Any:
    return options[int(r.integers(len(options)))]


def flip(r: Random) -> bool:
    return bool(r.integers(2))


def f(r: Random, *shape: int, low: float = -1.0, high: float = 1.0) -> Array:
    return r.uniform(low, high, shape).astype(np.float32)


def i(*values: int) -> Array:
    return np.array(values, np.int64)


def image(r: Random) -> tuple[int, int, int, int]:
    return (pick(r, 1, 1, 2), pick(r, 1, 3, 8, 13), pick(r, 4, 6, 9), pick(r, 4, 7, 10))


# --- operators read wrongly once -------------------------------------------------------------------------------


@kind
def resize_to_aligned_corners(r: Random) -> Sort:
    shape = image(r)
    scales = np.array([1, 1, r.uniform(0.4, 2.7), r.uniform(0.4, 2.7)], np.float32)
    resize = node("Resize", "x - s", "y", mode=pick(r, "linear", "cubic", "nearest"),
                  coordinate_transformation_mode="align_corners")  # fmt: skip
    return Sort(model([resize], {"x": shape}, "y", {"s": scales}))


@kind
def resize_in_every_mode(r: Random) -> Sort:
    shape = image(r)
    sizes = i(shape[0], shape[1], int(r.integers(1, 14)), int(r.integers(1, 14)))
    transform = pick(r, "half_pixel", "pytorch_half_pixel", "asymmetric", "half_pixel_symmetric")
    mode, rounding = pick(r, "linear", "cubic", "nearest"), pick(r, "floor", "ceil", "round_prefer_floor")
    resize = node(
        "Resize", "x - - n", "y", mode=mode, coordinate_transformation_mode=transform, nearest_mode=rounding
    )
    return Sort(model([resize], {"x": shape}, "y", {"n": sizes}))


@kind
def resize_of_a_crop(r: Random) -> Sort:
    shape = image(r)
    sizes = i(shape[0], shape[1], int(r.integers(1, 9)), int(r.integers(1, 9)))
    start, end = r.uniform(0, 0.4, 2), r.uniform(0.6, 1, 2)
    roi = np.array([0, 0, *start, 1, 1, *end], np.float32)
    resize = node("Resize", "x roi - n", "y", mode=pick(r, "linear", "nearest"),
                  coordinate_transformation_mode="tf_crop_and_resize")  # fmt: skip
    return Sort(model([resize], {"x": shape}, "y", {"roi": roi, "n": sizes}))


@kind
def space_to_depth_in_both_orders(r: Random) -> Sort:
    block = pick(r, 2, 3)
    shape = (pick(r, 1, 2), pick(r, 1, 3, 4), block * pick(r, 1, 2, 3), block * pick(r, 2, 3))
    made = node("SpaceToDepth", "x", "y", blocksize=block, mode=pick(r, "CRD", "DCR"))
    return Sort(model([made], {"x": shape}, "y", opset=28))


@kind
def depth_to_space_in_both_orders(r: Random) -> Sort:
    block = pick(r, 2, 3)
    shape = (pick(r, 1, 2), block * block * pick(r, 1, 2, 3), pick(r, 2, 5), pick(r, 2, 3))
    return Sort(
        model(
            [node("DepthToSpace", "x", "y", blocksize=block, mode=pick(r, "CRD", "DCR"))], {"x": shape}, "y"
        )
    )


@kind
def additions_of_one_element(r: Random) -> Sort:
    shape = pick(r, (1, 1), (1, 1, 1), (1, 1, 1, 1), (1,))
    value = np.full(pick(r, (), (1,), (1, 1)), pick(r, 0, 0.5, -3), np.float32)
    names = pick(r, "x k", "k x")
    return Sort(
        model([node("Add", names, "y")], {"x": shape}, "y", {"k": value}), spread=pick(r, 1e-6, 1, 50)
    )


@kind
def functions_of_tiny_numbers(r: Random) -> Sort:
    made = node(pick(r, "Elu", "Tanh", "Sigmoid", "Selu", "Erf", "Softplus", "Celu"), "x", "y")
    return Sort(model([made], {"x": (4, 16)}, "y"), spread=pick(r, 1e-7, 1e-5, 1e-3), comparable=1)


# --- quantized elsewhere -----------------------------------------------------------------------------------------


def coded(r: Random, nodes: list[onnx.NodeProto], shape: Sequence[int], constants: dict[str, Any]) -> Sort:
    """DequantizeLinear, some nodes from d to z, QuantizeLinear."""
    zero = np.uint8(pick(r, 0, 128, 117)) if flip(r) else np.int8(pick(r, 0, -5))
    scales = {"s": np.float32(r.uniform(0.01, 0.05)), "t": np.float32(r.uniform(0.02, 0.2)), "o": zero}
    around = [node("QuantizeLinear", "x s o", "q"), node("DequantizeLinear", "q s o", "d"), *nodes,
              node("QuantizeLinear", "z t o", "zq"), node("DequantizeLinear", "zq t o", "y")]  # fmt: skip
    return Sort(model(around, {"x": shape}, "y", {**scales, **constants}))


def weights(
    r: Random, name: str, *shape: int, axis: int | None = None
) -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """int8 weights behind a DequantizeLinear, one scale or one for each index of an axis."""
    count = 1 if axis is None else shape[axis]
    scale = r.uniform(0.002, 0.01, count).astype(np.float32)
    constants: dict[str, Any] = {
        f"{name}q": r.integers(-127, 128, shape).astype(np.int8),
        f"{name}s": scale[0] if axis is None else scale,
        f"{name}z": np.int8(0) if axis is None else np.zeros(count, np.int8),
    }
    return [node("DequantizeLinear", f"{name}q {name}s {name}z", name, axis=axis or 0)], constants


@kind
def quantized_constants_of_lower_rank(r: Random) -> Sort:
    shape = image(r)
    lower = pick(r, (), (1,), (shape[3],), (shape[2], 1), (shape[1], 1, 1))
    made, constants = weights(r, "k", *lower)
    operator = pick(r, "Add", "Mul", "Sub", "Div")
    if operator == "Div":
        constants["kq"] = np.maximum(np.abs(constants["kq"]), 20).astype(np.int8)
    return coded(r, [*made, node(operator, "d k", "z")], shape, constants)


@kind
def quantized_convolutions_of_one_dimension(r: Random) -> Sort:
    channels, out, length = pick(r, 1, 3, 8), pick(r, 2, 5), pick(r, 9, 16)
    made, constants = weights(r, "w", out, channels, 3, axis=pick(r, None, 0))
    conv = node("Conv", "d w", "z", pads=[pick(r, 0, 1), 1], strides=[pick(r, 1, 2)])
    return coded(r, [*made, conv], (pick(r, 1, 2), channels, length), constants)


@kind
def quantized_products_of_higher_rank(r: Random) -> Sort:
    lead = pick(r, (2,), (1, 3), (2, 2))
    made, constants = weights(r, "w", 8, 5, axis=pick(r, None, 1))
    return coded(r, [*made, node("MatMul", "d w", "z")], (*lead, pick(r, 1, 6), 8), constants)


@kind
def quantized_transposed_convolutions(r: Random) -> Sort:
    channels, out = pick(r, 1, 4), pick(r, 2, 3)
    made, constants = weights(r, "w", channels, out, 3, 3)
    conv = node("ConvTranspose", "d w", "z", strides=[2, pick(r, 1, 2)], pads=[pick(r, 0, 1)] * 4)
    return coded(r, [*made, conv], (1, channels, pick(r, 3, 5), 4), constants)


@kind
def quantized_linear_resizes(r: Random) -> Sort:
    shape = image(r)
    scales = np.array([1, 1, pick(r, 2, 1.5), pick(r, 2, 0.5)], np.float32)
    resize = node("Resize", "d - n", "z", mode=pick(r, "linear", "cubic"))
    return coded(r, [resize], shape, {"n": scales})


@kind
def quantized_functions_behind_a_reshape(r: Random) -> Sort:
    shape = (1, pick(r, 4, 8), 6)
    made = [node(pick(r, "Tanh", "Sigmoid", "Elu", "Erf"), "d", "u"), node("Reshape", "u n", "z")]
    return coded(r, made, shape, {"n": i(shape[1], 6)})


@kind
def quantized_products_with_a_negative_factor(r: Random) -> Sort:
    made, constants = weights(r, "w", 6, 4, axis=pick(r, None, 1))
    constants["wq"].flat[0] = -128
    gemm = node("Gemm", "d w", "z", alpha=float(np.float32(r.uniform(-2, -0.3))))
    return coded(r, [*made, gemm], (pick(r, 1, 3), 6), constants)


@kind
def weights_alone_quantized(r: Random) -> Sort:
    channels, out = pick(r, 1, 3), pick(r, 4, 6)
    made, constants = weights(r, "w", out, channels, 3, 3, axis=pick(r, None, 0))
    nodes = [*made, node("Conv", "x w", "c"), node(pick(r, "Relu", "Sigmoid"), "c", "y")]
    return Sort(model(nodes, {"x": (1, channels, 6, 7)}, "y", constants), calibrate=True)


@kind
def inputs_that_nothing_quantizes(r: Random) -> Sort:
    made, constants = weights(r, "w", 4, 3, 3, 3, axis=0)
    scales = {"t": np.float32(r.uniform(0.02, 0.1)), "o": np.int8(0)}
    nodes = [*made, node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("QuantizeLinear", "c t o", "q"),
             node("DequantizeLinear", "q t o", "d"), node("MaxPool", "d", "y", kernel_shape=[2, 2])]  # fmt: skip
    return Sort(model(nodes, {"x": (1, 3, 6, 6)}, "y", {**constants, **scales}), calibrate=True, comparable=0)


# --- what files contain --------------------------------------------------------------------------------------------


@kind
def shuffles_of_more_dimensions(r: Random) -> Sort:
    lead = [pick(r, 1, 2), pick(r, 2, 3), pick(r, 2, 4), pick(r, 1, 3), pick(r, 2, 5), pick(r, 1, 2)][
        : pick(r, 5, 6)
    ]
    perm = [int(p) for p in r.permutation(len(lead))]
    nodes = [node("Reshape", "x s", "a"), node("Transpose", "a", "b", perm=perm),
             node(pick(r, "Sigmoid", "Relu", "Neg"), "b", "c"), node("Softmax", "c", "e", axis=int(r.integers(len(lead)))),
             node("Reshape", "e n", "y")]  # fmt: skip
    return Sort(
        model(nodes, {"x": (lead[0], int(np.prod(lead[1:])))}, "y", {"s": i(*lead), "n": i(lead[0], -1)})
    )


@kind
def heads_of_detectors(r: Random) -> Sort:
    anchors, classes, h, w = pick(r, 2, 3), pick(r, 3, 6), pick(r, 2, 4), pick(r, 3, 4)
    grid = f(r, 1, 1, h, w, 2)
    nodes = [node("Reshape", "x s", "a"), node("Transpose", "a", "b", perm=[0, 1, 3, 4, 2]), node("Sigmoid", "b", "c"),
             node("Split", "c n", "p q", axis=4), node("Mul", "p two", "m"), node("Add", "m grid", "g"),
             node("Concat", "g q", "j", axis=4), node("Reshape", "j e", "y")]  # fmt: skip
    constants = {"s": i(1, anchors, classes, h, w), "n": i(2, classes - 2), "two": np.float32(2), "grid": grid,
                 "e": i(1, -1, classes)}  # fmt: skip
    return Sort(model(nodes, {"x": (1, anchors * classes, h, w)}, "y", constants))


@kind
def numbers_alone(r: Random) -> Sort:
    nodes = [
        node("ReduceMean", "x", "m", keepdims=0),
        node(pick(r, "Sigmoid", "Neg"), "m", "u"),
        node("Mul", "x u", "y"),
    ]
    return Sort(model(nodes, {"x": (1, 3, 4, 5)}, "y", opset=17))


@kind
def other_floats(r: Random) -> Sort:
    wanted = pick(r, np.float16, np.float64)
    number = helper.np_dtype_to_tensor_dtype(np.dtype(wanted))
    if flip(r):
        nodes = [
            node("Cast", "w", "v", to=TensorProto.FLOAT),
            node("Conv", "x v", "c"),
            node("Relu", "c", "y"),
        ]
        return Sort(model(nodes, {"x": (1, 2, 5, 5)}, "y", {"w": f(r, 3, 2, 3, 3).astype(wanted)}))
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "y")]
    made = model(
        nodes, {"x": (1, 2, 5, 5)}, "y", {"w": f(r, 3, 2, 3, 3).astype(wanted)}, dtypes={"x": number}
    )
    return Sort(made)


@kind
def bfloat16_weights(r: Random) -> Sort:
    bits = (f(r, 3, 2, 3, 3).view(np.uint32) >> 16).astype(np.uint16)
    tensor = TensorProto(name="w", data_type=TensorProto.BFLOAT16, dims=bits.shape, raw_data=bits.tobytes())
    made = model(
        [node("Cast", "w", "v", to=TensorProto.FLOAT), node("Conv", "x v", "y")], {"x": (1, 2, 5, 5)}, "y"
    )
    made.graph.initializer.append(tensor)
    return Sort(made)


@kind
def pictures_of_bytes(r: Random) -> Sort:
    nodes = [node("Cast", "x", "f", to=TensorProto.FLOAT), node("Mul", "f k", "m"), node("Sub", "m b", "n"),
             node("Conv", "n w", "y")]  # fmt: skip
    constants = {"k": np.float32(1 / 255), "b": f(r, 3, 1, 1, low=0, high=1), "w": f(r, 4, 3, 3, 3)}
    number = pick(r, TensorProto.UINT8, TensorProto.INT8)
    return Sort(model(nodes, {"x": (1, 3, 6, 6)}, "y", constants, dtypes={"x": number}))


@kind
def casts_to_the_type_of_another(r: Random) -> Sort:
    nodes = [node("CastLike", "x k", "c"), node("Add", "c k", "y")]
    return Sort(model(nodes, {"x": (1, 3, 4, 4)}, "y", {"k": f(r, 3, 1, 1)}))


@kind
def open_dimensions(r: Random) -> Sort:
    shape = (pick(r, 1, 2), 3, pick(r, 4, 6), 5)
    made = model([node("Relu", "x", "r"), node("GlobalAveragePool", "r", "y")], {"x": shape}, "y")
    dims = made.graph.input[0].type.tensor_type.shape.dim
    spelling = pick(r, "minus", "zero", "name", "nothing", "no shape")
    if spelling == "no shape":
        made.graph.input[0].type.tensor_type.ClearField("shape")
    for k in (0, 2) if spelling != "no shape" else ():
        dims[k].Clear()
        if spelling == "name":
            dims[k].dim_param = f"d{k}"
        elif spelling != "nothing":
            dims[k].dim_value = {"minus": -1, "zero": 0}[spelling]
    return Sort(made, {"x": shape})


@kind
def unused_inputs(r: Random) -> Sort:
    number = pick(r, TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT, TensorProto.STRING)
    made = model([node("Relu", "x", "y")], {"x": (1, 3, 4, 4)}, "y")
    value = helper.make_tensor_value_info("spare", number, pick(r, [1, 2], ["n"], None))
    made.graph.input.insert(pick(r, 0, 1), value)
    return Sort(made, {"x": (1, 3, 4, 4)})


@kind
def functions_of_the_model(r: Random) -> Sort:
    body = [helper.make_node("Mul", ["a", "b"], ["m"]), helper.make_node("Add", ["m", "b"], ["c"])]
    opsets = [helper.make_opsetid("", 17)]
    inner = helper.make_function("own", "scaled", ["a", "b"], ["c"], body, opsets)
    twice = helper.make_function(
        "own", "twice", ["a", "b"], ["c"],
        [helper.make_node("scaled", ["a", "b"], ["m"], domain="own"), helper.make_node("scaled", ["m", "b"], ["c"], domain="own")],
        [*opsets, helper.make_opsetid("own", 1)],
    )  # fmt: skip
    called = pick(r, "scaled", "twice")
    made = model([node("Relu", "x", "r"), node(called, "r k", "y", domain="own")], {"x": (1, 3, 4, 4)}, "y",
                 {"k": f(r, 3, 1, 1)}, opset=17)  # fmt: skip
    made.opset_import.append(helper.make_opsetid("own", 1))
    made.functions.extend([inner, twice])
    return Sort(made)


@kind
def branches_on_constants(r: Random) -> Sort:
    def branch(name: str, *nodes: onnx.NodeProto) -> Any:
        constant = numpy_helper.from_array(f(r, 3, 1, 1), f"k{name}")
        output = helper.make_tensor_value_info(f"o{name}", TensorProto.FLOAT, (1, 3, 4, 4))
        return helper.make_graph(list(nodes), name, [], [output], [constant])

    first = branch("t", node("Mul", "r kt", "ot"))
    second = branch("e", node("Add", "r ke", "p"), node("Neg", "p", "oe"))
    nodes = [node("Relu", "x", "r"), helper.make_node("If", ["c"], ["i"], then_branch=first, else_branch=second),
             node("Sigmoid", "i", "y")]  # fmt: skip
    condition = np.array(flip(r))
    return Sort(model(nodes, {"x": (1, 3, 4, 4)}, "y", {"c": condition}))


@kind
def sparse_weights(r: Random) -> Sort:
    whole = np.where(r.random((4, 6)) < 0.3, f(r, 4, 6), 0).astype(np.float32)
    places = np.argwhere(whole)
    flat = flip(r)
    indices = (places @ [6, 1]).astype(np.int64) if flat else places.astype(np.int64)
    values = numpy_helper.from_array(whole[tuple(places.T)], "w")
    made = model([node("Gemm", "x w", "y", transB=1)], {"x": (2, 6)}, "y")
    made.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, numpy_helper.from_array(indices, "w_indices"), (4, 6))
    )
    return Sort(made)


@kind
def products_of_computed_matrices(r: Random) -> Sort:
    turned = {"transA": pick(r, 0, 1), "transB": pick(r, 0, 1)}
    a = (5, 3) if turned["transA"] else (3, 5)
    b = (4, 5) if turned["transB"] else (5, 4)
    row = pick(r, "", " z")
    constants = {"z": f(r, 4)} if row else {}
    nodes = [
        node("Relu", "u", "v"),
        node("Gemm", f"x v{row}", "y", alpha=pick(r, 1.0, 0.5), beta=pick(r, 1.0, 2.0), **turned),
    ]
    return Sort(model(nodes, {"x": a, "u": b}, "y", constants))


@kind
def endless_pads_before_a_maximum(r: Random) -> Sort:
    pads = i(0, 0, pick(r, 0, 1), 1, 0, 0, pick(r, 1, 2), pick(r, 0, 1))
    nodes = [node("Pad", "x p v", "a"), node("MaxPool", "a", "y", kernel_shape=[3, 3], strides=[2, 2])]
    return Sort(model(nodes, {"x": (1, 3, 8, 8)}, "y", {"p": pads, "v": np.float32(-np.inf)}))


@kind
def outputs_that_nothing_uses(r: Random) -> Sort:
    which = pick(r, "indices", "parts", "mask")
    if which == "indices":
        nodes = [node("MaxPool", "x", "y spare", kernel_shape=[2, 2])]
    elif which == "parts":
        nodes = [node("Split", "x", "y spare", axis=1, num_outputs=2)]
    else:
        nodes = [node("Dropout", "x", "d spare"), node("Relu", "d", "y")]
    return Sort(model(nodes, {"x": (1, 4, 6, 6)}, "y"))


@kind
def outputs_that_are_inputs(r: Random) -> Sort:
    made = model([node(pick(r, "Relu", "Neg", "Sigmoid"), "x", "y")], {"x": (1, 2, pick(r, 3, 4), 4)}, "y x")
    return Sort(made)


@kind
def inputs_quantized_more_than_once(r: Random) -> Sort:
    """Layers take one input with scales, zero points and types of their own; some have the same."""
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, Any] = {}
    outputs: list[str] = []
    layers = r.permutation(["Relu", "Neg", "GlobalAveragePool", "MaxPool", "Sigmoid"])[: pick(r, 2, 3, 4)]
    for n, first in enumerate(layers):
        zero = np.uint8(pick(r, 0, 128, 117)) if flip(r) else np.int8(pick(r, 0, -5))
        constants |= {f"s{n}": np.float32(pick(r, 0.02, 0.02, r.uniform(0.01, 0.05))), f"z{n}": zero}
        window: dict[str, Any] = {"kernel_shape": [2, 2]} if first == "MaxPool" else {}
        nodes += [
            node("QuantizeLinear", f"x s{n} z{n}", f"q{n}"),
            node("DequantizeLinear", f"q{n} s{n} z{n}", f"d{n}"),
            node(str(first), f"d{n}", f"f{n}", **window),
            node("QuantizeLinear", f"f{n} s{n} z{n}", f"g{n}"),
            node("DequantizeLinear", f"g{n} s{n} z{n}", f"y{n}"),
        ]
        outputs.append(f"y{n}")
    if flip(r):
        nodes.append(node("Identity", "x", "same"))
        outputs.append("same")
    return Sort(model(nodes, {"x": image(r)}, " ".join(outputs), constants))


# --- operators made of others ------------------------------------------------------------------------------------------


@kind
def layer_normalizations(r: Random) -> Sort:
    shape = pick(r, (2, 6), (1, 5, 8), (1, 3, 4, 5))
    axis = int(r.integers(1, len(shape)))
    rows = {"g": f(r, *shape[axis:], low=0.5, high=2), "b": f(r, *shape[axis:])}
    names = pick(r, "x g b", "x g")
    return Sort(model([node("LayerNormalization", names, "y", axis=axis, epsilon=pick(r, 1e-5, 0.1))], {"x": shape}, "y",
                      rows))  # fmt: skip


@kind
def normalizations_of_channels(r: Random) -> Sort:
    opset, groups = pick(r, 18, 21), pick(r, 1, 2, 4)
    count = 4 if opset == 21 else groups
    if flip(r):
        rows = {"g": f(r, 4, low=0.5, high=2), "b": f(r, 4)}
        return Sort(
            model([node("InstanceNormalization", "x g b", "y")], {"x": (2, 4, 5, 6)}, "y", rows, opset=18)
        )
    rows = {"g": f(r, count, low=0.5, high=2), "b": f(r, count)}
    made = node("GroupNormalization", "x g b", "y", num_groups=groups, epsilon=pick(r, 1e-5, 0.1))
    return Sort(model([made], {"x": (pick(r, 1, 2), 4, 3, 5)}, "y", rows, opset=opset))


@kind
def variances_made_one(r: Random) -> Sort:
    made = node("MeanVarianceNormalization", "x", "y", axes=pick(r, [0, 2, 3], [2, 3], [1]))
    return Sort(model([made], {"x": (1, 4, 3, 5)}, "y"))


@kind
def logical_combinations(r: Random) -> Sort:
    nodes = [node("Greater", "x k", "a"), node("Less", "x l", "b"), node(pick(r, "And", "Or", "Xor"), "a b", "c"),
             node("Not", "c", "d"), node("Where", "d x k", "y")]  # fmt: skip
    return Sort(
        model(nodes, {"x": (1, 3, 4, 5)}, "y", {"k": np.float32(-0.2), "l": np.float32(r.uniform(0, 1))})
    )


@kind
def norms_and_their_quotients(r: Random) -> Sort:
    if flip(r):
        made = node("LpNormalization", "x", "y", p=pick(r, 1, 2), axis=int(r.integers(1, 4)))
        return Sort(model([made], {"x": (1, 4, 3, 5)}, "y"))
    operator = pick(r, "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSumExp")
    made = node(operator, "x a", "y", keepdims=pick(r, 0, 1))
    return Sort(model([made], {"x": (1, 4, 3, 5)}, "y", {"a": i(*pick(r, (1,), (2, 3), (3,), (1, 2, 3)))}))


@kind
def logarithms_of_softmax(r: Random) -> Sort:
    shape = pick(r, (3, 7), (1, 5, 4), (1, 3, 4, 5))
    opset = pick(r, 11, 17)
    return Sort(
        model(
            [node("LogSoftmax", "x", "y", axis=int(r.integers(1, len(shape))))],
            {"x": shape},
            "y",
            opset=opset,
        )
    )


@kind
def responses_of_neighbours(r: Random) -> Sort:
    made = node(
        "LRN", "x", "y", size=pick(r, 1, 3, 4, 5), alpha=pick(r, 1e-4, 0.5), beta=0.75, bias=pick(r, 1.0, 2.0)
    )
    return Sort(model([made], {"x": (pick(r, 1, 2), pick(r, 3, 7), 4, 5)}, "y"))


@kind
def slopes_of_every_shape(r: Random) -> Sort:
    slopes = f(r, *pick(r, (3, 4, 5), (3, 1, 1), (1,), (4, 5), (5,)))
    return Sort(model([node("PRelu", "x s", "y")], {"x": (pick(r, 1, 2), 3, 4, 5)}, "y", {"s": slopes}))


@kind
def computed_choices(r: Random) -> Sort:
    relation = pick(r, "Greater", "Less", "GreaterOrEqual", "LessOrEqual")
    other = pick(r, "k", "u")
    nodes = [node("Sigmoid", "x", "u"), node(relation, f"x {other}", "c"), node("Where", "c x u", "y")]
    return Sort(model(nodes, {"x": (1, 3, 4, 5)}, "y", {"k": np.float32(r.uniform(-0.5, 0.5))}))


# --- sizes ---------------------------------------------------------------------------------------------------------------


@kind
def large_maps_repeated(r: Random) -> Sort:
    shape = (1, pick(r, 64, 128), pick(r, 24, 40), pick(r, 20, 40))
    scales = np.array([1, 1, pick(r, 2, 3), pick(r, 1, 2)], np.float32)
    return Sort(model([node("Resize", "x - s", "y", mode="nearest", nearest_mode="floor",
                            coordinate_transformation_mode="asymmetric")], {"x": shape}, "y", {"s": scales}))  # fmt: skip


@kind
def elements_gathered_on_large_maps(r: Random) -> Sort:
    shape = (1, pick(r, 16, 64), pick(r, 30, 60), pick(r, 40, 50))
    axis = int(r.integers(1, 4))
    indices: Array = r.integers(0, shape[axis], int(pick(r, 5, 70)))
    return Sort(model([node("Gather", "x n", "y", axis=axis)], {"x": shape}, "y", {"n": indices}))


@kind
def reductions_of_large_extents(r: Random) -> Sort:
    shape = pick(r, (1, 1, 256, 256), (1, 1500, 2, 3), (1, 3, 1200, 2), (2, 70000), (1, 4, 300, 300))
    axes = pick(r, (1,), (2, 3), (1, 2, 3), (2,)) if len(shape) == 4 else (1,)
    made = node(pick(r, "ReduceMean", "ReduceSum", "ReduceMax"), "x a", "y", keepdims=pick(r, 0, 1))
    return Sort(model([made], {"x": shape}, "y", {"a": i(*axes)}))


@kind
def pads_of_many_rows(r: Random) -> Sort:
    pads = i(0, 0, int(r.integers(200, 700)), pick(r, 0, 3), 0, pick(r, 0, 2), pick(r, 0, 300), 1)
    shape = (1, pick(r, 1, 3), pick(r, 2, 4), pick(r, 2, 5))
    return Sort(
        model([node("Pad", "x p", "y", mode=pick(r, "constant", "edge"))], {"x": shape}, "y", {"p": pads})
    )
