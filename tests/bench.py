"""A bench for single instructions: place bytes, execute, read bytes back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.instructions.control import Halt
from isa.program import Program
from isa.spec import Instruction, Space
from isa.target import Target, load_target
from runtime.machine import Machine


class Bench:
    """A machine whose memories the test fills."""

    def __init__(self, *instrs: Instruction, target: Target | None = None, poison: bool = False) -> None:
        self.machine = Machine(Program(target or load_target("edge64"), (*instrs, Halt())), poison=poison)

    def put(self, space: Space, offset: int, values: NDArray[Any] | bytes) -> Bench:
        """Place bytes in a memory on the chip."""
        raw = values if isinstance(values, bytes) else np.ascontiguousarray(values).tobytes()
        self.machine.chip[space].preload(raw, offset)
        return self

    def run(self) -> Bench:
        """Execute to the halt."""
        self.machine.run()
        return self

    def get(self, space: Space, offset: int, shape: tuple[int, ...], dtype: Any = np.int8) -> NDArray[Any]:
        """Bytes of a memory on the chip, as an array."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.machine.chip[space].bytes[offset : offset + count].view(dtype).reshape(shape).copy()
