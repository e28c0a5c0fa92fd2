"""What a part of a layer costs on one device, and what an exchange costs: estimates, before any schedule."""

from __future__ import annotations

import math
from typing import Final

from compiler.ir.graph import Node
from compiler.ir.types import Quant, TensorType
from compiler.partition.boxes import extents
from compiler.rules.partitioning import part_of
from compiler.schedule.builder import device_shape
from isa.instructions.matrix import pass_cycles
from isa.program import Box, volume
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
    read = [(i, r) for i, r in zip(node.inputs, part.reads, strict=True) if r is not None]
    types = [_type(i.type, r) for i, r in read]
    out = TensorType(node.type.dtype, extents(box), node.type.quant)
    bound = part.operation.work(types, out).lower_bound(t)
    images, height, width, _ = device_shape(out.shape)
    area = height * width
    array = bound.mx_cycles / (images * area) * images * pass_cycles(t, area)
    vector = bound.vx_lanes / t.vx.lanes
    constants = sum(volume(r) for i, r in ((i, extents(r)) for i, r in read) if i.is_constant)
    moved = sum(volume(extents(r)) for i, r in read if not i.is_constant) + out.elements
    dram = constants / t.dram.bytes_per_cycle
    if moved > ROOM * t.spm.bytes:
        dram += moved / t.dram.bytes_per_cycle
    return max(array, vector, dram) + min(array, vector) / 8 + START


def _type(whole: TensorType, box: Box) -> TensorType:
    quant = whole.quant
    if quant is not None and quant.axis is not None:
        quant = Quant(quant.scales[slice(*box[quant.axis])], quant.zero_point, quant.axis, quant.dtype)
    return TensorType(whole.dtype, extents(box), quant)


def exchange_cycles(received: int, messages: int, t: Target) -> float:
    """Cycles until so many bytes have come in so many messages, where nothing hides them.

    A receiver's readiness travels before each message, and the bytes of the last one after it.
    """
    if not received:
        return 0.0
    return (messages + 1) * t.net.latency + math.ceil(received / t.net.bytes_per_cycle)
