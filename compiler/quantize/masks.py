"""Masks before a softmax: what is added to leave elements out, minus infinity or a very low number.

No scale holds such numbers beside others. An element is left out as well when it lies a little below all
others: the probability that is left to all of them is less than half a code.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Graph, Node

LOW: Final = -1e3
"""What is added to leave an element out: exporters write minus infinity, the least float, or -10,000."""
DEPTH: Final = 8.0
"""How far below all others the elements lie that are left out, beside the logarithm of how many they may be:
together they have less than exp(-8), a twelfth of a code of a softmax."""
ON_THE_WAY: Final = ("reshape", "transpose", "nn.identity", "nn.add")


def masks_of(node: Node) -> list[Node]:
    """The constants that leave elements of a sum out, which softmaxes alone read."""
    if node.op.name != "nn.add":
        return []
    low = [i for i in node.inputs if i.is_constant and _leaves_out(i.constant)]
    return low if low and _only_softmax_reads(node) else []


def is_mask(constant: Node) -> bool:
    """Whether a constant only leaves out elements of what softmaxes read."""
    users = constant.graph.users(constant)
    return bool(users) and all(constant in masks_of(user) for user in users)


def masked_values(graph: Graph) -> set[int]:
    """The nodes of whose values elements have been left out by a mask."""
    found: set[int] = set()
    for node in graph.nodes():
        passed_on = node.op.name in ON_THE_WAY and any(i.id in found for i in node.inputs)
        if passed_on or masks_of(node):
            found.add(node.id)
    return found


def without_left_out(values: NDArray[Any]) -> NDArray[Any]:
    """A value that is masked, its elements left out as low as they must lie."""
    left_out = values <= LOW / 2
    if not left_out.any() or left_out.all():
        return np.where(left_out, np.float32(0), values)
    depth = DEPTH + math.log(max(values.shape))
    return np.where(left_out, np.float32(values[~left_out].min() - depth), values)


def lowered(mask: NDArray[Any], reach: float) -> NDArray[Any]:
    """A mask that lowers what it leaves out by `reach`: from the greatest operand to the least sum."""
    return np.where(mask <= LOW, np.float32(-reach), mask).astype(np.float32)


def _leaves_out(values: NDArray[Any]) -> bool:
    """Whether a constant has very low numbers, and else finite ones."""
    left_out = values <= LOW
    return bool(left_out.any() and np.isfinite(values[~left_out]).all())


def _only_softmax_reads(node: Node) -> bool:
    """Whether every use of a value, through sums and views, ends in a softmax."""
    graph, seen, left = node.graph, {node.id}, [node]
    while left:
        value = left.pop()
        users = graph.users(value)
        if not users or value in graph.outputs:
            return False
        for user in users:
            if user.op.name == "nn.softmax" or user.id in seen:
                continue
            if user.op.name not in ON_THE_WAY:
                return False
            seen.add(user.id)
            left.append(user)
    return True
