"""Who last read and wrote every byte: shadow memories, one per engine.

The checker has another implementation of its own; this one serves token insertion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from isa.footprint import box
from isa.program import is_read_only
from isa.spec import Access, Engine, Instruction, Space
from isa.target import Target
from isa.validate import memory_size

NONE: Final = -1
Key = tuple[Space, int]


class HazardMap:
    """Indices of the last accesses to every byte of every memory, by engine."""

    def __init__(self, target: Target, dram_sizes: dict[int, int]) -> None:
        self._target = target
        self._dram = dram_sizes
        self._written: dict[tuple[Key, Engine], NDArray[np.int32]] = {}
        self._read: dict[tuple[Key, Engine], NDArray[np.int32]] = {}
        self._top: dict[tuple[Key, Engine, bool], int] = {}

    def conflicts(self, index: int, instr: Instruction, known: Sequence[int]) -> list[int]:
        """For every engine the last earlier instruction that this one must not overtake.

        Engines of which `known` is recent enough are not looked at. The instruction's own accesses
        are recorded under `index`.
        """
        latest = [NONE] * len(Engine)
        accesses = [a for a in instr.accesses(self._target) if not is_read_only(a)]
        for access in accesses:
            for other in Engine:
                if other is not instr.engine:
                    latest[other] = max(latest[other], self._last(access, other, known[other]))
        for access in accesses:
            self._record(access, instr.engine, index)
        return latest

    def _last(self, access: Access, engine: Engine, known: int) -> int:
        """The last write, and for a write the last read too, of these bytes by an engine."""
        key = (access.space, access.region)
        last = NONE
        for shadow, kind in ((self._written, True), (self._read, False)):
            if (kind or access.write) and self._top.get((key, engine, kind), NONE) > known:
                last = max(last, int(box(shadow[key, engine], access).max()) - 1)
        return last

    def _record(self, access: Access, engine: Engine, index: int) -> None:
        key = (access.space, access.region)
        shadows = self._written if access.write else self._read
        if (key, engine) not in shadows:
            size = (
                self._dram[access.region]
                if access.space is Space.DRAM
                else memory_size(self._target, access.space)
            )
            shadows[key, engine] = np.zeros(
                size, np.int32
            )  # 0: none; memory that is not touched costs nothing
        box(shadows[key, engine], access)[...] = index + 1
        self._top[key, engine, access.write] = index
