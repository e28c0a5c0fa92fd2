"""Tiles of a step's functions: tables of codes, errors times slopes."""

from __future__ import annotations

import numpy as np

from compiler.ir.graph import Node
from compiler.schedule.builder import Builder, Views, same_rows, tiles_of
from compiler.schedule.step.builder import step_of
from compiler.schedule.tile_graph import Tensor
from compiler.schedule.tiles.elementwise import pair_tiles, plan_pairs
from compiler.schedule.tiles.moves import ALL, copy_elements, whole_of
from compiler.train.integer.functions import DERIVATIVE_EXPONENT, CodeTable, Times
from isa.instructions.records import QuantRecord
from isa.instructions.vector_elementwise import Elementwise


@tiles_of(CodeTable, reads=same_rows)
def plan_table(b: Builder, node: Node, operation: CodeTable, view: Views, out: Tensor, budget: int) -> None:
    """Every byte through the table."""
    copy_elements(b, node, view(0), out, whole_of(out.shape), ALL, budget, operation.codes)


@tiles_of(Times, reads=same_rows)
def plan_times(b: Builder, node: Node, operation: Times, view: Views, out: Tensor, budget: int) -> None:
    """Element by element."""
    del operation
    ratio = np.float32(2.0**DERIVATIVE_EXPONENT)
    record = step_of(b).constant(QuantRecord((ratio,), lo=-127, hi=127).pack())
    plan_pairs(b, node, view, out, budget, pair_tiles(b, node, view, out, Elementwise.MUL, record))
