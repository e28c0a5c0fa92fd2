"""Copies between DRAM and the memories on the chip."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Final, TypeVar

import numpy as np

from isa.memory_map import GRANULE_BYTES, SREG_BYTES, SREGS, Region, Space, address_unit
from isa.spec import Access, Engine, Fault, Instruction, MachineState, Trap, instruction, kept, operand
from isa.target import Target

BYTE: Final = np.dtype(np.uint8)
WORD: Final = np.dtype("<i4")
Level = TypeVar("Level", bound=tuple[int, ...])


class OnChip(IntEnum):
    """The memories that DMA reaches; the scalar registers with extension T."""

    SPM = 0
    ACC = 1
    PRM = 2
    SREG = 3


class CopyMode(IntEnum):
    """How bytes are copied; further modes are kept for compressed weights."""

    PLAIN = 0


def merge_rows(run: int, levels: Sequence[Level], limit: int | None = None) -> tuple[int, list[Level]]:
    """Merge rows that continue one another on every side, up to a run of `limit`.

    `levels` lists (count, pitch, pitch, ...), innermost first. Returns the longer run and the
    levels that are left; none of these has a count of 1.
    """
    rest = [level for level in levels if level[0] > 1]
    while rest and all(pitch == run for pitch in rest[0][1:]):
        if limit is not None and run * rest[0][0] > limit:
            break
        run *= rest.pop(0)[0]
    return run, rest


def burst_cycles(t: Target, base: int, run: int, levels: Sequence[tuple[int, ...]]) -> int:
    """Cycles on the DRAM bus: whole bursts of every row, and the overhead of each further row."""
    if not levels:
        return math.ceil(-(-(run + base % t.dma.burst) // t.dma.burst) * t.dma.burst / t.dram.bytes_per_cycle)
    offsets = np.array([base % t.dma.burst])
    for count, pitch, *_ in levels:
        offsets = (offsets + np.arange(count)[:, None] * pitch).ravel() % t.dma.burst
    moved = int((-(-(run + offsets) // t.dma.burst)).sum()) * t.dma.burst
    return math.ceil(moved / t.dram.bytes_per_cycle) + t.dma.row_overhead * (offsets.size - 1)


class Copy(Instruction):
    """Operands that all copies share."""

    space: OnChip = operand(2, enum=OnChip, doc="the memory on the chip")
    region: int = operand(3, doc="DRAM region, R0 to R7")
    dram: int = operand(37, address=True, doc="first byte within the region")
    loc: int = operand(
        23, address=True, doc="first address on the chip: byte, accumulator row, granule or register"
    )
    n0: int = operand(16, low=1, doc="bytes of a row")
    n1: int = operand(12, low=1, doc="rows")
    n2: int = operand(10, low=1, doc="planes of rows")
    ds1: int = operand(24, doc="bytes from row to row in DRAM")
    ds2: int = operand(28, doc="bytes from plane to plane in DRAM")
    ls1: int = operand(18, doc="address units from row to row on the chip")
    ls2: int = operand(20, doc="address units from plane to plane on the chip")
    mode: CopyMode = operand(2, enum=CopyMode, doc="how bytes are copied")
    fill: int = operand(8, doc="the byte that ldf writes; sign-extended in accumulators")
    cmask: int = operand(4, doc="cores that receive the bytes too")

    shorthands = ("{space}", "{loc}", "{region}:{dram}", "n={n0}")

    def unused(self) -> frozenset[str]:
        idle = {"fill"}
        if self.n1 == 1:
            idle |= {"ds1", "ls1"}
        if self.n2 == 1:
            idle |= {"ds2", "ls2"}
        return frozenset(idle)

    def extensions(self) -> Sequence[tuple[str, str]]:
        return (("T", "space"),) if self.space is OnChip.SREG else ()

    def check(self, t: Target) -> Iterator[Fault]:
        if self.cmask:
            yield Fault(Trap.EXT_MISSING, "cmask", "cmask needs several cores")
        if self.space is OnChip.PRM and self.n0 % GRANULE_BYTES:
            yield Fault(Trap.MISALIGN, "n0", f"n0={self.n0} is not whole granules of 8 bytes")
        if self.space is OnChip.ACC and (self.n0 % 4 or self.n0 > 4 * t.mx.cols):
            yield Fault(
                Trap.MISALIGN,
                "n0",
                f"n0={self.n0} is not whole words of one accumulator "
                f"row; allowed: a multiple of 4, at most {4 * t.mx.cols}",
            )

        if self.space is OnChip.SREG:
            yield from self._check_registers()

    def _check_registers(self) -> Iterator[Fault]:
        """Whole registers, one run of them."""
        most = SREG_BYTES * SREGS
        if self.n0 % SREG_BYTES or self.n0 > most:
            text = f"n0={self.n0} is not whole registers; allowed: a multiple of 4, at most {most}"
            yield Fault(Trap.MISALIGN, "n0", text)
        for name in ("n1", "n2"):
            if getattr(self, name) != 1:
                yield Fault(
                    Trap.LIMIT, name, f"{name}={getattr(self, name)}: registers are one run; allowed: 1"
                )

    def unit(self, t: Target) -> int:
        """Bytes per address unit of the memory on the chip."""
        return address_unit(t, Space(self.space))

    def on_chip(self, t: Target, *, write: bool) -> Access:
        """The bytes on the chip."""
        unit = self.unit(t)
        dims = ((self.n2, self.ls2 * unit), (self.n1, self.ls1 * unit), (self.n0, 1))
        return Access("loc", Space(self.space), self.loc * unit, dims, write=write)

    def in_dram(self, *, write: bool) -> Access:
        """The bytes in DRAM."""
        dims = ((self.n2, self.ds2), (self.n1, self.ds1), (self.n0, 1))
        return Access("dram", Space.DRAM, self.dram, dims, write=write, region=Region(self.region))

    def on_chip_cycles(self, t: Target) -> int:
        """Beats on the port of the memory on the chip."""
        unit = self.unit(t)
        port = 4 * max(t.mx.cols, t.vx.lanes) if self.space is OnChip.ACC else t.spm.port_bytes
        run, left = merge_rows(self.n0, [(self.n1, self.ls1 * unit), (self.n2, self.ls2 * unit)])
        return math.prod(n for n, _ in left) * math.ceil(run / port)

    def copy_cycles(self, t: Target) -> int:
        """Issue, then the slower of the DRAM bus and the port on the chip."""
        unit = self.unit(t)
        run, left = merge_rows(
            self.n0, [(self.n1, self.ds1, self.ls1 * unit), (self.n2, self.ds2, self.ls2 * unit)]
        )
        bus = burst_cycles(t, self.dram, run, left)
        return t.ctl.issue + max(bus, self.on_chip_cycles(t))


@instruction("ld", opcode=0x22, engine=Engine.LD)
class Load(Copy):
    """Copy a three-level strided box from DRAM to a memory on the chip.

    Row (i2, i1) moves n0 bytes from `region + dram + i2*ds2 + i1*ds1` to `loc + i2*ls2 + i1*ls1`.
    """

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self.in_dram(write=False)
        yield self.on_chip(t, write=True)

    @kept
    def _places(self, t: Target) -> tuple[Access, Access]:
        return self.in_dram(write=False), self.on_chip(t, write=True)

    def execute(self, m: MachineState) -> None:
        source, destination = self._places(m.target)
        m.write(destination, m.read(source, BYTE), BYTE)

    def cycles(self, t: Target) -> int:
        return self.copy_cycles(t)

    def latency(self, t: Target) -> int:
        return t.dram.latency_read


@instruction("ldf", opcode=0x23, engine=Engine.LD)
class Fill(Copy):
    """Fill a three-level strided box on the chip without reading DRAM.

    In the accumulators the byte is sign-extended to int32.
    """

    def unused(self) -> frozenset[str]:
        return (Copy.unused(self) | {"region", "dram", "ds1", "ds2", "mode"}) - {"fill"}

    def check(self, t: Target) -> Iterator[Fault]:
        yield from Copy.check(self, t)
        if self.space is OnChip.SREG:
            yield Fault(Trap.BAD_ENUM, "space", "space=sreg cannot be filled; allowed: spm, acc, prm")

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self.on_chip(t, write=True)

    def execute(self, m: MachineState) -> None:
        access = self.on_chip(m.target, write=True)
        if self.space is OnChip.ACC:
            m.write(access, np.array(self.fill, np.uint8).astype(np.int8).astype(WORD), WORD)
        else:
            m.write(access, np.array(self.fill, BYTE), BYTE)

    def cycles(self, t: Target) -> int:
        return t.ctl.issue + self.on_chip_cycles(t)


@instruction("st", opcode=0x42, engine=Engine.ST)
class Store(Copy):
    """Copy a three-level strided box from a memory on the chip to DRAM."""

    def check(self, t: Target) -> Iterator[Fault]:
        yield from Copy.check(self, t)
        if self.space is OnChip.PRM:
            yield Fault(Trap.BAD_ENUM, "space", "space=prm cannot be stored; allowed: spm, acc, sreg")
        if not Region(self.region).writable:
            yield Fault(
                Trap.DRAM_RANGE,
                "region",
                f"region {self.region} is read-only; allowed: 1 (arena), 3 (output), 4 (state), 6 (trace)",
            )

    def accesses(self, t: Target) -> Iterator[Access]:
        yield self.on_chip(t, write=False)
        yield self.in_dram(write=True)

    @kept
    def _places(self, t: Target) -> tuple[Access, Access]:
        return self.on_chip(t, write=False), self.in_dram(write=True)

    def execute(self, m: MachineState) -> None:
        source, destination = self._places(m.target)
        m.write(destination, m.read(source, BYTE), BYTE)

    def cycles(self, t: Target) -> int:
        return self.copy_cycles(t)

    def latency(self, t: Target) -> int:
        return t.dram.latency_write
