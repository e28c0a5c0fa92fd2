"""Tiles of transfers: messages of whole pixels, cut in the same way on both sides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from compiler.ir.graph import Node
from compiler.ops.transfer import ReceiveFrom, SendTo, Transferring
from compiler.schedule.builder import Builder, Span, Views, spans, tiles_of
from compiler.schedule.tile_graph import Piece, Tensor
from isa.instructions.dma import OnChip
from isa.instructions.network import Receive, Send
from isa.spec import Instruction, greatest
from isa.target import Target

MAX_PIXELS: Final = greatest(Send, "n1")
MAX_RUN: Final = greatest(Send, "n0")
MAX_PITCH: Final = greatest(Send, "ls1")
MAX_TAG: Final = greatest(Send, "tag")
SHARE: Final = 4
"""Divides the scratchpad, for the bytes of a message: of a value in DRAM it passes through a buffer."""


def messages(target: Target, shape: tuple[int, int, int, int]) -> Iterator[tuple[int, Span, Span, Span]]:
    """The boxes (image, rows, columns, channels) that a value of this shape is sent in."""
    images, height, width, channels = shape
    for c in spans(channels, min(MAX_RUN, max(target.spm.bytes // SHARE, 1))):
        pixels = min(MAX_PIXELS, max(target.spm.bytes // SHARE // c.extent, 1))
        for n in range(images):
            for h in spans(height, max(pixels // width, 1)):
                for w in spans(width, width if width <= pixels else pixels):
                    yield n, h, w, c


@tiles_of(SendTo)
def plan_send(b: Builder, node: Node, operation: SendTo, view: Views, out: Tensor, budget: int) -> None:
    """From where the value is, or through a buffer."""
    del node, budget, out
    value = view(0)
    for number, (n, h, w, c) in enumerate(messages(b.target, value.shape)):
        b.tile = (number,)
        piece = b.fetch(value, n, h, w, c, "sent")
        b.emit(_transfer(Send, operation, piece, h, w, c), {"loc": piece.ref}, "send")


@tiles_of(ReceiveFrom)
def plan_receive(
    b: Builder, node: Node, operation: ReceiveFrom, view: Views, out: Tensor, budget: int
) -> None:
    """To where the value is to be, or through a buffer."""
    del node, view, budget
    for number, (n, h, w, c) in enumerate(messages(b.target, out.shape)):
        b.tile = (number,)
        piece = b.result(out, n, h, w, c, "received")
        b.emit(_transfer(Receive, operation, piece, h, w, c), {"loc": piece.ref}, "receive")
        b.deliver(out, piece, n, h, w, c)


def _transfer(
    kind: type[Send | Receive], operation: Transferring, piece: Piece, h: Span, w: Span, c: Span
) -> Instruction:
    """The instruction for a box, whose pixels are equally far apart."""
    assert h.extent == 1 or piece.row_pitch == w.extent * piece.pixel_pitch, "rows are whole"
    assert piece.pixel_pitch <= MAX_PITCH, "no image has such a pitch"
    pixels = h.extent * w.extent
    return kind(
        space=OnChip.SPM,
        n0=c.extent,
        n1=pixels,
        ls1=piece.pixel_pitch if pixels > 1 else 0,
        peer=operation.peer,
        tag=operation.number & MAX_TAG,
    )
