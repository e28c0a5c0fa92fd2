"""Rebuilds every tensor of a run from the writes that the debug map names.

The shipped binary is what runs: its executor is watched, and each tile is copied from the operand
that holds it at the moment it is complete, whether or not the tensor ever reaches DRAM.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.program import MapRow, TensorRow, box_shape, box_slices, stored_access, taken_through
from isa.spec import Instruction
from runtime.state import CoreState


class TensorCapture:
    """Collects tensors from the states of all devices; reset it before each run."""

    def __init__(self, states: Sequence[CoreState]) -> None:
        self._tensors = {t.id: t for t in states[0].program.operators.tensors}
        self._alone = len(states) == 1
        self._device: dict[int, NDArray[Any]] = {}
        self._seen: dict[int, NDArray[np.uint8]] = {}
        self._torn: set[int] = set()
        self.observers = [_Watch(state, self._collect) for state in states]
        """An observer of an executor for each device."""
        self.reset()

    def reset(self) -> None:
        """Forget what was collected."""
        stored = {t for watch in self.observers for t in watch.stored}
        self._device = {t: np.zeros(self._tensors[t].shape, self._tensors[t].dtype) for t in stored}
        self._seen = {t: np.zeros(self._tensors[t].shape, np.uint8) for t in stored}
        self._torn = set()

    def _collect(self, state: CoreState, row: MapRow, instr: Instruction) -> None:
        """Collect the tile that an instruction completes."""
        assert row.tensor is not None
        assert row.box is not None
        place = box_slices(row.box)
        whole, seen = self._device[row.tensor][place], self._seen[row.tensor][place]
        access = stored_access(instr, state.target, row)
        assert access is not None, "the loader has checked it"
        values = state.read(access, whole.dtype).reshape(box_shape(row.box))
        if not self._alone and (whole != values)[seen > 0].any():
            self._torn.add(row.tensor)
        whole[...] = values
        seen += 1

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
        """Tensors of which some element was written never, or more than once; by devices, differently."""
        named = [t for t in self._tensors.values() if t.name and self._holder(t) in self._seen]
        return [t.name for t in named if not self._is_complete(t)]

    def _is_complete(self, tensor: TensorRow) -> bool:
        times = _box(self._seen[self._holder(tensor)], tensor)
        if self._alone:
            return bool((times == 1).all())
        return bool(times.all()) and self._holder(tensor) not in self._torn

    def _holder(self, tensor: TensorRow) -> int:
        return tensor.id if tensor.alias_of is None else tensor.alias_of

    def _source_form(self, tensor: TensorRow) -> NDArray[Any]:
        held = _box(self._device[self._holder(tensor)], tensor)
        return taken_through(held, tensor.steps, tensor.shape).copy()


class _Watch:
    """Sees the instructions of a device, and collects the tiles that they complete."""

    def __init__(self, state: CoreState, collect: Callable[[CoreState, MapRow, Instruction], None]) -> None:
        self._state, self._collect = state, collect
        self._rows: dict[int, list[MapRow]] = {}
        for row in state.program.debug.rows:
            if row.tensor is not None:
                self._rows.setdefault(row.first + row.count - 1, []).append(row)

    @property
    def stored(self) -> set[int]:
        """The tensors of which something is completed."""
        return {r.tensor for rows in self._rows.values() for r in rows if r.tensor is not None}

    def __call__(self, pc: int, instr: Instruction) -> None:
        """Collect the tiles that the instruction at pc completes."""
        for row in self._rows.get(pc, ()):
            self._collect(self._state, row, instr)


def _box(held: NDArray[Any], tensor: TensorRow) -> NDArray[Any]:
    """What a tensor is of a device tensor: all of it, or a box."""
    return held if tensor.box is None else held[box_slices(tensor.box)]
