"""Tiles of random masks."""

from __future__ import annotations

from typing import Final

from compiler.ir.graph import Node
from compiler.schedule.builder import Builder, Views, spans, tiles_of
from compiler.schedule.step.builder import step_of
from compiler.schedule.tile_graph import UNPLACED, Tensor
from compiler.train.integer.dropout import RandomMask
from isa.instructions.vector_training import VectorRandom
from isa.spec import greatest

MAX_RUN: Final = greatest(VectorRandom, "n")


@tiles_of(RandomMask)
def plan_random_mask(
    b: Builder, node: Node, operation: RandomMask, view: Views, out: Tensor, budget: int
) -> None:
    """Runs of bytes, each by its number."""
    del view
    s = step_of(b)
    most = max(min(MAX_RUN, budget), 1)
    for part in spans(node.type.elements, most):
        s.tile = (part.start,)
        made = s.codes_of(out, part.start, part.extent, "mask")
        key = s.number_given(node.inputs[0], operation.index)
        instr = VectorRandom(n=part.extent, key=UNPLACED, first=UNPLACED, rate=operation.rate)
        s.emit(instr, {"dst": made, "key": key, "first": s.number_of(part.start)})
        s.bring(out, made, part.start, part.extent)
