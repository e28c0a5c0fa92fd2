"""A graph of operations: a typed face over a networkx multigraph.

Nodes are single-assignment values in creation order. An edge runs from producer to user and is
keyed by the operand's index, so that one value may be both operands of a node.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count
from typing import Any, ClassVar, TypeVar, cast

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from compiler.ir.op import Op, ShapeError, op
from compiler.ir.stage import Stage
from compiler.ir.types import DType, Quant, Shape, TensorType
from isa.program import Steps, taken_through
from isa.support.locations import UNKNOWN, Loc
from isa.support.records import Frozen, Struct, field

OpT = TypeVar("OpT", bound=Op)


class SourceView(Frozen):
    """A tensor of the source model that a node's value holds: the value after `steps`, as `shape`."""

    name: str
    steps: Steps
    shape: Shape

    def of(self, value: NDArray[Any]) -> NDArray[Any]:
        """The source tensor."""
        return taken_through(value, self.steps, self.shape)


@op("input")
class Input(Op):
    """A graph input; its type is declared, not inferred."""

    interface: ClassVar[bool] = True


@op("const")
class Const(Op):
    """A constant tensor."""


@op("tuple_element", "x")
class TupleElement(Op):
    """A result beyond the first of an operation that has several; the first is the node's own value."""

    index: int
    foldable: ClassVar[bool] = False

    def infer(self, types: Sequence[TensorType]) -> TensorType:
        """The type of the first result; which one is meant, the node that gives it knows."""
        return types[0]


def infer(operation: Op, inputs: Sequence[Node]) -> tuple[TensorType, ...]:
    """The types of an operation's results on nodes.

    Raises:
        ShapeError: the operands do not go together, or the node has no such result.
    """
    results = operation.results([i.type for i in inputs])
    if not isinstance(operation, TupleElement):
        return results
    (producer,) = inputs
    if not 0 < operation.index < len(producer.types):
        count = len(producer.types)
        raise ShapeError(f"{producer.op.name} has no result {operation.index}", f"below {count}")
    return (producer.types[operation.index],)


def typed(inferred: TensorType, quant: Quant | None) -> TensorType:
    """The type of a result: what the operation's rule gives, its codes of the type that `quant` says."""
    if quant is None:
        return inferred
    return TensorType(quant.dtype, inferred.shape, quant)


