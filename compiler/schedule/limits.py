"""What one instruction can express, and what a memory can hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from compiler.errors import CompileError, FitError
from compiler.ir.graph import Node
from compiler.schedule.builder import Span
from isa.diagnostics import Diagnostic, Findings
from isa.spec import Instruction, greatest

WINDOW_LIMITS: Final = (
    ("kernel", ("kh", "kw")),
    ("strides", ("sh", "sw")),
    ("dilations", ("dh", "dw")),
    ("pads", ("pt", "pl")),
)
"""What a model calls the geometry of a window, and the operands that hold it."""


@dataclass(frozen=True, slots=True)
class Window:
    """The geometry of a sliding window along one dimension."""

    extent: int
    taps: int
    stride: int
    dilation: int
    pad: int

    def valid(self, out: Span, taps: Span) -> tuple[Span, int]:
        """The input that these outputs read through these taps, and the padding before it."""
        first = out.start * self.stride + taps.start * self.dilation - self.pad
        last = (out.stop - 1) * self.stride + (taps.stop - 1) * self.dilation - self.pad
        return Span(max(first, 0), min(last + 1, self.extent)), max(-first, 0)

    def reach(self, outputs: int, taps: int) -> int:
        """The most input that so many outputs and taps read."""
        return min((outputs - 1) * self.stride + (taps - 1) * self.dilation + 1, self.extent)


def require_expressible(node: Node, kind: type[Instruction], **geometry: Sequence[int]) -> None:
    """Refuse a window that one instruction cannot express.

    Raises:
        CompileError: kernel, strides, dilations or leading pads beyond the operands; all of them.
    """
    findings = Findings(CompileError)
    for name, operands in WINDOW_LIMITS:
        for value, operand in zip(geometry.get(name, ()), operands, strict=False):
            most = greatest(kind, operand)
            if value > most:
                findings.add(
                    "model.unsupported",
                    f"{name}={list(geometry[name])} of '{node.name}' is not supported",
                    node.loc,
                    allowed=f"at most {most}",
                )
                break
    findings.raise_if_any()


def does_not_fit(node: Node, needed: int, budget: int) -> FitError:
    """The error of a layer whose smallest tile needs more than there is."""
    return FitError(
        Diagnostic(
            "fit.scratchpad",
            f"the smallest tile of '{node.name}' needs {needed} bytes of the "
            f"scratchpad, {needed - budget} more than the {budget} available",
            node.loc,
            remedy="choose a target with a larger spm.bytes",
        )
    )
