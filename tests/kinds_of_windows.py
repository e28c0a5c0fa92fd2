"""More kinds: windows over volumes, powers, remainders, masks, statistics of a batch, constant outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper

from tests.kinds import Random, Sort, coded, f, flip, i, kind, pick, weights
from tests.models import model, node


def volume(r: Random, channels: int) -> tuple[int, int, int, int, int]:
    return (pick(r, 1, 2), channels, pick(r, 3, 5), pick(r, 4, 6), pick(r, 5, 7))


def pads(r: Random, most: int, rank: int = 3) -> list[int]:
    return r.integers(0, most + 1, 2 * rank).tolist()


@kind
def convolutions_of_volumes(r: Random) -> Sort:
    groups = pick(r, 1, 1, 2)
    channels, kernel = groups * pick(r, 1, 3), (pick(r, 1, 2, 3), pick(r, 1, 2), pick(r, 1, 3))
    w, b = f(r, groups * 2, channels // groups, *kernel), f(r, groups * 2)
    attributes: dict[str, Any] = {"strides": [pick(r, 1, 2), 1, pick(r, 1, 2)], "group": groups}
    if flip(r):
        attributes["auto_pad"] = pick(r, "SAME_UPPER", "SAME_LOWER", "VALID")
    else:
        attributes |= {"pads": pads(r, 1), "dilations": [1, pick(r, 1, 2), 1]}
    made = node("Conv", "x w b", "y", **attributes)
    return Sort(model([made], {"x": volume(r, channels)}, "y", {"w": w, "b": b}))


@kind
def quantized_convolutions_of_volumes(r: Random) -> Sort:
    extra, constants = weights(r, "w", 4, 3, 2, pick(r, 1, 3), 3, axis=pick(r, None, 0))
    made = node("Conv", "d w", "z", strides=[1, pick(r, 1, 2), 1], pads=pads(r, 1))
    return coded(r, [*extra, made], volume(r, 3), constants)


@kind
def transposed_convolutions_of_volumes(r: Random) -> Sort:
    groups = pick(r, 1, 1, 2)
    channels, kernel = groups * pick(r, 1, 2), (pick(r, 1, 2, 3), 2, pick(r, 2, 3))
    w = f(r, channels, 3, *kernel)
    attributes: dict[str, Any] = {"strides": [pick(r, 1, 2), pick(r, 1, 2), 2], "group": groups}
    if flip(r):
        attributes["auto_pad"] = pick(r, "SAME_UPPER", "SAME_LOWER")
    elif flip(r):
        attributes["output_padding"] = [0, 0, 1]
    made = node("ConvTranspose", "x w", "y", **attributes)
    return Sort(model([made], {"x": volume(r, channels)}, "y", {"w": w}))


@kind
def poolings_of_volumes(r: Random) -> Sort:
    kernel = [pick(r, 1, 2, 3), 2, pick(r, 2, 3)]
    attributes: dict[str, Any] = {"kernel_shape": kernel, "strides": [pick(r, 1, 2), pick(r, 1, 2), 2]}
    op = pick(r, "MaxPool", "AveragePool")
    if flip(r):
        attributes["auto_pad"] = pick(r, "SAME_UPPER", "SAME_LOWER")
    else:
        attributes |= {"pads": [0, pick(r, 0, 1), 0, 0, pick(r, 0, 1), 1], "ceil_mode": pick(r, 0, 1)}
    if op == "AveragePool":
        attributes["count_include_pad"] = pick(r, 0, 1)
    return Sort(model([node(op, "x", "y", **attributes)], {"x": volume(r, pick(r, 1, 4))}, "y"))


@kind
def scattered_taps_and_same_pads(r: Random) -> Sort:
    attributes: dict[str, Any] = {
        "kernel_shape": [2, pick(r, 2, 3)], "dilations": [2, pick(r, 1, 2)], "strides": [pick(r, 1, 2), 1],
        "auto_pad": pick(r, "SAME_UPPER", "SAME_LOWER", "VALID"),
    }  # fmt: skip
    made = node(pick(r, "MaxPool", "AveragePool"), "x", "y", **attributes)
    return Sort(model([made], {"x": (1, 3, 8, 9)}, "y", opset=19))


@kind
def averages_of_scattered_taps(r: Random) -> Sort:
    attributes: dict[str, Any] = {
        "kernel_shape": [2, pick(r, 2, 3)], "dilations": [pick(r, 1, 2), 2], "strides": [1, pick(r, 1, 2)],
        "pads": [pick(r, 0, 1), 1, 0, pick(r, 0, 1)], "count_include_pad": pick(r, 0, 1),
    }  # fmt: skip
    return Sort(model([node("AveragePool", "x", "y", **attributes)], {"x": (1, 3, 9, 10)}, "y", opset=19))


@kind
def powers_by_element(r: Random) -> Sort:
    shape = (2, pick(r, 3, 4), 5)
    drawn: tuple[int, ...] = pick(r, shape, shape[1:], (5,), (1, 1))
    exponents = r.integers(0, pick(r, 3, 5), drawn).astype(pick(r, np.float32, np.int64))
    positive = [node("Abs", "x", "a"), node("Add", "a one", "b")]
    made = node("Pow", "b e", "y")
    return Sort(model([*positive, made], {"x": shape}, "y", {"e": exponents, "one": np.float32(0.5)}))


@kind
def computed_powers(r: Random) -> Sort:
    positive = [node("Abs", "x", "a"), node("Add", "a one", "b")]
    made = node("Pow", "b e", "y")
    shape = (1, 4, pick(r, 3, 6))
    return Sort(
        model([*positive, made], {"x": shape, "e": pick(r, shape, (1, 4, 1))}, "y", {"one": np.float32(0.5)}),
        comparable=0,
    )


@kind
def remainders(r: Random) -> Sort:
    shape = (2, 3, 4)
    divisor = f(r, *pick(r, (), (1,), (4,), shape), low=0.3, high=2)
    signed = divisor * np.float32(pick(r, 1, -1))
    return Sort(model([node("Mod", "x d", "y", fmod=1)], {"x": shape}, "y", {"d": signed}), spread=3)


@kind
def masks_before_a_softmax(r: Random) -> Sort:
    size = pick(r, 4, 7)
    least = pick(r, -np.inf, np.finfo(np.float32).min, -1e4)
    mask = np.where(np.tri(size, dtype=np.bool_), np.float32(0), np.float32(least)).astype(np.float32)
    nodes = [node("Add", pick(r, "x m", "m x"), "a")]
    name = "a"
    if flip(r):
        nodes.append(node("Reshape", "a s", "v"))
        name = "v"
    nodes.append(node("Softmax", name, "y", axis=-1))
    constants = {"m": mask, "s": i(2, size, size)}
    return Sort(model(nodes, {"x": (1, 2, size, size)}, "y", constants), spread=pick(r, 1, 3))


@kind
def statistics_of_the_batch(r: Random) -> Sort:
    channels = pick(r, 2, 5)
    rows = {"g": f(r, channels), "b": f(r, channels), "m": f(r, channels), "v": f(r, channels, low=0.1)}
    made = node("BatchNormalization", "x g b m v", pick(r, "y", "y mean var"), training_mode=1,
                momentum=pick(r, 0.9, 0.5))  # fmt: skip
    return Sort(model([made], {"x": (pick(r, 2, 3), channels, 4, 5)}, " ".join(made.output), rows))


@kind
def outputs_that_are_constants(r: Random) -> Sort:
    value = pick(r, f(r, 2, 3), np.float32(2.5), i(1, 1 << 40), np.array([3, -4], np.int8))
    nodes = [node("Relu", "x", "y"), node("Constant", "", "k", value=numpy_helper.from_array(value))]
    return Sort(model(nodes, {"x": (1, pick(r, 3, 8))}, pick(r, "y k", "k y")))


@kind
def parts_of_no_elements(r: Random) -> Sort:
    nodes = [
        node("Split", "x n", "a b", axis=1),
        node("Slice", "x from to axes", "c"),
        node("Concat", pick(r, "a b c", "c b a"), "y", axis=1),
    ]
    constants = {"n": pick(r, i(5, 0), i(0, 5), i(2, 3)), "from": i(4), "to": i(4), "axes": i(1)}
    return Sort(model(nodes, {"x": (2, 5, 3)}, "y", constants))
