"""Where bytes are: the memories of a core, the DRAM regions of a program, their units and their records."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

import numpy as np

from isa.target import Target

SREGS: Final = 64
"""Scalar registers of a core, int32 each; s0 reads 0 and is never written."""
SREG_BYTES: Final = 4
ACCUMULATOR_BYTES: Final = 4
"""An accumulator is an int32."""
GRANULE_BYTES: Final = 8
"""The granule of the parameter memory: a requantization record."""
TABLE_BYTES: Final = 256
"""A table of the parameter memory: a byte for every code. Its number is its address / 256; 0 means none."""
REGION_SHIFT: Final = 40
"""An address across regions is region << 40 plus the byte within: in ELF files and in assembly."""
REQUANT_RECORD: Final = np.dtype([("bias", "<i4"), ("m", "<f4")])
"""One granule: what `vreq` and `vdwc` add to and multiply a channel with."""
QUANT_RECORD: Final = np.dtype(
    [
        ("p", "<f4", (6,)),
        ("bias", "<i4"),
        ("za", "<i2"),
        ("zb", "<i2"),
        ("zo", "<i2"),
        ("lo", "<i2"),
        ("hi", "<i2"),
        ("pad", "<i2"),
    ]
)
"""Record Q: what most other vector instructions compute with."""
Q_GRANULES: Final = QUANT_RECORD.itemsize // GRANULE_BYTES
"""Granules of record Q."""


class Space(IntEnum):
    """An address space. Accesses count bytes in each of them; copies name those on the chip by number."""

    SPM = 0
    ACC = 1
    PRM = 2
    SREG = 3
    DRAM = 4


class Region(IntEnum):
    """A DRAM region of a program: R0 to R7 in assembly."""

    WEIGHTS = 0
    ARENA = 1
    INPUT = 2
    OUTPUT = 3
    STATE = 4
    PARAMS = 5
    TRACE = 6
    PEER = 7

    @property
    def section(self) -> str:
        """The section of the binary that holds or declares it."""
        return f".{self.name.lower()}"

    @property
    def writable(self) -> bool:
        """Whether instructions may write it: nothing can conflict in the others."""
        return self not in (Region.WEIGHTS, Region.INPUT, Region.PARAMS)

    @property
    def address(self) -> int:
        """Where it begins among all regions."""
        return self << REGION_SHIFT


DATA_REGIONS: Final = (Region.WEIGHTS, Region.PARAMS, Region.STATE)
"""Regions whose bytes a binary holds: in every byte of them something stands from the start."""
SIZED_REGIONS: Final = (Region.ARENA, Region.INPUT, Region.OUTPUT)
"""Regions of which a binary says how large they are."""


def address_unit(t: Target, space: Space) -> int:
    """Bytes from one address of a space to the next."""
    match space:
        case Space.ACC:
            return t.mx.cols * ACCUMULATOR_BYTES
        case Space.PRM:
            return GRANULE_BYTES
        case Space.SREG:
            return SREG_BYTES
        case _:
            return 1


def memory_size(t: Target, space: Space) -> int:
    """Bytes of a memory on the chip."""
    sizes = {
        Space.SPM: t.spm.bytes,
        Space.ACC: t.acc.rows * address_unit(t, Space.ACC),
        Space.PRM: t.prm.bytes,
        Space.SREG: SREGS * SREG_BYTES,
    }
    return sizes[space]


def memory_name(space: Space, region: Region | None) -> str:
    """A memory's name in messages."""
    return space.name if region is None else f"region {region}"
