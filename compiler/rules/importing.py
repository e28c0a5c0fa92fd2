"""What the rules that import ONNX operators and DSL layers see.

A rule is registered beside the operation that it creates (`compiler/ops`); the front ends know
none by name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from compiler.errors import Unsupported
from compiler.ir.evaluate import folded
from compiler.ir.graph import Graph, Node
from compiler.ir.op import Op
from compiler.ir.types import MAX_ELEMENTS, DType, Quant, Shape, TensorType
from isa.support.diagnostics import Diagnostic, did_you_mean
from isa.support.locations import Loc
from isa.support.records import Frozen, Struct, field, replace

OTHER_FLOATS: Final = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
"""ONNX types of real numbers that are float32 here."""


class OnnxNode(Frozen):
    """An ONNX node with its operands imported; optional operands that are absent are None."""

    graph: Graph
    op_type: str
    opset: int
    operands: Sequence[Node | None]
    attributes: Mapping[str, Any]
    output: str
    loc: Loc
    outputs: int = 1
    output_names: Sequence[str] = ()
    taken: set[str] = field(default_factory=set[str])
    """The names of all tensors of the model, and of values made on the way to them."""

    def fail(self, message: str, allowed: str = "", remedy: str = "") -> NoReturn:
        """Refuse the node."""
        raise Unsupported(Diagnostic("model.unsupported", message, self.loc, allowed, remedy))

    def axis(self, rank: int, default: int) -> int:
        """The attribute `axis`, counted from the front."""
        axis = self.integer("axis", default)
        if not -rank <= axis < rank:
            self.fail(f"axis={axis} is outside {-rank}..{rank - 1}")
        return axis % rank

    def quantization(
        self, scale: int, zero: int, shape: Shape, codes: DType | None = None, axis: int | None = None
    ) -> Quant:
        """The quantization of a tensor of that shape, from the operands of these indices.

        Without a zero point it is 0; the codes are then of the type given, else uint8 or what the
        attribute output_dtype says.
        """
        scales = self.constant(scale, "the scale")
        zeros: NDArray[Any] = np.zeros(1, (codes or self._output_dtype()).numpy)
        if self.maybe(zero) is not None:
            zeros = self.constant(zero, "the zero point")
        dtype = DType.of(zeros.dtype)
        if (
            dtype is None
            or dtype not in (DType.I8, DType.U8, DType.I32)
            or (codes is not None and dtype is not codes)
        ):
            self.fail(f"the zero point is {zeros.dtype}", codes.host_name if codes else "int8, uint8")
        if self.integer("block_size", 0):
            self.fail("block_size is not supported", "one scale, or one per channel")
        if scales.dtype != np.float32 or not (np.isfinite(scales) & (scales > 0)).all():
            self.fail("the scale is not float32, finite and above 0", "finite and above 0")
        axis = self.integer("axis", 1) if axis is None else axis
        axis = axis + len(shape) if axis < 0 else axis
        per_channel = scales.ndim == 1 and 0 <= axis < len(shape) and scales.shape == (shape[axis],)
        if scales.size != 1 and not per_channel:
            self.fail(
                f"the scale has the shape {list(scales.shape)}", "a scalar, or one per index of the axis"
            )
        if zeros.size not in (1, scales.size) or zeros.min() != zeros.max():
            self.fail("the zero points of the channels differ", "one zero point")
        point = int(zeros.flat[0])
        if dtype is DType.I32 and point:
            self.fail(f"the zero point {point} of int32 codes is not supported", "0")
        values = tuple(scales.ravel().tolist())
        return Quant(values, point, axis if scales.size != 1 else None, dtype)

    def _output_dtype(self) -> DType:
        """What the attribute output_dtype of QuantizeLinear says; uint8 where it says nothing."""
        number = self.integer("output_dtype", 0)
        known = {0: DType.U8, 2: DType.U8, 3: DType.I8}
        if number not in known:
            self.fail(f"output_dtype={number} is not supported", "2 (uint8), 3 (int8)")
        return known[number]

    def coded(self, x: Node, quant: Quant) -> Node:
        """Codes that from here on are read under this quantization."""
        if x.is_constant:
            return self.graph.const(x.constant, x.name, x.loc, quant)
        if x.type.quant == quant:
            return x
        if x.type.quant is not None:
            self.fail(
                f"'{x.name}' is quantized with the scale {x.type.quant.scale:g} and the zero point "
                f"{x.type.quant.zero_point}, and read with others",
                "the same",
            )
        self.graph.retype(x, TensorType(x.type.dtype, x.shape, quant))
        for source in x.inputs:
            self.coded(source, quant)
        return x

    def parameter(self, index: int, what: str) -> Node:
        """An operand that does not depend on the network's inputs: constant, or codes dequantized."""
        node = self.operand(index)
        if not is_parameter(node):
            self.fail(f"{what} is computed by the network", "a constant or an initializer")
        return node

    def transposed(self, node: Node, perm: Sequence[int], suffix: str) -> Node:
        """A parameter with its dimensions permuted; codes stay codes."""
        quant = None if node.is_constant else node.inputs[0].type.quant
        axis = 0 if quant is None or quant.axis is None else list(perm).index(quant.axis)
        return self.mapped(node, lambda values, _: values.transpose(perm), axis, suffix)

    def mapped(
        self, node: Node, function: Callable[[NDArray[Any], int], NDArray[Any]], axis: int, suffix: str
    ) -> Node:
        """A parameter with its elements moved or repeated by `function(values, padding)`; codes stay codes.

        Scales along an axis are moved alike, to `axis`.
        """
        if node.is_constant:
            return self.const(np.ascontiguousarray(function(node.constant, 0)), suffix)
        (codes,) = node.inputs
        quant = codes.type.quant
        assert quant is not None
        values = np.ascontiguousarray(function(codes.constant, quant.zero_point))
        if quant.axis is not None:
            rank = codes.constant.ndim
            row = np.asarray(quant.scales).reshape([-1 if i == quant.axis else 1 for i in range(rank)])
            spread = np.moveaxis(function(np.broadcast_to(row, codes.shape), 0), axis, 0)
            scales = spread.reshape(len(spread), -1).max(axis=1)
            quant = replace(quant, scales=tuple(float(s) for s in scales), axis=axis)
        made = self.graph.const(values, codes.name, codes.loc, quant)
        return self.before(node.op, made, suffix=suffix)

    def operand(self, index: int) -> Node:
        """The operand of that index, which must be there."""
        found = self.operands[index] if index < len(self.operands) else None
        if found is None:
            self.fail(f"operand {index} is missing")
        return found

    def maybe(self, index: int) -> Node | None:
        """The operand of that index, if it is there."""
        return self.operands[index] if index < len(self.operands) else None

    def constant(self, index: int, what: str) -> NDArray[Any]:
        """The values of an operand that must be constant."""
        node = self.operand(index)
        if not is_parameter(node):
            self.fail(f"{what} is computed by the network", "a constant or an initializer")
        return known_values(node)

    def scalar(self, index: int, what: str) -> float | int:
        """The value of a constant operand of one element."""
        values = self.constant(index, what)
        if values.size != 1:
            self.fail(f"{what} has the shape {list(values.shape)}", "one number")
        return values.item()

    def integer(self, name: str, default: int) -> int:
        """An integer attribute."""
        return int(self.attributes.get(name, default))

    def real(self, name: str, default: float) -> float:
        """A float attribute, which must be finite."""
        value = float(self.attributes.get(name, default))
        if not math.isfinite(value):
            self.fail(f"{name}={value} is not allowed", "a finite number")
        return value

    def integers(self, name: str, default: Sequence[int]) -> tuple[int, ...]:
        """An attribute that lists integers."""
        return tuple(int(v) for v in self.attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """A text attribute."""
        value = self.attributes.get(name, default)
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    def add(self, operation: Op, *operands: Node, quant: Quant | None = None) -> Node:
        """The node's result: an operation under the name of its output; on parameters, a parameter."""
        made = self.graph.add(operation, operands, name=self.output, loc=self.loc, quant=quant)
        return folded_parameter(made) or made

    def before(self, operation: Op, *operands: Node, suffix: str) -> Node:
        """A value on the way to the result, under a name that no tensor of the model has."""
        made = self.graph.add(operation, operands, name=self.unused(suffix), loc=self.loc)
        return folded_parameter(made) or made

    def unused(self, suffix: str) -> str:
        """A name that begins as the output's, and that nothing has; it is taken then."""
        name, number = f"{self.output}.{suffix}", 0
        while name in self.taken:
            number += 1
            name = f"{self.output}.{suffix}.{number}"
        self.taken.add(name)
        return name

    def const(self, value: NDArray[Any], suffix: str) -> Node:
        """A constant that the importer derives."""
        return self.graph.const(value, f"{self.output}.{suffix}", self.loc)


NO_BIAS: Final = "no_bias"
"""What the zeros are called that stand for a bias that a layer has not: training leaves them alone."""


class LayerCall(Struct):
    """A DSL layer applied to values; activations are (N, H, W, C) or (N, features)."""

    graph: Graph
    layer: str
    name: str
    operands: Sequence[Node]
    arguments: dict[str, object]
    weights: Callable[[str, tuple[int, ...]], NDArray[np.float32]]
    loc: Loc

    def fail(self, message: str, allowed: str = "", remedy: str = "") -> NoReturn:
        """Refuse the layer."""
        raise Unsupported(Diagnostic("dsl.layer", message, self.loc, allowed, remedy))

    def input(self, rank: int) -> Node:
        """The only operand, which must have that rank."""
        if len(self.operands) != 1:
            self.fail(f"{self.layer} takes one value, not {len(self.operands)}")
        if len(self.operands[0].shape) != rank:
            self.fail(
                f"{self.layer} takes a value of rank {rank}, not of shape {list(self.operands[0].shape)}"
            )
        return self.operands[0]

    def value(self) -> Node:
        """The only operand, of any rank."""
        if len(self.operands) != 1:
            self.fail(f"{self.layer} takes one value")
        return self.operands[0]

    def take(self, name: str, default: object, kinds: tuple[type, ...], allowed: str) -> Any:
        """An argument, checked; it counts as used."""
        value = self.arguments.pop(name, default)
        if value is not default and (
            not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        ):
            self.fail(f"{self.layer}: {name}={value!r} is not allowed", allowed)
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = self.take(name, default, (int,), "a whole number of at least 1")
        if value is None:
            self.fail(f"{self.layer}: {name} is missing")
        if value < 1:
            self.fail(f"{self.layer}: {name}={value} is not allowed", "at least 1")
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """A truth value."""
        return bool(self.take(name, default, (bool,), "true, false"))

    def pair(self, name: str, default: int | tuple[int, int] | None) -> tuple[int, int]:
        """A whole number for both directions, or one for rows and one for columns."""
        value = self.take(name, default, (int, tuple), "n or (rows, columns), at least 1")
        if value is None:
            self.fail(f"{self.layer}: {name} is missing")
        pair = (value, value) if isinstance(value, int) else value
        if len(pair) != 2 or any(not isinstance(v, int) or v < 1 for v in pair):
            self.fail(f"{self.layer}: {name}={value!r} is not allowed", "n or (rows, columns), at least 1")
        return pair

    def choice(self, name: str, default: str | None, allowed: Sequence[str]) -> str | None:
        """A word of a list."""
        value = self.take(name, default, (str,), ", ".join(allowed))
        if value is not None and value not in allowed:
            self.fail(
                f"{self.layer}: {name}='{value}' is not known",
                ", ".join(allowed),
                did_you_mean(value, allowed),
            )
        return value

    def done(self) -> None:
        """Refuse arguments that nothing has used."""
        for name in self.arguments:
            self.fail(f"{self.layer} has no argument '{name}'")

    def add(self, operation: Op, *operands: Node, suffix: str = "") -> Node:
        """A result under the layer's name."""
        return self.graph.add(operation, operands, name=self.name + suffix, loc=self.loc)

    def const(self, value: NDArray[Any], suffix: str) -> Node:
        """A constant of the layer."""
        return self.graph.const(value, f"{self.name}/{suffix}", self.loc)


def is_parameter(node: Node) -> bool:
    """Whether a value does not depend on the graph's inputs: a constant, or constant codes dequantized."""
    return node.is_constant or (not node.op.foldable and all(i.is_constant for i in node.inputs))


def known_values(node: Node) -> NDArray[Any]:
    """The values of a parameter, dequantized where it is codes."""
    if node.is_constant:
        return node.constant
    return node.op.evaluate([i.constant for i in node.inputs], [i.type for i in node.inputs], node.type)


def folded_parameter(node: Node) -> Node | None:
    """What a function of parameters alone is, added to the graph: a parameter; None for other nodes.

    Codes that are only moved stay codes behind their Dequantize, and their scales move with them; of anything
    else the real numbers are worked out.
    """
    operands, graph = node.inputs, node.graph
    if not operands or node.further or not node.op.foldable or node.type.elements > MAX_ELEMENTS:
        return None
    if not all(is_parameter(o) for o in operands):
        return None
    if all(o.is_constant for o in operands):
        return folded(node)
    if node.op.moves and (moved := _moved_codes(node, operands[0])) is not None:
        return moved
    kinds = [replace(o.type, quant=None) for o in operands]
    with np.errstate(all="ignore"):
        value = node.op.evaluate([known_values(o) for o in operands], kinds, node.type)
    return graph.const(value.astype(node.type.dtype.numpy), node.name, node.loc, node.type.quant)


def _moved_codes(node: Node, parameter: Node) -> Node | None:
    """The codes of a parameter as an operation moves them; None where their scales lie along no axis."""
    (codes,) = parameter.inputs
    quant, graph = codes.type.quant, node.graph
    assert quant is not None
    if quant.axis is not None:
        every = np.broadcast_to(quant.along(len(codes.shape)), codes.shape)
        moved = node.op.evaluate([every], [node.inputs[0].type], node.type)
        found = _scales_along(moved)
        if found is None:
            return None
        quant = replace(quant, scales=found[1], axis=found[0])
    value = np.ascontiguousarray(node.op.evaluate([codes.constant], [codes.type], node.type))
    made = graph.const(value, codes.name, codes.loc, quant)
    return graph.add(parameter.op, (made,), name=node.name, loc=node.loc)


def _scales_along(scales: NDArray[np.float32]) -> tuple[int, tuple[float, ...]] | None:
    """The axis along which the scales of all elements lie, and the scales; None where there is none."""
    for axis in range(scales.ndim):
        rows = np.moveaxis(scales, axis, 0).reshape(scales.shape[axis], -1)
        if (rows == rows[:, :1]).all():
            return axis, tuple(rows[:, 0].tolist())
    return None


OnnxRule = Callable[[OnnxNode], Node] | Callable[[OnnxNode], Node | list[Node]]
"""The result, or those of all outputs."""
RuleT = TypeVar("RuleT", bound=OnnxRule)
LayerRule = Callable[[LayerCall], Node]
MICROSOFT_DOMAIN: Final = "com.microsoft"
ONNX_OPERATORS: Final[dict[tuple[str, str], OnnxRule]] = {}
"""By domain and operator."""
LAYERS: Final[dict[str, tuple[LayerRule, tuple[str, ...]]]] = {}


def onnx_operator(*op_types: str, domains: Sequence[str] = ("",)) -> Callable[[RuleT], RuleT]:
    """Register the rule that imports these operators, of the default domain unless said otherwise."""

    def declare(rule: RuleT) -> RuleT:
        for key in itertools.product(domains, op_types):
            assert key not in ONNX_OPERATORS
            ONNX_OPERATORS[key] = rule
        return rule

    return declare


def layer(name: str, *positional: str) -> Callable[[LayerRule], LayerRule]:
    """Register the rule of a DSL layer and the names of its positional arguments."""

    def declare(rule: LayerRule) -> LayerRule:
        assert name not in LAYERS
        LAYERS[name] = (rule, positional)
        return rule

    return declare
