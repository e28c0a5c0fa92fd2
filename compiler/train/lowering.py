"""From real numbers to a step of training in integers: the vocabulary of the rules.

A value is q * 2^e * c: codes or sums q, an exponent e that changes from step to step, and so is a number of
the graph, and a rational c that the compiler knows. An 8-bit result is shifted by a number that the steps
before have left; the greatest that this step sees decides the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, Final, NoReturn, TypeVar

import numpy as np

from compiler.errors import Unsupported
from compiler.ir.graph import Graph, Node
from compiler.ir.op import Array, Op
from compiler.ir.types import DType, Shape, TensorType
from compiler.train.scalars import NUMBER, ScalarFunction
from isa import arithmetic
from isa.support.diagnostics import Diagnostic
from isa.support.locations import UNKNOWN
from isa.support.records import Frozen, Struct, field, replace

FIRST_SHIFT: Final = 8
"""Of every 8-bit result in the first step."""
LEAK: Final = 4
"""A greatest value that is not seen again loses 1/2^LEAK of itself in every step."""
WORD_BITS: Final = 32


class Fixed(Frozen):
    """A value of a step: codes or sums, the exponent (none: 0), the rational factor."""

    node: Node
    exponent: Node | None
    c: Fraction


class StateTensor(Frozen):
    """A tensor that lasts from step to step: what a step finds, and what it leaves if it changes it."""

    name: str
    before: Node
    after: Node | None = None
    groups: int = 1
    """Of the convolution whose kernel it is, or belongs to."""

    @property
    def stored(self) -> Shape:
        """The shape as it is stored: of a grouped kernel the groups apart."""
        shape = self.before.shape
        if self.groups == 1 or len(shape) != 4:
            return shape
        return (self.groups, shape[0] // self.groups, *shape[1:])


class Lowerer(Struct):
    """A step being made.

    `training` says whether what is observed changes the state, or only what the state says is used.
    """

    graph: Graph
    training: bool
    weighted: bool = False
    """Whether the samples of a batch count by weights."""
    logits: Node | None = None
    """The node of stage nn whose sums stay as they are."""
    values: dict[int, Any] = field(default_factory=dict[int, Any])
    """What the nodes of stage nn have become, by their numbers."""
    states: dict[str, StateTensor] = field(default_factory=dict[str, StateTensor])
    records: list[tuple[str, Node]] = field(default_factory=list[tuple[str, Node]])
    """What a step leaves for the host, by name."""
    rescaled: dict[tuple[int, str], Fixed] = field(default_factory=dict[tuple[int, str], Fixed])
    """Nodes of stage nn at the exponent that a function wants, by number and function."""
    normalized: dict[tuple[int, int], Any] = field(default_factory=dict[tuple[int, int], Any])
    """What normalizations have left for the way back, by the numbers of their input and of its mean."""
    groups: dict[str, int] = field(default_factory=dict[str, int])
    """Of grouped kernels, by name."""
    dropouts: int = 0
    keys: Node | None = None
    """The input with the keys of dropouts."""
    moving: Node | None = None
    """The input that says how running statistics move, where they are being measured."""
    made: dict[Any, Node] = field(default_factory=dict[Any, Node])
    """Numbers and weights that several operations need."""

    @staticmethod
    def fail(node: Node, message: str, allowed: str = "") -> NoReturn:
        """Refuse a node."""
        raise Unsupported(Diagnostic("model.untrainable", message, node.loc, allowed))

    def __getitem__(self, node: Node) -> Any:
        """What a node of stage nn has become."""
        return self.values[node.id]

    def value_of(self, node: Node, operand: Node) -> Any:
        """What an operand of a node has become; constants have become nothing.

        Raises:
            Unsupported: it is a constant.
        """
        if operand.id not in self.values:
            self.fail(
                node, f"'{node.name}' has the constant operand '{operand.name}'", "values of the network"
            )
        return self.values[operand.id]

    def add(self, operation: Op, inputs: Sequence[Node], name: str, of: Node | None = None) -> Node:
        """An operation of the step."""
        return self.graph.add(operation, inputs, name=name, loc=UNKNOWN if of is None else of.loc)

    # --- numbers ---------------------------------------------------------------------------------

    def scalar(self, function: str, *operands: Node, imm: int = 0, right: bool = False) -> Node:
        """A number; what has been computed once is not computed again."""
        operation = ScalarFunction(function, imm, right)
        key = (operation, *(o.id for o in operands))
        if key not in self.made:
            self.made[key] = self.graph.add(operation, operands)
        return self.made[key]

    def plus(self, *exponents: Node | None) -> Node | None:
        """The sum of exponents, of which some may be 0."""
        total: Node | None = None
        for exponent in exponents:
            if exponent is not None:
                total = exponent if total is None else self.scalar("add", total, exponent)
        return total

    def number(self, exponent: Node | None) -> Node:
        """An exponent as a number of the graph, even if it is 0."""
        return exponent if exponent is not None else self.constant(0)

    def constant(self, value: int) -> Node:
        """A number that never changes."""
        if value not in self.made:
            self.made[value] = self.graph.const(np.asarray(value, np.int32))
        return self.made[value]

    # --- state -----------------------------------------------------------------------------------

    def state(self, name: str, type_: TensorType = NUMBER) -> Node:
        """What a step finds of a lasting tensor."""
        if name not in self.states:
            self.states[name] = StateTensor(name, self.graph.input(name, type_.dtype, type_.shape))
        return self.states[name].before

    def leave(self, name: str, value: Node) -> None:
        """Say what a step leaves of a lasting tensor."""
        before = self.states[name]
        assert before.after is None, f"{name} is changed twice"
        self.states[name] = replace(before, after=value)

    def shift(self, key: str) -> Node:
        """By how much an 8-bit result is shifted in this step."""
        self.state(f"{key}/greatest")
        return self.state(f"{key}/shift")

    def observed(self, key: str, greatest: Node, *, unsigned: bool) -> None:
        """The greatest value that a step has seen decides the next step's shift."""
        if not self.training:
            return
        before = self.state(f"{key}/greatest")
        kept = self.scalar("sub", before, self.scalar("shr", before, imm=LEAK))
        after = self.scalar("max", greatest, kept)
        bits = WORD_BITS - (8 if unsigned else 7)
        free = self.scalar("clz", after)
        shift = self.scalar("max", self.scalar("sub", free, imm=-bits, right=True))
        self.leave(f"{key}/greatest", after)
        self.leave(f"{key}/shift", shift)


OpT = TypeVar("OpT", bound=Op)
Rule = Callable[[Lowerer, Node, OpT], Any]
"""(lowerer, a node of stage nn, its operation) to what the node becomes, a `Fixed` as a rule."""
RULES: Final[dict[type[Op], Rule[Any]]] = {}


def integer_rule(*kinds: type[OpT]) -> Callable[[Rule[OpT]], Rule[OpT]]:
    """Register how an operation is computed in a step of training."""

    def declare(rule: Rule[OpT]) -> Rule[OpT]:
        for kind in kinds:
            assert kind not in RULES
            RULES[kind] = rule
        return rule

    return declare


def unit_of(factor: float, exponent: Array) -> np.float32:
    """F(F(factor) * 2^exponent): what a code or a sum of 1 stands for."""
    return np.float32(np.float32(factor) * arithmetic.power_of_two(exponent))


def code_type(*, unsigned: bool) -> DType:
    """The type of 8-bit results: of one bit more where none is negative."""
    return DType.U8 if unsigned else DType.I8


def code_bounds(dtype: DType) -> tuple[int, int]:
    """The least and the greatest 8-bit result: -128 is none."""
    return (0, 255) if dtype is DType.U8 else (-127, 127)
