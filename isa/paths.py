"""Paths that a user or a file names: any text at all, so that asking about them must not fail."""

from __future__ import annotations

from pathlib import Path


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
