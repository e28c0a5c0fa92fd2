"""The samples that ship with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from isa.support.diagnostics import Diagnostic, UsageError


def sample_folder(name: str) -> Path:
    """The folder of a sample: inside an installed package, or beside it in a checkout.

    Raises:
        UsageError: it is in neither place.
    """
    package = Path(str(resources.files("x1")))
    for folder in (package / "samples" / name, package.parent / "samples" / name):
        if folder.is_dir():
            return folder
    raise UsageError(
        Diagnostic("sample.missing", f"the sample '{name}' is not installed", remedy="install x1 again")
    )
