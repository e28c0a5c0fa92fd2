"""What the rules that import ONNX operators and DSL layers see.

A rule is registered beside the operation that it creates (`compiler/ops`); the front ends know
none by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from compiler.errors import Unsupported
from compiler.ir.graph import Graph, Node
from compiler.ir.op import Op
from isa.diagnostics import Diagnostic, did_you_mean
from isa.locations import Loc


@dataclass(slots=True)
class OnnxNode:
    """An ONNX node with its operands imported; optional operands that are absent are None."""

    graph: Graph
    op_type: str
    opset: int
    operands: Sequence[Node | None]
    attributes: Mapping[str, Any]
    output: str
    loc: Loc
    outputs: int = 1
    taken: Set[str] = frozenset()
    """The names of all tensors of the model."""

    def fail(self, message: str, allowed: str = "", remedy: str = "") -> NoReturn:
        """Refuse the node."""
        raise Unsupported(Diagnostic("model.unsupported", message, self.loc, allowed, remedy))

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
        if node.value is None:
            self.fail(f"{what} is computed by the network", "a constant or an initializer")
        return node.value

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

    def add(self, operation: Op, *operands: Node) -> Node:
        """The node's result: an operation under the name of its output."""
        return self.graph.add(operation, operands, name=self.output, loc=self.loc)

    def before(self, operation: Op, *operands: Node, suffix: str) -> Node:
        """A value on the way to the result, under a name that no tensor of the model has."""
        name, number = f"{self.output}.{suffix}", 0
        while name in self.taken:
            number += 1
            name = f"{self.output}.{suffix}.{number}"
        return self.graph.add(operation, operands, name=name, loc=self.loc)

    def const(self, value: NDArray[Any], suffix: str) -> Node:
        """A constant that the importer derives."""
        return self.graph.const(value, f"{self.output}.{suffix}", self.loc)


@dataclass(slots=True)
class LayerCall:
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


OnnxRule = Callable[[OnnxNode], Node]
LayerRule = Callable[[LayerCall], Node]
ONNX_OPERATORS: Final[dict[str, OnnxRule]] = {}
LAYERS: Final[dict[str, tuple[LayerRule, tuple[str, ...]]]] = {}


def onnx_operator(*op_types: str) -> Callable[[OnnxRule], OnnxRule]:
    """Register the rule that imports these operators of the default domain."""

    def declare(rule: OnnxRule) -> OnnxRule:
        for op_type in op_types:
            assert op_type not in ONNX_OPERATORS
            ONNX_OPERATORS[op_type] = rule
        return rule

    return declare


def layer(name: str, *positional: str) -> Callable[[LayerRule], LayerRule]:
    """Register the rule of a DSL layer and the names of its positional arguments."""

    def declare(rule: LayerRule) -> LayerRule:
        assert name not in LAYERS
        LAYERS[name] = (rule, positional)
        return rule

    return declare
