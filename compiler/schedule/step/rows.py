"""How a tensor of the state lies in its region: rows of as many float32 as the array has columns.

They are the rows in which `wgrad` sums gradients, and, a byte for a word, in which `conv` reads weights.
Lanes beyond a tensor's channels are 0, and stay so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.ir.types import Shape
from compiler.schedule.tile_graph import Buffer, Memory, aligned
from isa.support.records import Frozen, replace

WORD = 4
"""Bytes of an element."""
GROUPED = 5
"""Dimensions of the kernel of a grouped convolution: the groups apart."""
LONGEST_TURNED = 1 << 15
"""Rows of a matrix that lies turned at most: the pitch of its codes is an operand of `vreq`."""


class Layout(StrEnum):
    """What the lanes of a row are."""

    KERNEL = "kernel"
    """Output channels; a row for each group of them, tap and input channel."""
    MATRIX = "matrix"
    """Columns; a row for each group of them and row of the matrix."""
    TURNED = "turned"
    """Rows of the matrix; a row for each group of them and column: where there are few columns."""
    VECTOR = "vector"
    """Elements."""


class StateRows(Frozen):
    """The rows of a tensor on an array with so many columns."""

    layout: Layout
    shape: Shape
    cols: int

    @staticmethod
    def of(shape: Shape, cols: int) -> StateRows:
        """The layout of a parameter: ([groups, ]out, in, kh, kw), (rows, columns) or (elements)."""
        if len(shape) in (4, GROUPED):
            return StateRows(Layout.KERNEL, shape, cols)
        if len(shape) == 2:
            turned = 2 * shape[1] <= cols and shape[1] < shape[0] <= LONGEST_TURNED
            return StateRows(Layout.TURNED if turned else Layout.MATRIX, shape, cols)
        return StateRows(Layout.VECTOR, (math.prod(shape),), cols)

    @property
    def parts(self) -> list[StateRows]:
        """Of a grouped kernel the rows of every group, which follow one another."""
        return [replace(self, shape=self.shape[1:])] * self.shape[0] if len(self.shape) == GROUPED else []

    @property
    def lanes(self) -> int:
        """What lies along the lanes."""
        return {Layout.KERNEL: 0, Layout.MATRIX: 1, Layout.TURNED: 0, Layout.VECTOR: 0}[self.layout]

    @property
    def groups(self) -> int:
        """Groups of lanes."""
        return -(-self.shape[self.lanes] // self.cols)

    @property
    def each(self) -> int:
        """Rows of a group."""
        return math.prod(self.shape) // self.shape[self.lanes]

    @property
    def count(self) -> int:
        """All rows."""
        return sum(p.count for p in self.parts) or self.groups * self.each

    @property
    def ragged(self) -> bool:
        """Whether some lanes are beyond the tensor."""
        return self.shape[self.lanes] % self.cols > 0

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return self.count * self.cols * WORD

    def pack(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """The rows of a tensor."""
        if self.parts:
            kernels = zip(self.parts, values.reshape(self.shape), strict=True)
            return np.concatenate([part.pack(kernel) for part, kernel in kernels])
        extent = self.shape[self.lanes]
        first = np.moveaxis(values.reshape(self.shape), self._order(), range(len(self.shape)))
        padded = np.zeros((self.groups * self.cols, self.each), np.float32)
        padded[:extent] = first.reshape(extent, self.each)
        split = padded.reshape(self.groups, self.cols, self.each).transpose(0, 2, 1)
        return np.ascontiguousarray(split).reshape(self.count, self.cols)

    def unpack(self, rows: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
        """The tensor of rows."""
        if self.parts:
            split = rows.reshape(len(self.parts), -1, self.cols)
            kernels = [p.unpack(r, p.shape) for p, r in zip(self.parts, split, strict=True)]
            return np.stack(kernels).reshape(shape)
        extent, order = self.shape[self.lanes], self._order()
        split = rows.reshape(self.groups, self.each, self.cols).transpose(0, 2, 1)
        flat = split.reshape(self.groups * self.cols, self.each)[:extent]
        first = flat.reshape([self.shape[i] for i in order])
        return np.ascontiguousarray(np.moveaxis(first, range(len(order)), order)).reshape(shape)

    def _order(self) -> list[int]:
        """The axes, that of the lanes first, then those of the rows."""
        return (
            [0, 2, 3, 1]
            if self.layout is Layout.KERNEL
            else ([1, 0] if self.lanes else [*range(len(self.shape))])
        )


class StateBuffers(Frozen):
    """The state region: what lies where, the same for every stream of a binary."""

    buffers: Mapping[str, Buffer]
    layouts: Mapping[str, StateRows]
    numbers: Mapping[str, int]
    """Where each number lies in the first buffer, in bytes."""
    size: int

    @staticmethod
    def of(tensors: Sequence[tuple[str, Shape]], cols: int) -> StateBuffers:
        """Numbers first, then the rows of every tensor; by names and shapes."""
        numbers = {name: i * WORD for i, (name, _) in enumerate(t for t in tensors if not t[1])}
        buffers = {"": Buffer("numbers", Memory.STATE, max(len(numbers) * WORD, WORD), address=0)}
        layouts: dict[str, StateRows] = {}
        end = aligned(buffers[""].size)
        for name, shape in tensors:
            if shape:
                layouts[name] = StateRows.of(shape, cols)
                size = layouts[name].bytes
                buffers[name] = Buffer(name, Memory.STATE, size, address=end)
                end = aligned(end + size)
        return StateBuffers(buffers, layouts, numbers, end)
