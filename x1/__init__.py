"""X1: a deep-learning compiler for a virtual ASIC.

>>> import x1
>>> binary = x1.compile("mnist.onnx", calibrate="digits.npz")   # doctest: +SKIP
>>> x1.Session(binary).run(None, {"input": digit})              # doctest: +SKIP
"""

from __future__ import annotations

import importlib.util
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from x1.version import __version__

if TYPE_CHECKING:
    from isa.support.diagnostics import Diagnostic, X1Error
    from x1.api import Binary, Model, check, compile, profile, quantize  # noqa: A004
    from x1.lab.evaluation import evaluate
    from x1.lab.verification import verify
    from x1.session import Session
    from x1.training import train

__all__ = [
    "Binary",
    "Diagnostic",
    "Model",
    "Session",
    "X1Error",
    "__version__",
    "check",
    "compile",
    "evaluate",
    "profile",
    "quantize",
    "train",
    "verify",
]

KERAS = "keras"
"""The part that is a package of its own: loaded when it is first used, like the others."""
_HOMES = {
    "Diagnostic": "isa.support.diagnostics",
    "X1Error": "isa.support.diagnostics",
    "Session": "x1.session",
    "Binary": "x1.api",
    "Model": "x1.api",
    "check": "x1.api",
    "profile": "x1.api",
    "compile": "x1.api",
    "quantize": "x1.api",
    "evaluate": "x1.lab.evaluation",
    "train": "x1.training",
    "verify": "x1.lab.verification",
}


def _require_own_packages() -> None:
    """The packages compiler, isa and runtime must be ours: other packages have these names too."""
    home = Path(__file__).resolve().parent.parent
    for name in ("compiler", "isa", "runtime"):
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve().parent if spec is not None and spec.origin else None
        if found != home / name:
            what = f"'{found}' shadows it" if found else "it is missing"
            raise ImportError(
                f"x1 needs its own package '{name}' at {home / name}, but {what}; remove the other from "
                "sys.path or start Python from another folder"
            )


_require_own_packages()


def __dir__() -> list[str]:
    """What the package is for."""
    return sorted((*__all__, KERAS))


def __getattr__(name: str) -> Any:
    """Load a part of the API when it is first used, so that `x1 --version` starts quickly."""
    if name == KERAS:
        return import_module(f"x1.{KERAS}")
    if name not in _HOMES:
        raise AttributeError(f"module 'x1' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
