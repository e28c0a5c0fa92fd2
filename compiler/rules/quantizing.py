"""What the quantization rules of the operations see; a rule stands beside its operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from compiler.errors import Unsupported
from compiler.ir.graph import Graph, Node, SourceView
from compiler.ir.op import Op, Product
from compiler.ir.types import DType, Quant
from compiler.quantize.methods import constant_parameters
from compiler.quantize.scheme import Scheme
from compiler.rules.importing import is_parameter, known_values
from isa import arithmetic
from isa.arithmetic import INT32_MAX, INT32_MIN
from isa.support.diagnostics import Diagnostic
from isa.support.records import Struct, field

WEIGHT_LIMIT: Final = 127
NO_SCALE: Final = "model.no-scale"
"""The code of a result that neither the model nor a scheme quantizes."""
BIAS_LIMIT: Final = 1 << 30
SCALE_ROUNDING: Final = 1e-5
TINY: Final = float(np.finfo(np.float32).tiny)
"""The least positive normal float32."""


class Quantizer(Struct):
    """The graph being made, and the quantization chosen for every float tensor."""

    graph: Graph
    scheme: Scheme
    given: Mapping[str, Quant] = field(default_factory=dict[str, Quant])
    """Quantization that the model itself says, by the name of the float tensor."""
    asked: set[str] = field(default_factory=set[str])
    """The tensors whose scale the scheme was asked for."""

    @staticmethod
    def fail(node: Node, code: str, message: str, allowed: str = "", remedy: str = "") -> NoReturn:
        """Refuse a node."""
        raise Unsupported(Diagnostic(code, message, node.loc, allowed, remedy))

    def chosen(self, node: Node, instead: Quant | None = None) -> Quant:
        """The quantization of a float node's result; `instead` where neither model nor scheme says one."""
        if (found := self.given.get(node.name)) is not None:
            return found
        self.asked.add(node.name)
        found = self.scheme.tensors.get(node.name) or instead
        if found is None:
            self.fail(
                node,
                NO_SCALE,
                f"'{node.name}' has no scale: neither a QuantizeLinear nor the scheme gives one",
                remedy="quantize every operator of the model, or give --calibrate as well",
            )
        return found

    def fixed(self, node: Node, quant: Quant) -> Quant:
        """The quantization of a result whose range is known: what the model says, or this one."""
        return self.given.get(node.name, quant)

    def add(self, operation: Op, inputs: list[Node], source: Node, quant: Quant | None) -> Node:
        """An operation that computes what `source` does, under its name and place."""
        made = self.graph.add(operation, inputs, name=source.name, loc=source.loc, quant=quant)
        made.views = (SourceView(source.name, (), made.shape), *source.views)
        return made

    def before(
        self, operation: Op, inputs: list[Node], source: Node, quant: Quant | None, suffix: str
    ) -> Node:
        """An operation on the way to what `source` computes."""
        return self.graph.add(operation, inputs, name=f"{source.name}/{suffix}", loc=source.loc, quant=quant)

    def const(self, value: NDArray[Any], source: Node, quant: Quant | None = None) -> Node:
        """A constant that comes from a float constant."""
        return self.graph.const(value, source.name, source.loc, quant)

    def activation(self, source: Node, values: NDArray[Any] | None = None) -> Node:
        """A constant, or `values` in its place, as an activation: the scale depends on it alone."""
        if (codes := _codes(source)) is not None:
            return self.const(codes.constant, source, codes.type.quant)
        self.asked.add(source.name)
        values = source.constant if values is None else values
        quant = self.scheme.tensors.get(source.name) or constant_parameters(values)
        low, high = DType.I8.bounds
        codes = arithmetic.quantize(values, quant.scale, quant.zero_point, low, high)
        return self.const(codes.astype(np.int8), source, quant)

    def operands(
        self, node: Node, inputs: Sequence[Node], instead: Mapping[int, NDArray[Any]] | None = None
    ) -> list[Node]:
        """All operands of a node as codes, its parameters among those that are computed.

        `instead` has other values for some constants, by their ids.
        """
        computed, values = iter(inputs), instead or {}
        return [
            self.activation(i, values.get(i.id)) if is_parameter(i) else next(computed) for i in node.inputs
        ]

    def weights_and_bias(self, node: Node, x: Node, alpha: float = 1.0) -> list[Node]:
        """The operands of a product: x, its weights, its bias at the scale alpha * sx * sw.

        The bias is int32 at the scale sx * sw, so that weights which are small beside their bias take
        a larger scale than they need: |bias| / (sx * sw) stays at most 2^30, and a sum with room for
        products on top of it stays within int32, and sx * sw stays a normal number.
        """
        assert isinstance(node.op, Product)
        axis, (_, w, b) = node.op.weight_axis, node.inputs
        if (codes := _codes(w)) is not None:
            weights = self.const(codes.constant, w, codes.type.quant)
        else:
            values = known_values(b).astype(np.float64)
            least = np.maximum(np.abs(values) / BIAS_LIMIT, 2 * TINY) / x.quant.scale
            granularity = self.scheme.weights.get(node.name, self.scheme.granularity)
            weights = self.weights(w, None if granularity == "tensor" else axis, least)
        assert weights.type.quant is not None
        if weights.type.quant.axis not in (None, axis):
            self.fail(
                w,
                "model.scale",
                f"the scales of '{w.name}' lie along axis {weights.type.quant.axis}",
                f"{axis}",
            )
        correction = self._correction(node, b)
        x_scale = np.float32(alpha) * np.float32(x.quant.scale)
        return [x, weights, self.bias(b, x_scale, weights.type.quant, correction)]

    def _correction(self, node: Node, b: Node) -> NDArray[np.float64]:
        """What the scheme adds to the bias of every output channel."""
        found = np.asarray(self.scheme.corrections.get(node.name, np.zeros(b.shape)), np.float64)
        if found.shape != b.shape:
            self.fail(
                node,
                "scheme.correction",
                f"the correction of '{node.name}' has {found.size} numbers",
                f"{b.type.elements}",
                "take the scheme of this network, or remove the line",
            )
        return found

    def weights(self, source: Node, axis: int | None, least: NDArray[np.float64]) -> Node:
        """Symmetric int8 weights: scale = max|w| / 127 of each index of the axis, or of all, or `least`."""
        values = source.constant
        if axis is None:
            least = least.max(initial=0, keepdims=True)
            largest = np.abs(values).max(keepdims=True).reshape(1)
        else:
            largest = np.abs(values).max(axis=tuple(i for i in range(values.ndim) if i != axis))
        scales = np.maximum((largest / np.float32(WEIGHT_LIMIT)).astype(np.float32), _rounded_up(least))
        scales = np.maximum(scales, np.float32(TINY))
        quant = Quant(tuple(scales.tolist()), 0, axis)
        codes = arithmetic.quantize(values, quant.along(values.ndim), 0, -WEIGHT_LIMIT, WEIGHT_LIMIT)
        return self.const(codes.astype(np.int8), source, quant)

    def bias(self, source: Node, x_scale: np.float32, w: Quant, correction: NDArray[np.float64]) -> Node:
        """int32 bias at scale sx * sw; codes that have about that scale stay as they are."""
        scales = np.broadcast_to(x_scale * w.array, source.shape)
        if not np.isfinite(scales).all():
            self.fail(
                source,
                "model.scale",
                f"the scale {x_scale:g} of the input times the largest of the weights, {max(w.scales):g}, "
                "is infinite in float32",
                remedy="scale the input or the weights of the network down",
            )
        scales = np.maximum(scales, TINY)  # a product that underflows multiplies the sum by 0, whatever it is
        quant = Quant(tuple(scales.tolist()), 0, 0, DType.I32)
        given = _codes(source)
        if given is not None and given.type.dtype is DType.I32 and _about(given.type.quant, scales):
            return self.const(given.constant, source, quant)
        codes = np.rint((known_values(source).astype(np.float64) + correction) / scales.astype(np.float64))
        return self.const(np.clip(codes, INT32_MIN, INT32_MAX).astype(np.int32), source, quant)

    @staticmethod
    def clamp_codes(quant: Quant, clamp: tuple[float, float] | None) -> tuple[int, int]:
        """The codes that an activation's real bounds allow."""
        low, high = quant.dtype.bounds
        if clamp is None:
            return low, high
        bounds = np.asarray(clamp, np.float32)
        lo, hi = arithmetic.quantize(bounds, quant.scale, quant.zero_point, low, high)
        return int(lo), int(hi)


