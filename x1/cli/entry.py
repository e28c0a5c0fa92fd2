"""The entry point of the command line: it imports the standard library alone, and can be interrupted."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

INTERRUPTED = 130
"""As `isa.support.diagnostics.ExitCode` has it, which is not imported yet."""


def entry() -> None:
    """The console script: an interrupt while the tool is being loaded ends it as one later does."""
    before = signal.signal(signal.SIGINT, _end)
    import x1.cli.result  # noqa: PLC0415, F401  # pyright: ignore[reportUnusedImport]
    from x1.cli.main import run  # noqa: PLC0415

    try:
        signal.signal(signal.SIGINT, before)
        run(sys.argv[1:])
    except KeyboardInterrupt:  # between the commands, which end so themselves, and here
        _end(signal.SIGINT, None)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    del number, frame
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)
