"""Tensors repeated along their axes: ONNX Expand and Tile."""

from __future__ import annotations

import math

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.types import MAX_ELEMENTS
from compiler.ops.concat import Concat
from compiler.ops.shape_arithmetic import extents, known
from compiler.ops.shapes import Reshape
from compiler.ops.slices import Pad, integers_of
from compiler.rules.importing import OnnxNode, onnx_operator


@onnx_operator("Expand")
def import_expand(n: OnnxNode) -> Node:
    """A value repeated along its axes of extent 1, to a constant shape."""
    x, wanted = n.operand(0), extents(n, n.constant(1, "the shape"))
    try:
        shape = np.broadcast_shapes(x.shape, wanted)
    except ValueError:
        n.fail(f"{list(x.shape)} does not broadcast to {list(wanted)}")
    if math.prod(shape) > MAX_ELEMENTS:
        n.fail(f"the result has the shape {list(shape)}", f"{MAX_ELEMENTS} elements")
    if x.is_constant:
        return known(n, np.broadcast_to(x.constant, shape))
    source = (*(1,) * (len(shape) - len(x.shape)), *x.shape)
    aligned = x if source == x.shape else n.before(Reshape(source), x, suffix="aligned")
    more = tuple(d - 1 if s == 1 else 0 for d, s in zip(shape, source, strict=True))
    return n.add(Pad((0,) * len(shape), more, "edge", 0.0), aligned)


@onnx_operator("Tile")
def import_tile(n: OnnxNode) -> Node:
    """A tensor repeated along its axes."""
    x, repeats = n.operand(0), integers_of(n, 1, "the repeats")
    if len(repeats) != len(x.shape) or min(repeats, default=1) < 1:
        n.fail(f"repeats={repeats} of {list(x.shape)}", "at least 1 for every axis")
    if math.prod(repeats) * x.type.elements > MAX_ELEMENTS:
        n.fail(f"repeats={repeats} of {list(x.shape)}", f"a result of at most {MAX_ELEMENTS} elements")
    if x.is_constant:
        return known(n, np.tile(x.constant, repeats))
    for axis, count in enumerate(repeats):
        if count > 1:
            x = n.before(Concat(axis), *[x] * count, suffix=f"repeated{axis}")
    return n.add(Reshape(x.shape), x)
