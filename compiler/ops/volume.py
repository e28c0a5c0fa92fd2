"""Windows over three dimensions: convolution and pooling of volumes, made of those of images.

A convolution takes the slices that each slice of its result sees as further channels of an image. A maximum
or a mean is that over rows and columns, then over the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from compiler.ir.graph import Node
from compiler.ops.depth_to_space import Take
from compiler.ops.shapes import Reshape, Transpose
from compiler.ops.slices import Pad
from compiler.ops.sliding_window import one_dimensional, onnx_pads
from compiler.rules.importing import OnnxNode
from isa.support.records import replace

RANK: Final = 5
"""(n, c, depth, rows, columns)."""
LENGTHS: Final = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 1, "pads": 2}
"""Attributes with a number for every dimension, or two."""
Taps = Sequence[Sequence[int | None]]
"""For every slice of a result, the slice of the operand under each tap; None beyond its ends."""


def of_images(n: OnnxNode, dimensions: Sequence[int]) -> dict[str, Any]:
    """The attributes of a node on volumes for two of its dimensions, either of which may be named twice."""
    found = dict(n.attributes)
    for name, count in LENGTHS.items():
        if name not in found:
            continue
        given = n.integers(name, ())
        if len(given) != count * (RANK - 2):
            n.fail(f"{name}={list(given)} is not allowed", f"{count * (RANK - 2)} numbers")
        found[name] = [given[d + (RANK - 2) * side] for side in range(count) for d in dimensions]
    if "output_shape" in found:
        given = n.integers("output_shape", ())[-(RANK - 2) :]
        if len(given) != RANK - 2:
            n.fail(f"output_shape={list(given)} is not allowed", f"{RANK - 2} numbers")
        found["output_shape"] = [given[d] for d in dimensions]
    return found


def pooled_in_images(n: OnnxNode, rule: Callable[[OnnxNode], Node]) -> Node | None:
    """A pooling of lines or of volumes by the rule of images; None for images themselves."""
    shape = n.operand(0).shape
    if len(shape) == 3:
        return one_dimensional(n, rule)
    if len(shape) == RANK:
        return pooled(n, rule)
    if len(shape) != 4:
        n.fail(f"{n.op_type} on the shape {list(shape)} is not supported", "rank 3 to 5")
    return None


def pooled(n: OnnxNode, rule: Callable[[OnnxNode], Node]) -> Node:
    """A pooling: `rule` is that of images."""
    x = n.operand(0)
    batch, channels, depth, rows, columns = x.shape
    flat = n.before(Reshape((batch, channels * depth, rows, columns)), x, suffix="images")
    spread = rule(_inner(n, flat, of_images(n, (1, 2)), "images.pooled"))
    _, _, high, wide = spread.shape
    turned = n.before(Reshape((batch, channels, depth, high * wide)), spread, suffix="depths")
    attributes = of_images(n, (0, 0))
    for name, idle in (("kernel_shape", 1), ("strides", 1), ("dilations", 1)):
        if name in attributes:
            attributes[name] = [attributes[name][0], idle]
    if "pads" in attributes:
        before, _, after, _ = attributes["pads"]
        attributes["pads"] = [before, 0, after, 0]
    made = rule(_inner(n, turned, attributes, "depths.pooled"))
    return n.add(Reshape((batch, channels, made.shape[2], high, wide)), made)


def _inner(n: OnnxNode, x: Node, attributes: dict[str, Any], suffix: str) -> OnnxNode:
    """The node on another operand, with other attributes."""
    return replace(n, operands=[x, *n.operands[1:]], attributes=attributes, output=n.unused(suffix))


def convolution(n: OnnxNode, rule: Callable[[OnnxNode], Node]) -> Node:
    """A convolution with constant weights (out, in / groups, kd, kh, kw)."""
    x, w = n.operand(0), n.parameter(1, "the weight")
    if len(w.shape) != RANK:
        n.fail(f"weights of shape {list(w.shape)} for an input of rank {RANK}", f"rank {RANK}")
    depth, taps = x.shape[2], w.shape[2]
    of_depth = replace(n, attributes={**of_images(n, (0, 0))})
    stride, dilation = of_depth.integers("strides", (1, 1))[0], of_depth.integers("dilations", (1, 1))[0]
    if min(stride, dilation) < 1 or n.integers("kernel_shape", w.shape[2:]) != w.shape[2:]:
        n.fail("the kernel, strides or dilations are not allowed", "those of the weights, at least 1")
    pair = (stride, stride), (dilation, dilation)
    before, _, after, _ = onnx_pads(of_depth, (depth, depth), (taps, taps), *pair)
    count = (depth + before + after - (taps - 1) * dilation - 1) // stride + 1
    if count < 1:
        n.fail(f"the kernel does not fit into the depth {depth}", "at least one window")
    seen = [[o * stride + k * dilation - before for k in range(taps)] for o in range(count)]
    inside = [[i if 0 <= i < depth else None for i in row] for row in seen]
    weights = n.mapped(w, lambda v, _: v.reshape(v.shape[0], -1, *v.shape[3:]), 0, "weight.images")
    return through_images(n, rule, inside, weights)


def through_images(n: OnnxNode, rule: Callable[[OnnxNode], Node], seen: Taps, weights: Node) -> Node:
    """The images of what each slice of the result sees, through the rule of images, as a volume again.

    Args:
        n: the node on volumes.
        rule: that of images.
        seen: the slices.
        weights: for channels and taps as the channels of an image, in this order.
    """
    x, count, taps = n.operand(0), len(seen), len(seen[0])
    batch, channels, depth, rows, columns = x.shape
    if any(i is None for row in seen for i in row):
        end = (0, 0, 1, 0, 0)
        x = n.before(Pad((0,) * RANK, end, "constant", 0.0), x, suffix="padded")
    picks = Take(2, tuple(depth if i is None else i for row in seen for i in row))
    x = n.before(picks, x, suffix="taps")
    x = n.before(Reshape((batch, channels, count, taps, rows, columns)), x, suffix="taps.split")
    x = n.before(Transpose((0, 2, 1, 3, 4, 5)), x, suffix="taps.turned")
    x = n.before(Reshape((batch * count, channels * taps, rows, columns)), x, suffix="images")
    inner = replace(
        n,
        operands=[x, weights, *n.operands[2:]],
        attributes=of_images(n, (1, 2)),
        output=n.unused("images.result"),
    )
    made = rule(inner)
    _, filters, high, wide = made.shape
    whole = n.before(Reshape((batch, count, filters, high, wide)), made, suffix="volumes")
    return n.add(Transpose((0, 2, 1, 3, 4)), whole)
