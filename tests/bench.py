"""A bench for single instructions: place bytes, execute, read bytes back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.instructions.control import Halt
from isa.memory_map import Space
from isa.program import Program
from isa.spec import Instruction
from isa.target import Target, load_target
from runtime.executors.executor import Executor
from runtime.executors.interleaved import InterleavedExecutor
from runtime.executors.reference import ReferenceExecutor
from runtime.state import CoreState


def execute(state: CoreState) -> None:
    """Run in program order to the halt."""
    ReferenceExecutor().run([state])


def executor(seed: int | None) -> Executor:
    """What executes in program order, or in an interleaving that a seed chooses."""
    return ReferenceExecutor() if seed is None else InterleavedExecutor(seed)


class Bench:
    """A core whose memories the test fills."""

    def __init__(self, *instrs: Instruction, target: Target | None = None, poison: bool = False) -> None:
        self.state = CoreState(Program(target or load_target("edge64"), (*instrs, Halt())), poison=poison)

    def put(self, space: Space, offset: int, values: NDArray[Any] | bytes) -> Bench:
        """Place bytes in a memory on the chip."""
        raw = values if isinstance(values, bytes) else np.ascontiguousarray(values).tobytes()
        self.state.chip[space].preload(raw, offset)
        return self

    def run(self) -> Bench:
        """Execute to the halt."""
        execute(self.state)
        return self

    def get(self, space: Space, offset: int, shape: tuple[int, ...], dtype: Any = np.int8) -> NDArray[Any]:
        """Bytes of a memory on the chip, as an array."""
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return self.state.chip[space].bytes[offset : offset + count].view(dtype).reshape(shape).copy()
