"""Bounds-checked memories of a core, with an optional record of which bytes were written."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.footprint import box, elements
from isa.spec import RANGE_TRAP, Access, Dims, Trap, TrapError

MAX_VIEWS: Final = 1 << 16
"""Views of a memory that are kept, a few hundred bytes each: programs that run again need the same ones."""
UNDEFINED: Final = 0xA5
"""What a memory holds before anything is written: the same bytes on every run."""


class CheckedMemory:
    """A run of bytes that strided accesses read and write."""

    def __init__(self, name: str, size: int, *, poison: bool = False, writable: bool = True) -> None:
        self.name = name
        self.writable = writable
        self.bytes: NDArray[np.uint8] = np.full(size, UNDEFINED, np.uint8)
        self.written: NDArray[np.bool_] | None = np.zeros(size, np.bool_) if poison else None
        self._views: dict[tuple[int, Dims, np.dtype[Any]], NDArray[Any]] = {}
        """By first byte, box and type; all lie within the memory."""

    def reset(self) -> None:
        """Forget everything."""
        self.bytes.fill(UNDEFINED)
        if self.written is not None:
            self.written.fill(False)  # noqa: FBT003

    def preload(self, content: bytes | NDArray[np.uint8], offset: int = 0) -> None:
        """Place bytes from the host."""
        data = np.frombuffer(content, np.uint8) if isinstance(content, bytes) else content
        self.bytes[offset : offset + data.size] = data
        if self.written is not None:
            self.written[offset : offset + data.size] = True

    def read(self, access: Access, dtype: np.dtype[Any]) -> NDArray[Any]:
        """A view of the elements.

        Raises:
            TrapError: the access leaves the memory, or reads a byte that nothing has written.
        """
        view = self._views.get((access.base, access.dims, dtype))
        if view is None:
            view = self._view(access, dtype)
        if self.written is not None:
            known = box(self.written, access)
            if not known.all():
                first = int(np.argmin(known.ravel()))
                where = np.unravel_index(first, known.shape)
                address = access.base + sum(int(i) * p for i, (_, p) in zip(where, access.dims, strict=True))
                raise TrapError(
                    Trap.UNINIT_READ,
                    access.operand,
                    f"{access.operand} reads byte {address} of {self.name}, which nothing has written",
                    address,
                )
        return view

    def write(self, access: Access, values: NDArray[Any], dtype: np.dtype[Any]) -> None:
        """Write the elements.

        Raises:
            TrapError: the access leaves the memory, or the memory is read-only.
        """
        view = self._views.get((access.base, access.dims, dtype))
        if view is None:
            view = self._view(access, dtype)
        if not self.writable:
            raise TrapError(
                RANGE_TRAP[access.space], access.operand, f"{self.name} is read-only", access.base
            )
        view[...] = values
        if self.written is not None:
            box(self.written, access)[...] = True

    def _view(self, access: Access, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The elements, within the memory; kept for the next time."""
        self._check_bounds(access)
        view = elements(self.bytes, access, dtype)
        if len(self._views) < MAX_VIEWS:
            self._views[access.base, access.dims, dtype] = view
        return view

    def _check_bounds(self, access: Access) -> None:
        low, high = access.span()
        if low < 0 or high > self.bytes.size:
            verb = "writes" if access.write else "reads"
            raise TrapError(
                RANGE_TRAP[access.space],
                access.operand,
                f"{access.operand} {verb} bytes {low}..{high - 1} of {self.name}, which has "
                f"{self.bytes.size}",
                low,
            )
