"""Transfers between devices (extension N)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from isa.instructions.dma import BYTE, WORD, OnChip, merge_rows
from isa.instructions.footprints import register
from isa.memory_map import SREG_BYTES, SREGS, Space, address_unit
from isa.spec import (
    Access,
    Engine,
    Fault,
    Instruction,
    MachineState,
    Transfer,
    Trap,
    instruction,
    kept,
    operand,
)
from isa.target import Target

Words = NDArray[np.int32]
WORD_BYTES: Final = 4


class Combine(IntEnum):
    """What becomes of the bytes that arrive."""

    COPY = 0
    ADD32 = 1
    MAX32 = 2


COMBINE: Final[dict[Combine, Callable[[Words, Words], Words]]] = {
    Combine.ADD32: np.add,
    Combine.MAX32: np.maximum,
}
"""Functions of the words that are there and those that arrive; sums wrap modulo 2^32."""


class Message(Instruction):
    """Operands that both sides of a transfer share."""

    extension: ClassVar[str] = "N"

    space: OnChip = operand(2, enum=OnChip, doc="the memory on the chip: spm, acc or sreg")
    loc: int = operand(23, address=True, doc="first address on the chip: byte, accumulator row or register")
    n0: int = operand(16, low=1, doc="bytes of a row")
    n1: int = operand(12, low=1, doc="rows")
    ls1: int = operand(18, doc="address units from row to row")
    peer: int = operand(11, doc="the other device: its number, or what is added to the own one")
    rel: int = operand(1, doc="1: peer is added to the own number, modulo the number of devices")
    chan: int = operand(6, doc="the channel: transfers of two devices on one channel keep their order")
    tag: int = operand(16, doc="both sides name the same")

    shorthands = ("{space}", "{loc}", "n={n0}", "peer={peer}", "chan={chan}")

    def unused(self) -> frozenset[str]:
        return frozenset({"ls1"} if self.n1 == 1 else ())

    def check(self, t: Target) -> Iterator[Fault]:
        if self.peer >= t.net.devices:
            text = f"peer={self.peer} is above the target's net.devices={t.net.devices}"
            yield Fault(Trap.PEER, "peer", text)
        if self.space is OnChip.PRM:
            yield Fault(Trap.BAD_ENUM, "space", "space=prm is not transferred; allowed: spm, acc, sreg")
        row = {OnChip.ACC: WORD_BYTES * t.mx.cols, OnChip.SREG: SREG_BYTES * SREGS}.get(self.space)
        if row is not None and (self.n0 % WORD_BYTES or self.n0 > row):
            text = f"n0={self.n0} is not whole words; allowed: a multiple of 4, at most {row}"
            yield Fault(Trap.MISALIGN, "n0", text)
        if self.space is OnChip.SREG and self.n1 != 1:
            yield Fault(Trap.LIMIT, "n1", f"n1={self.n1}: registers are one run; allowed: 1")

    def box(self, t: Target, *, write: bool) -> Access:
        """The bytes on the chip."""
        unit = address_unit(t, Space(self.space))
        dims = ((self.n1, self.ls1 * unit), (self.n0, 1))
        return Access("loc", Space(self.space), self.loc * unit, dims, write=write)

    def transfer(self) -> Transfer:
        return Transfer(
            sends=self.engine is Engine.TX,
            peer=self.peer,
            relative=bool(self.rel),
            channel=self.chan,
            tag=self.tag,
            bytes=self.n0 * self.n1,
        )

    def cycles(self, t: Target) -> int:
        unit = address_unit(t, Space(self.space))
        port = WORD_BYTES * max(t.mx.cols, t.vx.lanes) if self.space is OnChip.ACC else t.spm.port_bytes
        run, left = merge_rows(self.n0, [(self.n1, self.ls1 * unit)])
        beats = math.prod(n for n, _ in left) * math.ceil(run / port)
        return t.ctl.issue + max(beats, math.ceil(self.n0 * self.n1 / t.net.bytes_per_cycle))

    def latency(self, t: Target) -> int:
        return t.net.latency


@instruction("send", opcode=0xA2, engine=Engine.TX)
class Send(Message):
    """Send a two-level strided box on the chip to another device.

    Row i1 is the n0 bytes from `loc + i1*ls1`. The k-th send of a device to another on a channel and the
    k-th recv there are one transfer: both start together, when both stand at the heads of their engines and
    every link between the two is free. They name the same tag and number of bytes.
    """

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self.box(t, write=False)

    @kept
    def _source(self, t: Target) -> Access:
        return self.box(t, write=False)

    def execute(self, m: MachineState) -> None:
        m.send(self.transfer(), m.read(self._source(m.target), BYTE).ravel())


@instruction("recv", opcode=0xC2, engine=Engine.RX)
class Receive(Message):
    """Receive what another device sends into a two-level strided box on the chip.

    copy writes the bytes. add32 adds them, as words, to those that are there, modulo 2^32; max32 keeps the
    greater of two signed words.
    """

    fn: Combine = operand(2, enum=Combine, doc="what becomes of the bytes that arrive")

    shorthands = (*Message.shorthands, "{fn}")

    def check(self, t: Target) -> Iterator[Fault]:
        yield from Message.check(self, t)
        if self.fn is not Combine.COPY and self.space is OnChip.SPM:
            for name in ("n0", "ls1"):
                if getattr(self, name) % WORD_BYTES:
                    text = f"{name}={getattr(self, name)} is not whole words; allowed: a multiple of 4"
                    yield Fault(Trap.MISALIGN, name, text)

    def accesses(self, t: Target) -> Iterator[Access]:
        if self.fn is not Combine.COPY:
            yield self.box(t, write=False)
        yield self.box(t, write=True)

    def may_alias(self, read: Access, write: Access) -> bool:
        return True

    @kept
    def _places(self, t: Target) -> tuple[Access, Access]:
        return self.box(t, write=False), self.box(t, write=True)

    def execute(self, m: MachineState) -> None:
        source, destination = self._places(m.target)
        arrived = m.receive(self.transfer())
        shape = (self.n1, self.n0)
        if self.fn is Combine.COPY:
            m.write(destination, arrived.reshape(shape), BYTE)
            return
        words: Any = arrived.view(WORD).reshape(self.n1, self.n0 // WORD_BYTES)
        m.write(destination, COMBINE[self.fn](m.read(source, WORD), words), WORD)


@instruction("sid", opcode=0x0E, engine=Engine.CTL)
class DeviceNumber(Instruction):
    """Set a scalar register to the number of the device, 0 for the first."""

    extension: ClassVar[str] = "N"

    rd: int = operand(6, doc="register written, s1 to s63")

    def check(self, t: Target) -> Iterator[Fault]:
        del t
        if self.rd == 0:
            yield Fault(Trap.LIMIT, "rd", "rd=0 is the register that reads 0; allowed: 1 to 63")

    def accesses(self, t: Target) -> Iterator[Access]:
        del t
        yield register("rd", self.rd, write=True)

    def execute(self, m: MachineState) -> None:
        m.write(register("rd", self.rd, write=True), np.array(m.device), WORD)
