"""The stages of compilation that a graph passes, and the operations that belong to each."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Stage(StrEnum):
    """What a graph consists of; the text is that of IR dumps."""

    NN = "nn"
    """Real numbers."""
    QDQ = "qdq"
    """Real numbers between Quantize and Dequantize, as prequantized models have them."""
    Q = "q"
    """Integers in the layout of the source, real numbers at the edges alone."""
    DEVICE = "device"
    """Integers in the device's layout."""
    STEP = "step"
    """A step of training: integers with exponents of run time, weights and optimizers in real numbers."""

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations of the stage, by name or by what stands before the dot."""
        return _OPERATIONS[self]

    @property
    def is_integer(self) -> bool:
        """Whether graphs compute integers, real numbers at their edges alone."""
        return self in (Stage.Q, Stage.DEVICE)


_OPERATIONS: Final[dict[Stage, tuple[str, ...]]] = {
    Stage.NN: ("", "nn"),
    Stage.QDQ: ("", "nn", "q.quantize", "q.dequantize"),
    Stage.Q: ("", "q"),
    Stage.DEVICE: ("", "q"),
    Stage.STEP: ("", "t"),
}
"""Nothing stands before the operations that belong to all."""
