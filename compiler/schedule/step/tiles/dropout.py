"""Tiles of random masks."""

from __future__ import annotations

from typing import Final

from compiler.ir.graph import Node
from compiler.schedule.builder import Builder, Views, spans, tiles_of
from compiler.schedule.step.builder import step_of
from compiler.schedule.tile_graph import UNPLACED, Memory, Ref, Tensor
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
        at_home = out.home.memory is Memory.SPM
        made = Ref(out.home, part.start) if at_home else Ref(s.buffer("mask", Memory.SPM, part.extent))
        key = s.number_given(node.inputs[0], operation.index)
        instr = VectorRandom(n=part.extent, key=UNPLACED, first=UNPLACED, rate=operation.rate)
        s.emit(instr, {"dst": made, "key": key, "first": s.number_of(part.start)})
        if not at_home:
            s.store(made, Ref(out.home, part.start), part.extent, [])
