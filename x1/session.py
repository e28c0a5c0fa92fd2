"""The session of the public API: runs files, and binaries that `x1.compile` gave."""

from __future__ import annotations

from pathlib import Path

from isa.program import Program
from isa.target import Target
from runtime.session import ProgramSession
from x1.binary import Binary, as_binary


class Session(ProgramSession):
    """Runs a binary as ONNX Runtime runs a model; see `runtime.session`."""

    def __init__(
        self,
        binary: str | Path | bytes | Program | Binary,
        *,
        target: Target | None = None,
        poison: bool = False,
    ) -> None:
        programs = binary if isinstance(binary, Program) else as_binary(binary).executable.devices()
        super().__init__(programs, target=target, poison=poison)
