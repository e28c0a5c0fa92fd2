"""The kinds of operations of a step: which work image by image, which on the array, which give sums."""

from __future__ import annotations

from typing import Final

import compiler.schedule.step.tiles  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.ir.graph import Node, TupleElement
from compiler.ops.depth_to_space import Take
from compiler.ops.max_pool import MaxPool
from compiler.ops.slices import Slice
from compiler.schedule.step.tiles.depthwise import groups_in, is_depthwise, on_lanes
from compiler.train.integer.convolution import Conv2dWeightSums, Interleave, StepConv2d, TurnWeights
from compiler.train.integer.dense import DenseSums, DenseWeightSums
from compiler.train.integer.functions import CodeTable, Times
from compiler.train.integer.loss import CodeSums
from compiler.train.integer.maps import (
    AveragePoolErrors,
    BorderErrors,
    PadCodes,
    PixelSums,
    SpreadCodes,
    StepAveragePool,
    StepConcat,
)
from compiler.train.integer.normalization import GroupSums, Normalize, NormalizeErrors
from compiler.train.integer.pooling import Mask, MaxPoolErrors
from compiler.train.integer.sums import ChannelSums, StepAdd
from compiler.train.integer.weights import QuantizeWeights

ON_IMAGES: Final = (
    StepConv2d,
    MaxPool,
    PixelSums,
    SpreadCodes,
    StepAveragePool,
    AveragePoolErrors,
    BorderErrors,
    StepConcat,
    PadCodes,
    Slice,
    Take,
    CodeTable,
    Times,
    MaxPoolErrors,
    Mask,
    StepAdd,
    Interleave,
    Normalize,
    NormalizeErrors,
    ChannelSums,
    GroupSums,
    Conv2dWeightSums,
)
"""Operations that work on one image after another."""
ON_ARRAY: Final = (StepConv2d, ChannelSums, Conv2dWeightSums)
"""Those of them that begin on the array."""
SUMS: Final = (ChannelSums, GroupSums, Conv2dWeightSums)
"""Those of them whose result is a sum over images."""
LATE: Final = (DenseSums, DenseWeightSums, CodeSums)
"""Operations that are made where their result is needed."""


def maker_of(node: Node) -> Node:
    """The operation that gives a value as its first result, or as another one."""
    return node.inputs[0] if isinstance(node.op, TupleElement) else node


def on_array(node: Node) -> bool:
    """Whether an operation begins on the array."""
    return isinstance(node.op, ON_ARRAY) and not is_depthwise(node)


def is_map(node: Node) -> bool:
    """Whether a value is codes that are no weights."""
    return node.type.dtype.is_code and not isinstance(maker_of(node).op, (QuantizeWeights, TurnWeights))


def images_of(node: Node) -> int:
    """Images that an operation works on; of a matrix it takes all rows at once."""
    return node.inputs[0].shape[0] if len(node.inputs[0].shape) == 4 else 0


def packed_bytes(node: Node, cols: int) -> int:
    """Bytes of weights as the array reads them."""
    if len(node.shape) != 4 or on_lanes(node):
        return node.type.elements
    groups, (out, ins, kh, kw) = groups_in(node), node.shape
    return groups * -(-(out // groups) // cols) * cols * ins * kh * kw
