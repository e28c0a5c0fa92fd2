"""Make a prequantized graph an integer graph, its scales untouched.

%3 = q.dequantize %1                   %4 = q.conv2d %1, %w8, %b32
%4 = nn.conv2d %3, %w, %b           ->
%5 = q.quantize %4
"""

from __future__ import annotations

from typing import ClassVar

from compiler.errors import CompileError, Unsupported
from compiler.ir.graph import Graph, Input, Node, SourceView
from compiler.ir.stage import Stage
from compiler.ir.types import DType, Quant
from compiler.ops.activation import QTable
from compiler.ops.quantize_linear import Dequantize, Quantize, returned
from compiler.passes.base import Pass
from compiler.quantize.scheme import Scheme
from compiler.rules.importing import is_parameter
from compiler.rules.quantizing import Quantizer, quantize_node
from isa.support.diagnostics import Diagnostic
from isa.support.records import field


class FuseQdq(Pass):
    """Every operation between a Dequantize and a Quantize, by the rule that float graphs follow too.

    `scheme` says how results are quantized that no Quantize follows.
    """

    name: ClassVar[str] = "fuse-qdq"
    changes_values: ClassVar[bool] = True
    scheme: Scheme = field(default_factory=Scheme)

    def run(self, graph: Graph) -> Graph:
        return _Fuser(graph, self.scheme).run()


def open_results(graph: Graph) -> list[str]:
    """The results of a graph of stage qdq that something uses as the real numbers that they are."""
    return [
        node.name
        for node in graph.nodes()
        if node.type.dtype is DType.F32
        and not (is_parameter(node) or isinstance(node.op, Dequantize))
        and _is_used_as_it_is(graph, node)
        and _said(graph, node) is None
    ]


def _is_used_as_it_is(graph: Graph, node: Node) -> bool:
    """Whether something else than Quantize uses a float result."""
    returned = node in graph.outputs and not isinstance(node.op, Input)
    return returned or not all(isinstance(u.op, Quantize) for u in graph.users(node))


def _said(graph: Graph, node: Node) -> Quant | None:
    """How the model quantizes a float value for one of its users; the others may take it so too."""
    return next((u.type.quant for u in graph.users(node) if isinstance(u.op, Quantize)), None)


class _Follows(Exception):
    """A node whose operand has been refused."""


class _Fuser:
    def __init__(self, graph: Graph, scheme: Scheme) -> None:
        self.graph, self.scheme = graph, scheme
        self.made = Graph(graph.name, Stage.Q, graph.provenance or "scales of the model")
        self.codes: dict[int, Node] = {}
        """What nodes of the old graph have become: codes, or a float graph input."""
        self.opened: dict[int, Node] = {}
        """The codes of float graph inputs that something else than Quantize uses."""
        self.named: set[int] = set()
        self.refused: list[Diagnostic] = []

    def run(self) -> Graph:
        for node in self.graph.nodes():
            if is_parameter(node) or isinstance(node.op, Dequantize):
                continue
            try:
                self._node(node)
            except Unsupported as error:
                self.refused.append(error.diagnostic)
            except _Follows:
                pass
        if self.refused:
            raise CompileError(self.refused)
        outputs = [
            returned(self.made, n, name, self._codes)
            for n, name in zip(self.graph.outputs, self.graph.output_names, strict=True)
        ]
        self.made.set_outputs(outputs, self.graph.output_names)
        self.made.erase_dead()
        return self.made

    def _node(self, node: Node) -> None:
        match node.op:
            case Input():
                self._input(node)
            case Quantize():
                self.codes[node.id] = self._quantized(node)
            case _ if node.type.dtype.is_code:
                self.codes[node.id] = self._named(
                    self.made.add(
                        node.op, [self._codes(i) for i in node.inputs], loc=node.loc, quant=node.type.quant
                    ),
                    node,
                )
            case _ if _is_used_as_it_is(self.graph, node):
                self.codes[node.id] = self._named(self._computed(node, _said(self.graph, node)), node)
            case _:
                pass  # the Quantize nodes that follow compute it

    def _input(self, node: Node) -> None:
        quant = node.type.quant
        if node.type.dtype.is_code and quant is None:
            quant = Quant((1.0,), 0, None, node.type.dtype)
        given = self.made.input(node.name, node.type.dtype, node.shape, node.loc, quant)
        if node.type.dtype.is_code:
            given = self._named(self.made.add(Quantize(), (given,), loc=node.loc, quant=quant), node)
        self.codes[node.id] = given

    def _codes(self, node: Node) -> Node:
        """The codes of an operand."""
        source = node.inputs[0] if isinstance(node.op, Dequantize) else node
        if source.id not in self.codes:
            raise _Follows
        codes = self.codes[source.id]
        return self._opened(codes, source) if isinstance(codes.op, Input) else codes

    def _opened(self, given: Node, source: Node) -> Node:
        """The codes of a graph input that no Quantize takes, by the scale that the scheme has for it."""
        if source.id not in self.opened:
            quant = _said(self.graph, source) or Quantizer(self.made, self.scheme).chosen(source)
            made = self.made.add(Quantize(), (given,), name=source.name, loc=source.loc, quant=quant)
            made.views = (SourceView(source.name, (), made.shape),)
            self.opened[source.id] = made
        return self.opened[source.id]

    def _quantized(self, node: Node) -> Node:
        (real,) = node.inputs
        quant = node.type.quant
        assert quant is not None
        if isinstance(real.op, Input):
            made = self.made.add(Quantize(), (self.codes[real.id],), loc=node.loc, quant=quant)
        elif isinstance(real.op, Dequantize):
            made = self._requantized(self._codes(real), quant, node)
        else:
            made = self._computed(real, quant)
        return self._named(made, node)

    def _computed(self, real: Node, quant: Quant | None) -> Node:
        """A float operation on codes; `quant` is None where the model does not say how to quantize it."""
        given = {} if quant is None else {real.name: quant}
        inputs = [self._codes(i) for i in real.inputs if not is_parameter(i)]
        made = quantize_node(Quantizer(self.made, self.scheme, given), real, inputs)
        return made if quant is None else self._requantized(made, quant, real)

    def _requantized(self, codes: Node, quant: Quant, at: Node) -> Node:
        if codes.type.quant == quant:
            return codes
        return self.made.add(
            QTable("identity", ()), (codes,), name=f"{at.name}/requantized", loc=at.loc, quant=quant
        )

    def _named(self, made: Node, source: Node) -> Node:
        """The result under the name that the model gives its codes; a value may have several."""
        if made.id not in self.named:
            self.named.add(made.id)
            made.name, made.views = source.name, ()
        made.views += (SourceView(source.name, (), made.shape),)
        return made
