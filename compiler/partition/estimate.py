"""What a part of a layer costs on one device, and what an exchange costs: estimates, before any schedule."""

from __future__ import annotations

import math
from typing import Final

from compiler.ir.graph import Node
from compiler.rules.partitioning import part_of
from compiler.schedule.builder import device_shape
from isa.instructions.matrix import pass_cycles
from isa.program import Box
from isa.target import Target

START: Final = 100
"""Cycles in which a layer waits for its first tile, whatever it does."""
ROOM: Final = 0.8
"""The part of the scratchpad that operands and result of a layer may take together; else they pass DRAM."""


def part_cycles(node: Node, box: Box, t: Target) -> float | None:
    """Cycles of what makes a box of a node's result; None where nothing does."""
    part = part_of(node, box)
    if part is None:
        return None
    read = [(i.is_constant, i.type.part(r)) for i, r in part.operands(node)]
    out = node.type.part(box)
    bound = part.operation.work([kind for _, kind in read], out).lower_bound(t)
    images, height, width, _ = device_shape(out.shape)
    area = height * width
    array = bound.mx_cycles / (images * area) * images * pass_cycles(t, area)
    vector = bound.vx_lanes / t.vx.lanes
    constants = sum(kind.elements for constant, kind in read if constant)
    moved = sum(kind.elements for constant, kind in read if not constant) + out.elements
    dram = constants / t.dram.bytes_per_cycle
    if moved > ROOM * t.spm.bytes:
        dram += moved / t.dram.bytes_per_cycle
    return max(array, vector, dram) + min(array, vector) / 8 + START


def exchange_cycles(received: int, messages: int, t: Target) -> float:
    """Cycles until so many bytes have come in so many messages, where nothing hides them.

    A receiver's readiness travels before each message, and the bytes of the last one after it.
    """
    if not received:
        return 0.0
    return (messages + 1) * t.net.latency + math.ceil(received / t.net.bytes_per_cycle)
