"""Rebuilds every tensor of a run from the writes that the debug map names.

The shipped binary is what runs: its executor is watched, and each tile is copied from the operand
that holds it at the moment it is complete, whether or not the tensor ever reaches DRAM.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.program import MapRow, Program, TensorRow, box_shape, stored_access, taken_through
from isa.spec import Instruction
from runtime.state import CoreState


class TensorCapture:
    """An observer of an executor that collects tensors from a state; reset it before each run."""

    def __init__(self, program: Program, state: CoreState) -> None:
        self._state = state
        self._tensors = {t.id: t for t in program.operators.tensors}
        self._rows: dict[int, list[MapRow]] = {}
        for row in program.debug.rows:
            if row.tensor is not None:
                self._rows.setdefault(row.first + row.count - 1, []).append(row)
        self._device: dict[int, NDArray[Any]] = {}
        self._seen: dict[int, NDArray[np.uint8]] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what was collected."""
        stored = {r.tensor for rows in self._rows.values() for r in rows if r.tensor is not None}
        self._device = {t: np.zeros(self._tensors[t].shape, self._tensors[t].dtype) for t in stored}
        self._seen = {t: np.zeros(self._tensors[t].shape, np.uint8) for t in stored}

    def __call__(self, pc: int, instr: Instruction) -> None:
        """Collect the tiles that the instruction at pc completes."""
        for row in self._rows.get(pc, ()):
            assert row.tensor is not None
            assert row.box is not None
            place = tuple(slice(a, b) for a, b in row.box)
            dtype = self._device[row.tensor].dtype
            access = stored_access(instr, self._state.target, row)
            assert access is not None, "the loader has checked it"
            values = self._state.read(access, dtype)
            self._device[row.tensor][place] = values.reshape(box_shape(row.box))
            self._seen[row.tensor][place] += 1

    def given(self, tensor: int, values: NDArray[Any]) -> None:
        """A device tensor that the host places."""
        self._device[tensor] = values

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Every tensor by its name in the source model, in the source's shape and layout."""
        return {
            t.name: self._source_form(t)
            for t in self._tensors.values()
            if t.name and self._holder(t) in self._device
        }

    def incomplete(self) -> list[str]:
        """Tensors of which some element was written never, or more than once."""
        named = [t for t in self._tensors.values() if t.name and self._holder(t) in self._seen]
        return [t.name for t in named if not (_box(self._seen[self._holder(t)], t) == 1).all()]

    def _holder(self, tensor: TensorRow) -> int:
        return tensor.id if tensor.alias_of is None else tensor.alias_of

    def _source_form(self, tensor: TensorRow) -> NDArray[Any]:
        held = _box(self._device[self._holder(tensor)], tensor)
        return taken_through(held, tensor.steps, tensor.shape).copy()


def _box(held: NDArray[Any], tensor: TensorRow) -> NDArray[Any]:
    """What a tensor is of a device tensor: all of it, or a box."""
    return held if tensor.box is None else held[tuple(slice(a, b) for a, b in tensor.box)]
