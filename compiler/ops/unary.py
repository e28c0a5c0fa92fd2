"""Functions of one value: ONNX Sigmoid, HardSwish, Gelu and the like; tables of 256 codes when quantized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np

from compiler.ir.graph import Node
from compiler.ir.op import Array, Op, op
from compiler.ir.types import DType, TensorType
from compiler.ops.activation import FUNCTION_WRITERS, QTable, every_real, require_function
from compiler.ops.functions import FUNCTIONS
from compiler.ops.quantize_linear import QLinear, qlinear
from compiler.quantize.methods import constant_parameters
from compiler.rules.exporting import MICROSOFT, OnnxWriter
from compiler.rules.importing import LayerCall, OnnxNode, layer, onnx_operator
from compiler.rules.quantizing import Quantizer, quantization_rule


@op("nn.unary", "x:f32")
class Unary(Op):
    """A function of every element."""

    function: str
    parameters: tuple[float, ...] = ()

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        require_function(self.function, self.parameters)
        return TensorType(DType.F32, types[0].shape)

    def evaluate(self, args: Sequence[Array], types: Sequence[TensorType], out: TensorType) -> Array:
        return FUNCTIONS[self.function].real(args[0], self.parameters)


SIMPLE: Final = {
    "Abs": "abs",
    "Neg": "neg",
    "Floor": "floor",
    "Ceil": "ceil",
    "Round": "round",
    "Sign": "sign",
    "Sqrt": "sqrt",
    "Reciprocal": "reciprocal",
    "Softsign": "softsign",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
    "Exp": "exp",
    "Log": "log",
    "Softplus": "softplus",
    "Mish": "mish",
    "Erf": "erf",
    "Sin": "sin",
    "Cos": "cos",
    "Tan": "tan",
    "Asin": "asin",
    "Acos": "acos",
    "Atan": "atan",
    "Sinh": "sinh",
    "Cosh": "cosh",
    "Asinh": "asinh",
    "Acosh": "acosh",
    "Atanh": "atanh",
    "HardSwish": "hard_swish",
}
"""Operators without parameters, and their functions."""
WITH_PARAMETERS: Final[dict[str, tuple[str, dict[str, float]]]] = {
    "LeakyRelu": ("leaky_relu", {"alpha": 0.01}),
    "ThresholdedRelu": ("thresholded_relu", {"alpha": 1.0}),
    "HardSigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "Elu": ("elu", {"alpha": 1.0}),
    "Selu": ("selu", {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}),
    "Celu": ("celu", {"alpha": 1.0}),
    "Shrink": ("shrink", {"lambd": 0.5, "bias": 0.0}),
    "Swish": ("swish", {"alpha": 1.0}),
}
"""Operators with parameters: the function, and the parameters' values where none is given."""


@onnx_operator(*SIMPLE)
def import_simple(n: OnnxNode) -> Node:
    """A function without parameters."""
    return n.add(Unary(SIMPLE[n.op_type]), n.operand(0))


@onnx_operator(*WITH_PARAMETERS)
def import_with_parameters(n: OnnxNode) -> Node:
    """A function whose parameters are attributes."""
    function, defaults = WITH_PARAMETERS[n.op_type]
    values = tuple(float(np.float32(n.real(name, value))) for name, value in defaults.items())
    if function == "celu" and values[0] == 0:
        n.fail("alpha=0 is not allowed", "another number")
    return n.add(Unary(function, values), n.operand(0))


@onnx_operator("Gelu")
def import_gelu(n: OnnxNode) -> Node:
    """Exact, or approximated by tanh."""
    mode = n.text("approximate", "none")
    if mode not in ("none", "tanh"):
        n.fail(f"approximate={mode} is not known", "none, tanh")
    return n.add(Unary("gelu" if mode == "none" else "gelu_tanh"), n.operand(0))


qlinear("QLinearSigmoid", QLinear("Sigmoid", [(0, 1, 2)], (3, 4)), MICROSOFT)
qlinear("QLinearLeakyRelu", QLinear("LeakyRelu", [(0, 1, 2)], (3, 4)), MICROSOFT)


@layer("ELU", "alpha")
def elu_layer(call: LayerCall) -> Node:
    """ELU(alpha=1.0)."""
    alpha = call.take("alpha", 1.0, (int, float), "a number")
    call.done()
    return call.add(Unary("elu", (float(np.float32(alpha)),)), call.value())


@layer("LeakyReLU", "negative_slope")
def leaky_relu_layer(call: LayerCall) -> Node:
    """LeakyReLU(negative_slope=0.3)."""
    slope = call.take("negative_slope", 0.3, (int, float), "a number")
    call.done()
    return call.add(Unary("leaky_relu", (float(np.float32(slope)),)), call.value())


@quantization_rule(Unary)
def quantize_unary(q: Quantizer, node: Node, inputs: list[Node]) -> Node:
    """A table; where nothing says how the result is quantized, by the range that it has on all 256 codes."""
    operation, (x,) = node.op, inputs
    assert isinstance(operation, Unary)
    with np.errstate(all="ignore"):
        found = FUNCTIONS[operation.function].real(every_real(x.quant), operation.parameters)
    reach = constant_parameters(found) if np.isfinite(found).all() else None
    return q.add(QTable(operation.function, operation.parameters), inputs, node, q.chosen(node, reach))


def _writer(op_type: str, names: Sequence[str]) -> Callable[[OnnxWriter, str, str, Sequence[float]], str]:
    def write(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
        attributes: dict[str, Any] = dict(zip(names, parameters, strict=True))
        return w.add(op_type, [x], output, **attributes)

    return write


for _op_type, _function in SIMPLE.items():
    FUNCTION_WRITERS[_function] = _writer(_op_type, ())
for _op_type, (_function, _defaults) in WITH_PARAMETERS.items():
    FUNCTION_WRITERS[_function] = _writer(_op_type, tuple(_defaults))


def _write_gelu(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    del parameters
    return w.add("Gelu", [x], output, domain=MICROSOFT)


def _write_gelu_tanh(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    del parameters
    return w.add("FastGelu", [x], output, domain=MICROSOFT)


def _write_scaled_sigmoid(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    """x * sigmoid(alpha * x)."""
    (alpha,) = parameters or (1.0,)
    return w.add("QuickGelu", [x], output, domain=MICROSOFT, alpha=alpha)


def _write_power(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    exponent = w.initializer(np.array(parameters[0], np.float32), f"{output}_exponent")
    return w.add("Pow", [x, exponent], output)


def _write_mish(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    """x * tanh(softplus(x)): Mish is newer than the operator set that is written."""
    del parameters
    return w.add("Mul", [x, w.add("Tanh", [w.add("Softplus", [x], f"{output}_sp")], f"{output}_th")], output)


def _write_hard_swish(w: OnnxWriter, x: str, output: str, parameters: Sequence[float]) -> str:
    del parameters
    return w.add("HardSwish", [x], output)


FUNCTION_WRITERS.update(
    {
        "gelu": _write_gelu,
        "gelu_tanh": _write_gelu_tanh,
        "silu": _write_scaled_sigmoid,
        "swish": _write_scaled_sigmoid,
        "power": _write_power,
        "mish": _write_mish,
        "hard_swish": _write_hard_swish,
    }
)
