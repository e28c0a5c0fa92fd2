"""Functions of one real number, a record each: meaning, parameters, names in ONNX and Keras, written form.

A function that is a few float32 operations takes them as ONNX Runtime does. Any other has two forms: one in
float64 for whole tensors, and one for the 256 entries of a table, correctly rounded by mpmath, so that no
table depends on a machine's libm.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from onnx import TensorProto

from compiler.ir.op import Array
from compiler.rules.exporting import MICROSOFT, OnnxWriter
from isa.support.records import Frozen, field

DIGITS: Final = 50
SELU: Final = (1.67326319217681884765625, 1.05070102214813232421875)
"""Alpha and gamma of Selu: the float32 values that ONNX and Keras have."""
Real = Callable[[Array, Sequence[Any]], Array]
"""(array, parameters) to an array, in float32 or in float64."""
Exact = Callable[[Any, Any, Sequence[Any]], Any]
"""(mpmath, number, parameters) to a number of mpmath."""


Writer = Callable[[OnnxWriter, str, str, Sequence[float]], str]
"""(writer, input, output, parameters) to the output."""


class Function(Frozen):
    """A function: float32 steps, or a wide form and an exact one, and what others call it.

    `parameters` are the names of its parameters, which are those of ONNX's attributes, with the values that
    ONNX takes where none is given. `onnx` is the operator of ONNX that it is; `keras` what Keras calls it,
    with the parameters that Keras takes. `write` says how it is written where that is not as the operator.
    """

    parameters: Mapping[str, float] = field(default_factory=dict[str, float])
    steps: Real | None = None
    wide: Real | None = None
    exact: Exact | None = None
    onnx: str = ""
    keras: Mapping[str, tuple[float, ...]] = field(default_factory=dict[str, tuple[float, ...]])
    write: Writer | None = None

    def in_float64(self, x: Array, parameters: Sequence[float]) -> Array:
        """float64 values of float64 numbers."""
        with np.errstate(all="ignore"):
            if self.wide is not None:
                return self.wide(x, parameters)
            assert self.steps is not None
            return self.steps(x, [np.float64(p) for p in parameters])

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


def _steps(onnx: str, function: Callable[[Array], Array], **named: Any) -> Function:
    """A function without parameters that numpy computes in float32 as ONNX Runtime does."""
    return Function(steps=lambda x, _: function(x), onnx=onnx, **named)


def _library(onnx: str, wide: Callable[[Array], Array], name: str, **named: Any) -> Function:
    """A function without parameters of numpy, and of mpmath under that name."""
    exact: Exact = lambda m, x, _: getattr(m, name)(x)  # noqa: E731  (as its neighbours)
    return Function(wide=lambda x, _: wide(x), exact=exact, onnx=onnx, **named)


def _plain(*names: str) -> dict[str, tuple[float, ...]]:
    """What Keras calls a function without parameters."""
    return dict.fromkeys(names, ())


def _as(op_type: str, domain: str = "") -> Writer:
    """Written as an operator that takes the function's parameters under no name."""
    return lambda w, x, output, _: w.add(op_type, [x], output, domain=domain)


def _write_clamp(w: OnnxWriter, x: str, output: str, bounds: Sequence[float]) -> str:
    limits = [w.initializer(np.array(p, np.float32), f"{output}_bound_{i}") for i, p in enumerate(bounds)]
    return w.add("Clip", [x, *limits], output)


