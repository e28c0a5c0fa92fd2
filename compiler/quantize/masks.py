"""Masks before a softmax: what is added to leave elements out, minus infinity or a very low number.

No scale holds such numbers beside others. An element is left out as well when it lies a little below all
others: the probability that is left to it is less than half a code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Node

LOW: Final = -1e4
"""What is added to leave an element out: exporters write minus infinity, the least float, or this."""
DEPTH: Final = 8.0
"""How far below all others an element that is left out lies: exp(-8) is a twelfth of a code of a softmax."""
ON_THE_WAY: Final = ("reshape", "transpose", "nn.identity", "nn.add")


def masks_of(node: Node) -> Iterator[Node]:
    """The constants that leave elements of a sum out, which a softmax alone reads."""
    if node.op.name != "nn.add" or not _only_softmax_reads(node):
        return
    for operand in node.inputs:
        if operand.is_constant and bool((operand.constant <= LOW).any()):
            yield operand


def is_mask(constant: Node) -> bool:
    """Whether a constant only leaves out elements of what softmaxes read."""
    users = constant.graph.users(constant)
    return bool(users) and all(constant in masks_of(user) for user in users)


def is_masked(node: Node) -> bool:
    """Whether elements of a value have been left out by a mask."""
    if any(True for _ in masks_of(node)):
        return True
    return node.op.name in ON_THE_WAY and any(is_masked(i) for i in node.inputs if not i.is_constant)


def without_left_out(values: NDArray[Any]) -> NDArray[Any]:
    """A value that is masked, its elements left out as low as they must lie."""
    left_out = values <= LOW / 2
    if not left_out.any() or left_out.all():
        return np.where(left_out, np.float32(0), values)
    return np.where(left_out, np.float32(values[~left_out].min() - DEPTH), values)


def lowered(mask: NDArray[Any], reach: float) -> NDArray[Any]:
    """A mask that lowers by the whole range of a result what it leaves out."""
    return np.where(mask <= LOW, np.float32(-reach), mask).astype(np.float32)


def _only_softmax_reads(node: Node) -> bool:
    users = node.graph.users(node)
    return (
        bool(users)
        and node not in node.graph.outputs
        and all(
            u.op.name == "nn.softmax" or (u.op.name in ON_THE_WAY and _only_softmax_reads(u)) for u in users
        )
    )
