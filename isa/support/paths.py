"""Paths that a user or a file names: any text at all, so that asking about them must not fail."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from isa.support.diagnostics import Diagnostic, UsageError

MAX_FILE: Final = 1 << 32


def is_file(path: Path) -> bool:
    """Whether there is such a file; names that no file can have are answered with no."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def resolved(path: Path) -> Path | None:
    """The real place of a path, symbolic links followed; None where no file can be called so."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):
        return None


def require_file(path: str | Path) -> None:
    """Make sure that the user named a file.

    Raises:
        UsageError: there is none, or it is a folder.
    """
    if is_folder(Path(path)):
        raise UsageError(Diagnostic("file.folder", f"'{path}' is a folder", allowed="a file"))
    if not is_file(Path(path)):
        raise UsageError(Diagnostic("file.missing", f"there is no file '{path}'"))


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; names that none can have are answered with no."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def read_file(path: str | Path) -> bytes:
    """The bytes of a file that the user named.

    Raises:
        UsageError: there is no such file, it is too large, or it cannot be read.
    """
    place = Path(path)
    require_file(place)
    if place.stat().st_size > MAX_FILE:
        raise UsageError(Diagnostic("file.size", f"'{path}' is too large", allowed=f"{MAX_FILE} bytes"))
    try:
        return place.read_bytes()
    except OSError as error:
        raise UsageError(Diagnostic("file.read", f"cannot read '{path}': {error.strerror}")) from None
