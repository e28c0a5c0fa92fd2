"""Model files that are text: read whole, with a limit on their size."""

from __future__ import annotations

from pathlib import Path

from compiler.errors import CompileError
from isa.support.diagnostics import Diagnostic
from isa.support.locations import FileLoc
from isa.support.paths import read_file


def read_text(path: Path, limit: int, kind: str) -> str:
    """The UTF-8 text of a file; `kind` begins the codes of the diagnostics.

    Raises:
        UsageError: it cannot be read.
        CompileError: more than `limit` bytes, or not UTF-8.
    """
    loc = FileLoc(str(path))
    if path.stat().st_size > limit:
        raise CompileError(Diagnostic(f"{kind}.size", "the text is too large", loc, f"{limit} bytes"))
    try:
        return read_file(path).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise CompileError(Diagnostic(f"{kind}.encoding", "the file is not UTF-8 text", loc)) from None