class Node(Struct, eq=False):
    """One operation and its value: the first result, where there are several."""

    graph: Graph
    id: int
    op: Op
    type: TensorType
    name: str
    loc: Loc
    value: NDArray[Any] | None = None
    views: tuple[SourceView, ...] = ()
    further: tuple[TensorType, ...] = ()
    """The types of the results beyond the first; a `TupleElement` holds the value of each."""

    def __repr__(self) -> str:
        return f"<Node %{self.id} {self.op.name} {self.name!r}: {self.type}>"

    @property
    def types(self) -> tuple[TensorType, ...]:
        """The types of all results, in order."""
        return (self.type, *self.further)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The operands, in order."""
        return self.graph.operands(self)

    @property
    def shape(self) -> Shape:
        """The shape of the value."""
        return self.type.shape

    @property
    def quant(self) -> Quant:
        """The quantization of a value that has one scale for all of it."""
        assert self.type.quant is not None, f"{self.name} is not quantized"
        return self.type.quant

    @property
    def constant(self) -> NDArray[Any]:
        """The values of a constant."""
        assert self.value is not None, f"{self.name} is not constant"
        return self.value

    @property
    def is_constant(self) -> bool:
        """Whether the value is known."""
        return self.value is not None


class Graph(Struct, eq=False):
    """Operations, graph inputs and graph outputs of one model."""

    name: str
    stage: Stage = Stage.NN
    provenance: str = ""
    """How an integer graph got its scales; a binary says so too."""
    scheme: str = ""
    """The text of the scheme that a float network was quantized by; a binary holds it too."""
    unused_inputs: tuple[str, ...] = ()
    """Inputs of the source that nothing reads: they are left out."""
    outputs: list[Node] = field(default_factory=list[Node])
    output_names: list[str] = field(default_factory=list[str])
    revision: int = 0
    """How often the graph has changed."""
    sound: dict[int, tuple[object, ...]] = field(default_factory=dict[int, "tuple[object, ...]"])
    """What the verifier has found sound of a node: stage, operation, type, types of the operands."""
    _net: Any = field(default_factory=nx.MultiDiGraph)
    _next: int = 0
    _operands: dict[int, tuple[Node, ...]] = field(default_factory=dict[int, "tuple[Node, ...]"])
    """Of every node, in order; the edges of the net say the same."""
    _ascending: bool = True
    """Whether every node was made after its operands, so that the order of creation is one of execution."""
    _order: list[Node] | None = None
    """All nodes in order, until one comes, goes or changes."""

    def __repr__(self) -> str:
        return f"<Graph {self.name!r}: stage {self.stage}, {len(self._net)} nodes>"

    def _change(self) -> None:
        """A node came, went or changed."""
        self._order = None
        self.revision += 1

    def add(
        self,
        operation: Op,
        inputs: Sequence[Node] = (),
        *,
        name: str = "",
        loc: Loc = UNKNOWN,
        quant: Quant | None = None,
        type_: TensorType | None = None,
        further: tuple[TensorType, ...] = (),
        value: NDArray[Any] | None = None,
        views: tuple[SourceView, ...] = (),
    ) -> Node:
        """Add an operation on nodes of this graph; `type_` and `further` are inferred if not declared.

        Raises:
            ShapeError: the operands do not go together.
        """
        if type_ is None:
            first, *rest = infer(operation, inputs)
            type_, further = typed(first, quant), tuple(rest)
        node = Node(self, self._next, operation, type_, name or f"v{self._next}", loc, value, views, further)
        self._next += 1
        self._net.add_node(node.id, node=node)
        self._change()
        self._operands[node.id] = tuple(inputs)
        for index, producer in enumerate(inputs):
            assert producer.graph is self
            self._net.add_edge(producer.id, node.id, key=index)
        return node

    def element(self, node: Node, index: int, name: str = "") -> Node:
        """A result of an operation with several: the node itself for the first, or its `TupleElement`.

        Raises:
            ShapeError: the node has no such result.
        """
        if index == 0:
            return node
        known = (user for user in self.users(node) if user.op == TupleElement(index))
        return next(known, None) or self.add(TupleElement(index), [node], name=name, loc=node.loc)

    def input(
        self, name: str, dtype: DType, shape: Shape, loc: Loc = UNKNOWN, quant: Quant | None = None
    ) -> Node:
        """Add a graph input."""
        return self.add(Input(), name=name, loc=loc, type_=TensorType(dtype, shape, quant))

    def const(
        self, value: NDArray[Any], name: str = "", loc: Loc = UNKNOWN, quant: Quant | None = None
    ) -> Node:
        """Add a constant; the array is kept as it is and must not change."""
        dtype = DType.of(value.dtype)
        assert dtype is not None, f"{value.dtype} is no type of the IR"
        kept = np.ascontiguousarray(value, dtype.numpy).reshape(value.shape)
        return self.add(Const(), name=name, loc=loc, value=kept, type_=TensorType(dtype, value.shape, quant))

    def nodes(self) -> list[Node]:
        """Every node: producers before users, and in order of creation where that leaves a choice."""
        if self._order is None:
            net = self._net
            order = sorted(net) if self._ascending else nx.lexicographical_topological_sort(net, key=int)
            self._order = [net.nodes[i]["node"] for i in cast("Iterable[int]", order)]
        return list(self._order)

    def unused_name(self, name: str) -> str:
        """The name, or with a number behind it where a value has it already."""
        taken = {node.name for node in self.nodes()}
        return next(n for n in chain((name,), (f"{name}_{i}" for i in count(2))) if n not in taken)

    def of(self, kind: type[OpT]) -> Iterator[tuple[Node, OpT]]:
        """Every node of one kind of operation that is still there, with its operation."""
        for node in self.nodes():
            if node.id in self._net and isinstance(node.op, kind):
                yield node, node.op

    @property
    def inputs(self) -> list[Node]:
        """The graph inputs, in order."""
        return [n for n in self.nodes() if isinstance(n.op, Input)]

    def operands(self, node: Node) -> tuple[Node, ...]:
        """The operands of a node, in order."""
        return self._operands[node.id]

    def users(self, node: Node) -> list[Node]:
        """The nodes that use a value, each once, in order of creation."""
        return [self._net.nodes[i]["node"] for i in sorted(set(self._net.successors(node.id)))]

    def sole_user(self, node: Node) -> Node | None:
        """The only use of a value, if that is one operand of one node; a graph output is a use too."""
        if node in self.outputs or self._net.out_degree(node.id) != 1:
            return None
        return self.users(node)[0]

    def replace(self, old: Node, new: Node) -> None:
        """Let every use of `old` use `new`, graph outputs included, and erase `old`."""
        assert old.further == new.further, f"{new.name} has other results than {old.name}"
        for _, user, key in list(self._net.out_edges(old.id, keys=True)):
            self._net.remove_edge(old.id, user, key)
            self._use(new, user, key)
        self._change()
        self.outputs = [new if n is old else n for n in self.outputs]
        self.erase(old)

    def set_operand(self, node: Node, index: int, value: Node) -> None:
        """Let a node use another value of the same type as one of its operands."""
        old = node.inputs[index]
        assert value.type == old.type
        self._net.remove_edge(old.id, node.id, index)
        self._use(value, node.id, index)
        self._change()

    def _use(self, value: Node, user: int, index: int) -> None:
        """A node gets another operand."""
        self._net.add_edge(value.id, user, key=index)
        before = self._operands[user]
        self._operands[user] = (*before[:index], value, *before[index + 1 :])
        self._ascending = self._ascending and value.id < user

    def erase(self, node: Node) -> None:
        """Remove a node that nothing uses."""
        assert self._net.out_degree(node.id) == 0, f"{node.name} is used"
        assert node not in self.outputs, f"{node.name} is a graph output"
        self._net.remove_node(node.id)
        del self._operands[node.id]
        self._change()

    def retype(self, node: Node, type_: TensorType, further: tuple[TensorType, ...] = ()) -> None:
        """Give a node's results other types."""
        if (node.type, node.further) != (type_, further):
            node.type, node.further = type_, further
            self._change()

    def alive(self, node: Node) -> bool:
        """Whether a node is still part of the graph."""
        return node.id in self._net

    def erase_dead(self) -> None:
        """Remove every node that no graph output needs; graph inputs stay."""
        for node in reversed(self.nodes()):
            unused = self._net.out_degree(node.id) == 0 and node not in self.outputs
            if unused and not node.op.interface:
                self.erase(node)

    def set_outputs(self, outputs: Sequence[Node], names: Sequence[str]) -> None:
        """Declare the graph outputs and the names that the host sees."""
        self._change()
        self.outputs, self.output_names = list(outputs), list(names)

    def copy(self) -> Graph:
        """A graph with the same nodes under the same numbers; constants are shared."""
        twin = Graph(self.name, self.stage, self.provenance, self.scheme, _next=self._next)
        twin.sound, twin._ascending = dict(self.sound), self._ascending
        made: dict[int, Node] = {}
        for node in self.nodes():
            said = (node.op, node.type, node.name, node.loc, node.value, node.views, node.further)
            copied = Node(twin, node.id, *said)
            made[node.id] = copied
            twin._net.add_node(node.id, node=copied)
            twin._operands[node.id] = tuple(made[i.id] for i in node.inputs)
            for index, operand in enumerate(node.inputs):
                twin._net.add_edge(operand.id, node.id, key=index)
        twin.set_outputs([made[n.id] for n in self.outputs], self.output_names)
        return twin

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Graph) and self._key() == other._key()

    __hash__ = None  # pyright: ignore[reportAssignmentType]  (graphs change)

    def _key(self) -> tuple[object, ...]:
        number = {n.id: i for i, n in enumerate(self.nodes())}
        rows = [
            (
                n.op,
                tuple(number[i.id] for i in n.inputs),
                n.types,
                n.name,
                n.loc,
                n.views,
                None if n.value is None else n.value.tobytes(),
            )
            for n in self.nodes()
        ]
        outputs = tuple(number[n.id] for n in self.outputs)
        said = (self.name, self.stage, self.provenance, self.scheme)
        return *said, tuple(rows), outputs, tuple(self.output_names)
