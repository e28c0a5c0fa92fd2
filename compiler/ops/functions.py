"""Functions of one real number: in float32 steps as ONNX Runtime takes them, or wide and rounded once.

A function that is not a few float32 operations has two forms: one in float64 for whole tensors, and one
for the 256 entries of a table, correctly rounded by mpmath, so that no table depends on a machine's libm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from compiler.ir.op import Array
from isa.support.records import Frozen

DIGITS: Final = 50
Real = Callable[[Array, Sequence[Any]], Array]
"""(array, parameters) to an array, in float32 or in float64."""
Exact = Callable[[Any, Any, Sequence[Any]], Any]
"""(mpmath, number, parameters) to a number of mpmath."""


class Function(Frozen):
    """A function: float32 steps, or a wide form and an exact one; the names of its parameters."""

    parameters: tuple[str, ...] = ()
    steps: Real | None = None
    wide: Real | None = None
    exact: Exact | None = None

    def real(self, x: Array, parameters: Sequence[float]) -> Array:
        """float32 values of a whole tensor; in the wide form off by one unit in the last place at most."""
        with np.errstate(all="ignore"):
            if self.steps is not None:
                return self.steps(x, [np.float32(p) for p in parameters])
            assert self.wide is not None
            return self.wide(x.astype(np.float64), parameters).astype(np.float32)

    def rounded(self, x: Array, parameters: Sequence[float]) -> Array:
        """float32 values; rounded to float64, then to float32, where the function is no float32 steps."""
        if self.steps is not None or self.exact is None:
            return self.real(x, parameters)
        values = np.array([_value(self.exact, float(v), parameters) for v in x], np.float64)
        with np.errstate(over="ignore"):
            return values.astype(np.float32)


def _value(exact: Exact, x: float, parameters: Sequence[float]) -> float:
    import mpmath as library  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]  (tables only)

    m: Any = library
    with m.workdps(DIGITS):
        try:
            value: Any = exact(m, m.mpf(x), [m.mpf(p) for p in parameters])
        except (ZeroDivisionError, ValueError):
            return math.nan
        return math.nan if isinstance(value, m.mpc) else float(value)


def _f(value: float) -> np.float32:
    return np.float32(value)


def _clip(x: Array, low: float, high: float) -> Array:
    return np.minimum(np.maximum(x, _f(low)), _f(high))


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _power(m: Any, x: Any, p: Sequence[Any]) -> Any:
    if x == 0 and p[0] < 0:
        return m.inf
    return m.power(x, p[0])


def _steps(function: Callable[[Array], Array]) -> Function:
    """A function without parameters that numpy computes in float32 as ONNX Runtime does."""
    return Function(steps=lambda x, _: function(x))


def _library(wide: Callable[[Array], Array], name: str) -> Function:
    """A function without parameters of numpy, and of mpmath under that name."""
    return Function(wide=lambda x, _: wide(x), exact=lambda m, x, _: getattr(m, name)(x))


FUNCTIONS: Final[dict[str, Function]] = {
    "identity": _steps(lambda x: x),
    "clamp": Function(("low", "high"), steps=lambda x, p: np.minimum(np.maximum(x, p[0]), p[1])),
    "abs": _steps(np.abs),
    "neg": _steps(np.negative),
    "floor": _steps(np.floor),
    "ceil": _steps(np.ceil),
    "round": _steps(np.rint),
    "sign": _steps(np.sign),
    "sqrt": _steps(np.sqrt),
    "reciprocal": _steps(lambda x: _f(1) / x),
    "leaky_relu": Function(("alpha",), steps=lambda x, p: np.where(x < 0, p[0] * x, x)),
    "thresholded_relu": Function(("alpha",), steps=lambda x, p: np.where(x > p[0], x, _f(0))),
    "hard_sigmoid": Function(("alpha", "beta"), steps=lambda x, p: _clip(p[0] * x + p[1], 0, 1)),
    "hard_swish": _steps(lambda x: x * _clip(x * _f(1 / 6) + _f(0.5), 0, 1)),
    "softsign": _steps(lambda x: x * (_f(1) / (_f(1) + np.abs(x)))),
    "shrink": Function(
        ("lambd", "bias"),
        steps=lambda x, p: np.where(x < -p[0], x + p[1], np.where(x > p[0], x - p[1], _f(0))),
    ),
    "sigmoid": Function(wide=lambda x, _: 1 / (1 + np.exp(-x)), exact=lambda m, x, _: 1 / (1 + m.exp(-x))),
    "silu": Function(wide=lambda x, _: x / (1 + np.exp(-x)), exact=lambda m, x, _: x / (1 + m.exp(-x))),
    "swish": Function(
        ("alpha",),
        wide=lambda x, p: x / (1 + np.exp(-p[0] * x)),
        exact=lambda m, x, p: x / (1 + m.exp(-p[0] * x)),
    ),
    "tanh": _library(np.tanh, "tanh"),
    "exp": _library(np.exp, "exp"),
    "log": Function(wide=lambda x, _: np.log(x), exact=lambda m, x, _: -m.inf if x == 0 else m.log(x)),
    "elu": Function(
        ("alpha",),
        wide=lambda x, p: np.where(x < 0, p[0] * np.expm1(x), x),
        exact=lambda m, x, p: p[0] * m.expm1(x) if x < 0 else x,
    ),
    "selu": Function(
        ("alpha", "gamma"),
        wide=lambda x, p: p[1] * np.where(x < 0, p[0] * np.expm1(x), x),
        exact=lambda m, x, p: p[1] * (p[0] * m.expm1(x) if x < 0 else x),
    ),
    "celu": Function(
        ("alpha",),
        wide=lambda x, p: np.where(x < 0, p[0] * np.expm1(x / p[0]), x),
        exact=lambda m, x, p: p[0] * m.expm1(x / p[0]) if x < 0 else x,
    ),
    "softplus": Function(wide=lambda x, _: np.logaddexp(x, 0.0), exact=lambda m, x, _: m.log1p(m.exp(x))),
    "mish": Function(
        wide=lambda x, _: x * np.tanh(np.logaddexp(x, 0.0)),
        exact=lambda m, x, _: x * m.tanh(m.log1p(m.exp(x))),
    ),
    "erf": _library(_erf, "erf"),
    "gelu": Function(
        wide=lambda x, _: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
        exact=lambda m, x, _: x * (1 + m.erf(x / m.sqrt(2))) / 2,
    ),
    "gelu_tanh": Function(
        wide=lambda x, _: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        exact=lambda m, x, _: x * (1 + m.tanh(m.sqrt(2 / m.pi) * (x + m.mpf("0.044715") * x**3))) / 2,
    ),
    "power": Function(("exponent",), wide=lambda x, p: np.power(x, p[0]), exact=_power),
    "sin": _library(np.sin, "sin"),
    "cos": _library(np.cos, "cos"),
    "tan": _library(np.tan, "tan"),
    "asin": _library(np.arcsin, "asin"),
    "acos": _library(np.arccos, "acos"),
    "atan": _library(np.arctan, "atan"),
    "sinh": _library(np.sinh, "sinh"),
    "cosh": _library(np.cosh, "cosh"),
    "asinh": _library(np.arcsinh, "asinh"),
    "acosh": _library(np.arccosh, "acosh"),
    "atanh": _library(np.arctanh, "atanh"),
}
