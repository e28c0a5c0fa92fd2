"""Tiles of a step's functions: tables of codes, errors times slopes."""

from __future__ import annotations

import numpy as np

from compiler.ir.graph import Node
from compiler.schedule.builder import Builder, Views, same_rows, stored, tiles_of
from compiler.schedule.step.builder import step_of
from compiler.schedule.step.tiles.maps import limits
from compiler.schedule.tile_graph import Tensor
from compiler.schedule.tiles.boxes import dense, fit_box, tiles
from compiler.schedule.tiles.moves import ALL, copy_elements, whole_of
from compiler.train.integer.functions import DERIVATIVE_EXPONENT, CodeTable, Times
from isa.instructions.records import QuantRecord
from isa.instructions.vector_elementwise import Elementwise, VectorElementwise


@tiles_of(CodeTable, reads=same_rows)
def plan_table(b: Builder, node: Node, operation: CodeTable, view: Views, out: Tensor, budget: int) -> None:
    """Every byte through the table."""
    copy_elements(b, node, view(0), out, whole_of(out.shape), ALL, budget, operation.codes)


@tiles_of(Times, reads=same_rows)
def plan_times(b: Builder, node: Node, operation: Times, view: Views, out: Tensor, budget: int) -> None:
    """Element by element."""
    del operation
    g, slope = view(0), view(1)
    copies = (not g.tensor.resident) + (not slope.tensor.resident) + (not out.resident)
    size = fit_box(node, (b.height(out.shape[1]), *out.shape[2:]), dense(copies), limits, budget)
    ratio = np.float32(2.0**DERIVATIVE_EXPONENT)
    record = step_of(b).constant(QuantRecord((ratio,), lo=-127, hi=127).pack())
    for place in tiles(b, out.shape, size):
        _, h, w, c = place
        left, right = b.fetch(g, *place, "errors"), b.fetch(slope, *place, "slopes")
        target = b.result(out, *place, "output")
        instr = VectorElementwise(
            fn=Elementwise.MUL, h=h.extent, w=w.extent, c=c.extent, aps=left.pixel_pitch, ars=left.row_pitch,
            bps=right.pixel_pitch, brs=right.row_pitch, ops=target.pixel_pitch, ors=target.row_pitch,
        )  # fmt: skip
        bind = {"a": left.ref, "b": right.ref, "out": target.ref, "prm": record}
        b.emit(instr, bind, stored=stored(out, *place))
        b.deliver(out, target, *place)
