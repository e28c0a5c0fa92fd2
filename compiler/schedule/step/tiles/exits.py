"""How sums of a step leave the accumulators."""

from __future__ import annotations

import numpy as np

from compiler.ir.graph import Node
from compiler.schedule.builder import Span, Views, element
from compiler.schedule.step.builder import StepBuilder
from compiler.schedule.tile_graph import UNPLACED, Buffer, Memory, Ref
from compiler.schedule.tiles.products import TileExit
from compiler.train.integer.sums import Requantized
from isa.instructions.vector import Requant, Requantize
from isa.memory_map import GRANULE_BYTES, REQUANT_RECORD


def bias_records(s: StepBuilder, bias: Node, channels: Span, view: Views, factor: float) -> Ref:
    """The records {bias, factor} of a channel range, in PRM."""
    size = channels.extent * GRANULE_BYTES
    if bias.is_constant:
        record = np.zeros(channels.extent, REQUANT_RECORD)
        record["m"] = factor
        return s.parameters(record.tobytes(), "records")
    buffer = s.buffer("records", Memory.PRM, size, GRANULE_BYTES)
    s.load(Ref(view(2).tensor.home, channels.start * GRANULE_BYTES), Ref(buffer), size, [])
    return Ref(buffer, 0, GRANULE_BYTES)


def requantize_shifted(s: StepBuilder, node: Node, acc: Buffer, way: TileExit) -> None:
    """Take a tile out of the accumulators by the shift that is the node's last operand."""
    h, w, c = (span.extent for span in way.at[1:])
    operation = node.op
    assert isinstance(operation, Requantized)
    low, high = operation.bounds
    observer = s.seen(node)
    shift = s.numbers.read(node.inputs[-1])
    instr = Requantize(
        mode=Requant.SHR,
        h=h,
        w=w,
        c=c,
        ags=h * w if c > s.cols else 0,
        aws=w if h > 1 else 0,
        ops=way.piece.pixel_pitch,
        ors=way.piece.row_pitch,
        lo=low,
        hi=high,
        ot=element(node),
        perch=int(way.per_channel),
        sreg=UNPLACED,
        obs=0 if observer is None else UNPLACED,
    )
    bind = {"acc": Ref(acc), "out": way.piece.ref, "prm": way.params, "sreg": shift}
    s.emit(instr, bind | ({} if observer is None else {"obs": observer}), stored=way.mark)


def factor_of(node: Node) -> float:
    """What the sums of an operation are multiplied by besides their shift."""
    operation = node.op
    assert isinstance(operation, Requantized)
    return operation.factor


def plain_record(s: StepBuilder, node: Node) -> Ref:
    """The record of sums without a bias."""
    return s.constant(np.array((0, factor_of(node)), REQUANT_RECORD).tobytes())