def _write_scaled_sigmoid(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    """x * sigmoid(alpha * x)."""
    (alpha,) = parameters or (1.0,)
    return w.add("QuickGelu", [x], output, domain=MICROSOFT, alpha=alpha)


def _write_power(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    exponent = w.initializer(np.array(parameters[0], np.float32), f"{output}_exponent")
    return w.add("Pow", [x, exponent], output)


def _write_remainder(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    divisor = w.initializer(np.array(parameters[0], np.float32), f"{output}_divisor")
    return w.add("Mod", [x, divisor], output, fmod=1)


def _write_modulo(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    divisor = w.initializer(np.array(parameters[0], np.float32), f"{output}_divisor")
    whole = w.add("Floor", [w.add("Div", [x, divisor], f"{output}_ratio")], f"{output}_whole")
    return w.add("Sub", [x, w.add("Mul", [divisor, whole], f"{output}_below")], output)


def _write_trunc(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    del parameters
    size = w.add("Floor", [w.add("Abs", [x], f"{output}_abs")], f"{output}_size")
    return w.add("Mul", [w.add("Sign", [x], f"{output}_sign"), size], output)


def _write_mish(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    """x * tanh(softplus(x)): Mish is newer than the operator set that is written."""
    del parameters
    return w.add("Mul", [x, w.add("Tanh", [w.add("Softplus", [x], f"{output}_sp")], f"{output}_th")], output)


def _write_square(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    del parameters
    return w.add("Mul", [x, x], output)


def _write_inverse_root(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    epsilon = w.initializer(np.array(parameters[0], np.float32), f"{output}_epsilon")
    root = w.add("Sqrt", [w.add("Add", [x, epsilon], f"{output}_more")], f"{output}_root")
    return w.add("Reciprocal", [root], output)


def _compared(op_type: str, compare: Callable[..., Array], *, negated: bool = False) -> Function:
    """1 where a number compares so with the parameter, else 0."""

    def write(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
        limit = w.initializer(np.array(parameters[0], np.float32), f"{output}_limit")
        truth = w.add(op_type, [x, limit], f"{output}_truth")
        if negated:
            truth = w.add("Not", [truth], f"{output}_negated")
        return w.add("Cast", [truth], output, to=TensorProto.FLOAT)

    return Function({"limit": 0.0}, steps=lambda x, p: compare(x, p[0]).astype(np.float32), write=write)


FUNCTIONS: Final[dict[str, Function]] = {
    "identity": _steps("", lambda x: x),
    "clamp": Function(
        {"low": -math.inf, "high": math.inf},
        steps=lambda x, p: np.minimum(np.maximum(x, p[0]), p[1]),
        write=_write_clamp,
    ),
    "abs": _steps("Abs", np.abs),
    "neg": _steps("Neg", np.negative),
    "floor": _steps("Floor", np.floor),
    "ceil": _steps("Ceil", np.ceil),
    "round": _steps("Round", np.rint),
    "trunc": _steps("", lambda x: np.sign(x) * np.floor(np.abs(x)), write=_write_trunc),
    "remainder": Function({"divisor": 1.0}, steps=lambda x, p: np.fmod(x, p[0]), write=_write_remainder),
    "modulo": Function(
        {"divisor": 1.0}, steps=lambda x, p: x - p[0] * np.floor(x / p[0]), write=_write_modulo
    ),
    "sign": _steps("Sign", np.sign),
    "sqrt": _steps("Sqrt", np.sqrt),
    "square": _steps("", lambda x: x * x, write=_write_square),
    "inverse_root": Function(
        {"epsilon": 0.0}, steps=lambda x, p: _f(1) / np.sqrt(x + p[0]), write=_write_inverse_root
    ),
    "above": _compared("Greater", np.greater),
    "at_least": _compared("GreaterOrEqual", np.greater_equal),
    "below": _compared("Less", np.less),
    "at_most": _compared("LessOrEqual", np.less_equal),
    "equals": _compared("Equal", np.equal),
    "differs": _compared("Equal", np.not_equal, negated=True),
    "reciprocal": _steps("Reciprocal", lambda x: _f(1) / x),
    "sigmoid": Function(
        wide=lambda x, _: 1 / (1 + np.exp(-x)),
        exact=lambda m, x, _: 1 / (1 + m.exp(-x)),
        onnx="Sigmoid",
        keras=_plain("sigmoid"),
    ),
    "tanh": _library("Tanh", np.tanh, "tanh", keras=_plain("tanh")),
    "elu": Function(
        {"alpha": 1.0},
        wide=lambda x, p: np.where(x < 0, p[0] * np.expm1(x), x),
        exact=lambda m, x, p: p[0] * m.expm1(x) if x < 0 else x,
        onnx="Elu",
        keras={"elu": (1.0,)},
    ),
    "selu": Function(
        dict(zip(("alpha", "gamma"), SELU, strict=True)),
        wide=lambda x, p: p[1] * np.where(x < 0, p[0] * np.expm1(x), x),
        exact=lambda m, x, p: p[1] * (p[0] * m.expm1(x) if x < 0 else x),
        onnx="Selu",
        keras={"selu": SELU},
    ),
    "gelu": Function(
        wide=lambda x, _: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
        exact=lambda m, x, _: x * (1 + m.erf(x / m.sqrt(2))) / 2,
        keras=_plain("gelu"),
        write=_as("Gelu", MICROSOFT),
    ),
    "silu": Function(
        wide=lambda x, _: x / (1 + np.exp(-x)),
        exact=lambda m, x, _: x / (1 + m.exp(-x)),
        keras=_plain("silu", "swish"),
        write=_write_scaled_sigmoid,
    ),
    "hard_sigmoid": Function(
        {"alpha": 0.2, "beta": 0.5},
        steps=lambda x, p: _clip(p[0] * x + p[1], 0, 1),
        onnx="HardSigmoid",
        keras={"hard_sigmoid": (float(np.float32(1 / 6)), 0.5)},
    ),
    "hard_swish": _steps(
        "HardSwish",
        lambda x: x * _clip(x * _f(1 / 6) + _f(0.5), 0, 1),
        keras=_plain("hard_silu", "hard_swish"),
    ),
    "leaky_relu": Function(
        {"alpha": 0.01},
        steps=lambda x, p: np.where(x < 0, p[0] * x, x),
        onnx="LeakyRelu",
        keras={"leaky_relu": (float(np.float32(0.2)),)},
    ),
    "softplus": Function(
        wide=lambda x, _: np.logaddexp(x, 0.0),
        exact=lambda m, x, _: m.log1p(m.exp(x)),
        onnx="Softplus",
        keras=_plain("softplus"),
    ),
    "softsign": _steps("Softsign", lambda x: x * (_f(1) / (_f(1) + np.abs(x))), keras=_plain("softsign")),
    "exp": _library("Exp", np.exp, "exp", keras=_plain("exponential")),
    "mish": Function(
        wide=lambda x, _: x * np.tanh(np.logaddexp(x, 0.0)),
        exact=lambda m, x, _: x * m.tanh(m.log1p(m.exp(x))),
        onnx="Mish",
        keras=_plain("mish"),
        write=_write_mish,
    ),
    "thresholded_relu": Function(
        {"alpha": 1.0}, steps=lambda x, p: np.where(x > p[0], x, _f(0)), onnx="ThresholdedRelu"
    ),
    "shrink": Function(
        {"lambd": 0.5, "bias": 0.0},
        steps=lambda x, p: np.where(x < -p[0], x + p[1], np.where(x > p[0], x - p[1], _f(0))),
        onnx="Shrink",
    ),
    "swish": Function(
        {"alpha": 1.0},
        wide=lambda x, p: x / (1 + np.exp(-p[0] * x)),
        exact=lambda m, x, p: x / (1 + m.exp(-p[0] * x)),
        onnx="Swish",
        write=_write_scaled_sigmoid,
    ),
    "log": Function(
        wide=lambda x, _: np.log(x),
        exact=lambda m, x, _: -m.inf if x == 0 else m.log(x),
        onnx="Log",
    ),
    "celu": Function(
        {"alpha": 1.0},
        wide=lambda x, p: np.where(x < 0, p[0] * np.expm1(x / p[0]), x),
        exact=lambda m, x, p: p[0] * m.expm1(x / p[0]) if x < 0 else x,
        onnx="Celu",
    ),
    "erf": _library("Erf", _erf, "erf"),
    "gelu_tanh": Function(
        wide=lambda x, _: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        exact=lambda m, x, _: x * (1 + m.tanh(m.sqrt(2 / m.pi) * (x + m.mpf("0.044715") * x**3))) / 2,
        write=_as("FastGelu", MICROSOFT),
    ),
    "power": Function(
        {"exponent": 1.0}, wide=lambda x, p: np.power(x, p[0]), exact=_power, write=_write_power
    ),
    "sin": _library("Sin", np.sin, "sin"),
    "cos": _library("Cos", np.cos, "cos"),
    "tan": _library("Tan", np.tan, "tan"),
    "asin": _library("Asin", np.arcsin, "asin"),
    "acos": _library("Acos", np.arccos, "acos"),
    "atan": _library("Atan", np.arctan, "atan"),
    "sinh": _library("Sinh", np.sinh, "sinh"),
    "cosh": _library("Cosh", np.cosh, "cosh"),
    "asinh": _library("Asinh", np.arcsinh, "asinh"),
    "acosh": _library("Acosh", np.arccosh, "acosh"),
    "atanh": _library("Atanh", np.arctanh, "atanh"),
}
BY_ONNX: Final = {function.onnx: name for name, function in FUNCTIONS.items() if function.onnx}
"""Functions by the operator of ONNX that they are."""
BY_KERAS: Final = {
    called: (name, parameters)
    for name, function in FUNCTIONS.items()
    for called, parameters in function.keras.items()
}
"""Functions, with their parameters, by what Keras calls them."""


def write_function(w: OnnxWriter, x: str, output: str, name: str, parameters: Sequence[float]) -> str:
    """Write a function of a tensor of reals; gives back its output."""
    function = FUNCTIONS[name]
    if function.write is not None:
        return function.write(w, x, output, parameters)
    attributes: dict[str, Any] = dict(zip(function.parameters, parameters, strict=True))
    return w.add(function.onnx, [x], output, **attributes)
