"""What one instruction can express, and what a memory can hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from compiler.errors import CompileError, FitError
from compiler.ir.graph import Node
from isa.spec import Instruction, greatest
from isa.support.diagnostics import Diagnostic, Findings

WINDOW_LIMITS: Final = (
    ("kernel", ("kh", "kw")),
    ("strides", ("sh", "sw")),
    ("dilations", ("dh", "dw")),
    ("pads", ("pt", "pl")),
)
"""What a model calls the geometry of a window, and the operands that hold it."""


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
    """The error of a layer whose smallest tile needs more than there is, or is beyond every instruction."""
    if needed <= budget:
        extents = " x ".join(map(str, node.inputs[0].shape if node.inputs else node.shape))
        message = f"no instruction can express a tile of '{node.name}' on {extents}"
        return FitError(
            Diagnostic(
                "fit.instruction", message, node.loc, "extents and pitches within the operands of docs/isa"
            )
        )
    return FitError(
        Diagnostic(
            "fit.scratchpad",
            f"the smallest tile of '{node.name}' needs {needed} bytes of the "
            f"scratchpad, {needed - budget} more than the {budget} available",
            node.loc,
            remedy="choose a target with a larger spm.bytes",
        )
    )