def _codes(parameter: Node) -> Node | None:
    """The constant codes that a parameter dequantizes; None for a float constant."""
    return None if parameter.is_constant else parameter.inputs[0]


def _about(quant: Quant | None, scales: NDArray[np.float32]) -> bool:
    """Whether codes have these scales, apart from the rounding of whoever computed them."""
    assert quant is not None
    return bool(
        np.allclose(np.asarray(quant.scales, np.float64), scales.astype(np.float64), SCALE_ROUNDING, 0)
    )


def _rounded_up(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """float32 values that are not smaller; what is beyond float32 becomes infinite."""
    with np.errstate(over="ignore"):
        nearest = values.astype(np.float32)
        return np.where(nearest < values, np.nextafter(nearest, np.float32(np.inf)), nearest)


OpT = TypeVar("OpT", bound=Op)
Rule = Callable[[Quantizer, Node, OpT, list[Node]], Node]
"""(quantizer, float node, its operation, its quantized operands without the constant ones) to the result."""
RULES: Final[dict[type[Op], Rule[Any]]] = {}


def quantization_rule(*kinds: type[OpT]) -> Callable[[Rule[OpT]], Rule[OpT]]:
    """Register how operations become ones on integers."""

    def declare(rule: Rule[OpT]) -> Rule[OpT]:
        for kind in kinds:
            assert kind not in RULES
            RULES[kind] = rule
        return rule

    return declare


def quantize_node(quantizer: Quantizer, node: Node, inputs: list[Node]) -> Node:
    """What a float node becomes, by the rule of its operation."""
    return RULES[type(node.op)](quantizer, node, node.op, inputs)
