"""The session of the public API: runs files, and binaries that `x1.compile` gave."""

from __future__ import annotations

from pathlib import Path

from isa.program import Program
from isa.target import Target
from runtime.session import ProgramSession
from x1.api import Binary


class Session(ProgramSession):
    """Runs a binary as ONNX Runtime runs a model; see `runtime.session`."""

    def __init__(
        self,
        binary: str | Path | bytes | Program | Binary,
        *,
        target: Target | None = None,
        poison: bool = False,
    ) -> None:
        super().__init__(
            binary.program if isinstance(binary, Binary) else binary, target=target, poison=poison
        )
