"""ONNX models to graphs, with every finding reported at once.

The file is not trusted: sizes are checked before anything is allocated, external data is read
only from the model's own folder, and nothing is left to the protobuf's good manners.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

import compiler.ops  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.errors import CompileError, Unsupported
from compiler.frontend.onnx_file import IN_MEMORY, OnnxModel, parse_onnx
from compiler.frontend.onnx_functions import Cycle, in_order, inlined, names_defined, names_read
from compiler.frontend.onnx_interface import MAX_VALUE_RANK, check_output, input_type
from compiler.frontend.onnx_schema import scale_faults, signature_faults
from compiler.frontend.onnx_tensors import read_sparse_tensor, read_tensor
from compiler.ir.evaluate import folded
from compiler.ir.graph import Graph, Input, Node
from compiler.ir.op import ShapeError
from compiler.ir.stage import Stage
from compiler.ir.types import MAX_ELEMENTS
from compiler.ops.quantize_linear import Dequantize, Quantize
from compiler.ops.real import Real
from compiler.ops.shape_arithmetic import ARITHMETIC, SIGNS, integer_arithmetic
from compiler.ops.shapes import Identity
from compiler.rules.importing import (
    MICROSOFT_DOMAIN,
    ONNX_OPERATORS,
    OnnxNode,
    OnnxRule,
    is_parameter,
    known_values,
)
from isa.support.diagnostics import Diagnostic, Findings, UsageError, did_you_mean, one_line
from isa.support.locations import FileLoc, Loc, NodeLoc
from isa.support.records import Frozen

INTEGER_OPERATORS: Final = ("Div", *SIGNS, *ARITHMETIC)
"""Operators with which shapes are computed."""
DEFAULT_DOMAINS: Final = ("", "ai.onnx")


class Imported(Frozen):
    """A model as it is imported: its graph, of which nothing is left out yet, and the tensors of the file."""

    graph: Graph
    tensors: Mapping[str, Node]
    """In order of computation."""


def import_onnx(model: OnnxModel, shapes: Mapping[str, Sequence[int]] | None = None) -> Imported:
    """An ONNX model, node by node; `shapes` fixes the dimensions of inputs that leave some open.

    Raises:
        CompileError: the file is no valid model, or uses what is not supported; all findings.
        UsageError: an input has open dimensions and no shape is given for it.
    """
    path = Path(IN_MEMORY) if isinstance(model, bytes) else model
    proto = inlined(parse_onnx(model), FileLoc(one_line(str(path))))
    folder = None if isinstance(model, bytes) else path.resolve().parent
    return _Importer(proto, path, folder, shapes or {}).run()


def one_sample(model: OnnxModel) -> dict[str, tuple[int, ...]]:
    """The shapes of one sample, of inputs that leave nothing but the number of samples open.

    Raises:
        CompileError: the file is no valid model.
    """
    graph, found = parse_onnx(model).graph, dict[str, tuple[int, ...]]()
    initialized = {t.name for t in graph.initializer}
    for value in graph.input:
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.name not in initialized and dims and dims[0] < 1 and all(d > 0 for d in dims[1:]):
            found[value.name] = (1, *dims[1:])
    return found


def read_onnx(model: OnnxModel, shapes: Mapping[str, Sequence[int]] | None = None) -> Graph:
    """The graph of an ONNX model, what its outputs need: see `import_onnx`."""
    graph = import_onnx(model, shapes).graph
    graph.erase_dead()
    if _computes_on_codes(graph):
        graph.stage = Stage.QDQ
        return graph
    for node in graph.nodes():  # weights alone are stored as codes
        if isinstance(node.op, Dequantize):
            graph.replace(node, graph.const(known_values(node), node.name, node.loc))
    graph.erase_dead()
    return graph


def _computes_on_codes(graph: Graph) -> bool:
    """Whether some value that the network computes is quantized, other than bytes cast to numbers."""

    def is_picture(node: Node) -> bool:
        return isinstance(node.op, Input) and all(isinstance(u.op, Real) for u in graph.users(node))

    computed = (n for n in graph.nodes() if not is_parameter(n) and not is_picture(n))
    return any(isinstance(n.op, (Quantize, Dequantize)) or n.type.dtype.is_code for n in computed)


class _Importer:
    def __init__(
        self, proto: onnx.ModelProto, path: Path, folder: Path | None, shapes: Mapping[str, Sequence[int]]
    ) -> None:
        self.proto, self.folder, self.shapes = proto, folder, shapes
        self.file = FileLoc(one_line(str(path)))
        self.findings = Findings(CompileError)
        self.graph = Graph(one_line(path.stem))
        self.names = names_defined(proto.graph)
        outputs = (value.name for value in proto.graph.output)
        self.read = {name for node in proto.graph.node for name in names_read(node)}.union(outputs)
        """The names that something reads."""
        self.values: dict[str, Node] = {}
        self.opset = 0
        self.failed: set[str] = set()
        """Tensors that a refused node would have given; what uses them is not reported again."""
        self.absent: dict[str, NodeLoc] = {}
        """Further outputs of nodes, which are not computed."""

    def run(self) -> Imported:
        self._check_opset()
        graph = self.proto.graph
        if not graph.node or not graph.output:
            self.findings.add("model.empty", "the graph has no nodes or no outputs", self.file)
        self.findings.raise_if_any()
        self._initializers()
        self._inputs()
        for node in self._ordered(graph.node):
            self._node(node)
        self._outputs()
        self.findings.raise_if_any()
        return Imported(self.graph, self.values)

    def _check_opset(self) -> None:
        imported = {d.domain: d.version for d in self.proto.opset_import}
        self.opset = next((imported[d] for d in DEFAULT_DOMAINS if d in imported), 0)
        newest = onnx.defs.onnx_opset_version()
        if not 1 <= self.opset <= newest:
            self.findings.add(
                "model.opset",
                f"the model imports opset {self.opset} of the default domain",
                self.file,
                allowed=f"1 to {newest}",
                remedy="export the model with an older opset",
            )
        self.domains = set(imported)

    # --- tensors ---------------------------------------------------------------------------------

    def _define(self, name: str, node: Node | None) -> None:
        if name in self.values:
            self.findings.add("model.duplicate", f"the tensor '{name}' is defined twice", self.file)
        elif node is None:
            self.failed.add(name)
        else:
            self.values[name] = node

    def _initializers(self) -> None:
        """The constants that something uses; others may be of any kind."""
        self._constants_of(self.proto.graph)

    def _constants_of(self, graph: onnx.GraphProto) -> None:
        """The constants of a graph that something reads."""
        for tensor in graph.initializer:
            if tensor.name in self.read:
                what = f"initializer '{tensor.name}'"
                self._define_constant(
                    tensor.name, read_tensor(tensor, what, self.file, self.folder, self.findings)
                )
        for sparse in graph.sparse_initializer:
            if (name := sparse.values.name) in self.read:
                what = f"sparse initializer '{name}'"
                self._define_constant(
                    name, read_sparse_tensor(sparse, what, self.file, self.folder, self.findings)
                )

    def _define_constant(self, name: str, array: NDArray[Any] | None) -> None:
        self._define(name, None if array is None else self.graph.const(array, name, self.file))

    def _inputs(self) -> None:
        initialized = {t.name for t in self.proto.graph.initializer}
        known = [v.name for v in self.proto.graph.input if v.name not in initialized]
        for name in self.shapes:
            if name not in known:
                raise UsageError(
                    Diagnostic(
                        "usage.shape",
                        f"the model has no input '{name}'",
                        self.file,
                        ", ".join(known),
                        did_you_mean(name, known),
                    )
                )
        for value in self.proto.graph.input:
            if not value.name or "\0" in value.name:
                self.findings.add("model.format", "a graph input has no name, or NUL in it", self.file)
            elif value.name in self.read and value.name not in initialized:
                self._define(value.name, self._input(value))
            elif value.name not in initialized:
                self.graph.unused_inputs += (value.name,)

    def _input(self, value: onnx.ValueInfoProto) -> Node | None:
        kind = input_type(value, self.shapes.get(value.name), self.file, self.findings)
        return None if kind is None else self.graph.input(value.name, kind.dtype, kind.shape, self.file)

    # --- nodes -----------------------------------------------------------------------------------

    def _ordered(self, given: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The nodes, producers first; a cycle is reported with its nodes."""
        nodes = list(given)
        self._check_single_assignment(nodes)
        try:
            return in_order(nodes)
        except Cycle as cycle:
            names = sorted(node.name or node.op_type for node in cycle.nodes)
            self.findings.add("model.cycle", f"the nodes {', '.join(names)} form a cycle", self.file)
        self.findings.raise_if_any()
        return []

    def _check_single_assignment(self, nodes: list[onnx.NodeProto]) -> None:
        """Every tensor is defined once; a second definition would look like a cycle."""
        defined = set(self.values) | self.failed
        for node in nodes:
            for name in filter(None, node.output):
                if name in defined:
                    self.findings.add(
                        "model.duplicate", f"the tensor '{name}' is defined twice", self._place(node)
                    )
                defined.add(name)
        self.findings.raise_if_any()

    def _place(self, node: onnx.NodeProto) -> NodeLoc:
        return NodeLoc(self.file.path, node.name or (node.output[0] if node.output else "?"), node.op_type)

    def _node(self, node: onnx.NodeProto) -> None:
        loc = self._place(node)
        made = self._import(node, loc)
        results = made if isinstance(made, list) else [made]
        for name, result in zip(node.output, results, strict=False):
            if name:
                self._define(name, result)
        self.absent |= {name: loc for name in node.output[len(results) :] if name}

    def _import(self, node: onnx.NodeProto, loc: NodeLoc) -> Node | list[Node] | None:
        """What a node gives; None where it is refused, with the finding recorded."""
        if not self._is_known(node, loc):
            return None
        if node.op_type in ("Constant", "If"):
            own = self._constant if node.op_type == "Constant" else self._branch
            return own(node, loc) if self._has_output(node, loc) else None
        if self._has_wrong_scales(node, loc):
            return None
        rule = self._rule(node, loc)
        operands = self._operands(node, loc) if rule is not None else None
        if rule is None or self._breaks_signature(node, loc) or operands is None:
            return None
        return self._ruled(node, loc, rule, operands) if self._has_output(node, loc) else None

    def _ruled(
        self, node: onnx.NodeProto, loc: NodeLoc, rule: OnnxRule, operands: list[Node | None]
    ) -> Node | list[Node] | None:
        """What the rule of an operator gives; None where it refuses."""
        request = OnnxNode(
            graph=self.graph,
            op_type=node.op_type,
            opset=self.opset,
            operands=operands,
            attributes={a.name: helper.get_attribute_value(a) for a in node.attribute},
            output=node.output[0],
            loc=loc,
            outputs=1 + sum(1 for o in node.output[1:] if o in self.read),
            output_names=[o or f"{node.output[0]}.output{i}" for i, o in enumerate(node.output)],
            taken=self.names,
        )
        try:
            made = integer_arithmetic(request) if node.op_type in INTEGER_OPERATORS else None
            return self._made(made or rule(request), loc)
        except Unsupported as refused:
            self.findings.found.append(refused.diagnostic)
        except ShapeError as error:
            self.findings.add("model.shape", error.message, loc, allowed=error.allowed, remedy=error.remedy)
        except (ArithmeticError, IndexError, ValueError):
            if all(o is None or o.type.elements for o in operands):
                raise
            text = f"{node.op_type} of operands without elements is not supported"
            self.findings.add("model.shape", text, loc, allowed="at least one element")
        return None

    def _has_output(self, node: onnx.NodeProto, loc: NodeLoc) -> bool:
        """Whether a node gives anything."""
        if node.output and node.output[0]:
            return True
        self.findings.add("model.format", "the node has no output", loc)
        return False

    def _is_known(self, node: onnx.NodeProto, loc: NodeLoc) -> bool:
        """Whether a node is of a domain that is imported."""
        domain = _domain(node)
        if domain not in ("", MICROSOFT_DOMAIN) or (domain and domain not in self.domains):
            known = (
                "which the model does not import"
                if node.domain not in self.domains
                else "which is not supported"
            )
            self.findings.add(
                "model.domain",
                f"the operator is of the domain '{node.domain}', {known}",
                loc,
                allowed=f"the default domain, {MICROSOFT_DOMAIN}",
            )
            return False
        return True

    def _rule(self, node: onnx.NodeProto, loc: NodeLoc) -> OnnxRule | None:
        """The rule that imports a node."""
        rule = ONNX_OPERATORS.get((_domain(node), node.op_type))
        if rule is None:
            known_here = sorted(name for where, name in ONNX_OPERATORS if where == _domain(node))
            self.findings.add(
                "model.operator",
                f"the operator '{node.op_type}' is not supported",
                loc,
                allowed="those that docs/operators.md lists",
                remedy=did_you_mean(node.op_type, known_here),
            )
        return rule

    def _breaks_signature(self, node: onnx.NodeProto, loc: NodeLoc) -> bool:
        faults = list(signature_faults(node, self.opset))
        for fault in faults:
            self.findings.add("model.signature", fault, loc, remedy="export the model again")
        return bool(faults)

    def _made(self, made: Node | list[Node], loc: Loc) -> Node | list[Node] | None:
        """Results as they enter the graph: constants folded; None where one is too large."""
        results = made if isinstance(made, list) else [made]
        if not all(self._fits(m, loc) for m in results):
            return None
        known = [self._known(m) or m for m in results]
        return known if isinstance(made, list) else known[0]

    def _known(self, node: Node) -> Node | None:
        """The constant that a node is: computed from constants, or of no elements."""
        if node.type.elements == 0 and not node.is_constant:
            return self.graph.const(np.zeros(node.shape, node.type.dtype.numpy), node.name, node.loc)
        return folded(node)

    def _has_wrong_scales(self, node: onnx.NodeProto, loc: Loc) -> bool:
        constants = {n: v.constant for n in node.input if (v := self.values.get(n)) and v.is_constant}
        wrong = list(scale_faults(node, self.opset, constants))
        for fault in wrong:
            self.findings.add("model.scale", fault, loc, allowed="finite and above 0")
        return bool(wrong)

    def _fits(self, node: Node, loc: Loc) -> bool:
        """Whether a value has a shape that the machine and the host can hold."""
        folded = all(o.is_constant for o in node.inputs)  # such a value is no tensor of the device
        rank_fits = len(node.shape) <= MAX_VALUE_RANK or folded
        if rank_fits and node.type.elements <= MAX_ELEMENTS:
            return True
        self.findings.add(
            "model.shape",
            f"the result has the shape {list(node.shape)}",
            loc,
            allowed=f"at most {MAX_VALUE_RANK} dimensions, {MAX_ELEMENTS} elements",
        )
        return False

    def _operands(self, node: onnx.NodeProto, loc: Loc) -> list[Node | None] | None:
        operands: list[Node | None] = []
        whole = True
        for name in node.input:
            if not name:
                operands.append(None)
            elif name in self.values:
                operands.append(self.values[name])
            else:
                whole = False
                self._missing(name, f"reads '{name}', which nothing defines", loc)
        return operands if whole else None

    def _missing(self, name: str, message: str, loc: Loc) -> None:
        """Report a tensor that is not there, once, unless its own refusal has been reported."""
        if name in self.failed:
            return
        self.failed.add(name)
        if name in self.absent:
            giver = self.absent[name]
            self.findings.add(
                "model.unsupported",
                f"the output '{name}' is used, and only the first output of {giver.op_type} is supported",
                giver,
                allowed="one output",
            )
            return
        self.findings.add(
            "model.missing",
            message,
            loc,
            allowed="a graph input, an initializer, or another node's output",
            remedy=did_you_mean(name, self.values),
        )

    def _branch(self, node: onnx.NodeProto, loc: NodeLoc) -> list[Node] | None:
        """What the branch of an If on a constant gives."""
        operands = None if self._breaks_signature(node, loc) else self._operands(node, loc)
        if operands is None or (condition := operands[0]) is None:
            return None
        if condition.value is None or condition.value.size != 1:
            message = "the condition is computed by the network"
            self.findings.add("model.unsupported", message, loc, allowed="a constant")
            return None
        chosen = "then_branch" if condition.value.any() else "else_branch"
        branch = next(a.g for a in node.attribute if a.name == chosen)
        self._constants_of(branch)
        for inner in self._ordered(branch.node):
            self._node(inner)
        made: list[Node] = []
        for value, name in zip(branch.output, node.output, strict=False):
            if value.name not in self.values:
                self._missing(value.name, f"the branch gives '{value.name}', which nothing defines", loc)
                return None
            given = self.values[value.name]
            made.append(self.graph.add(Identity(), (given,), name=name, loc=loc))
        return [folded(m) or m for m in made]

    def _constant(self, node: onnx.NodeProto, loc: Loc) -> Node | None:
        for attribute in node.attribute:
            if attribute.name == "value":
                what = f"the constant '{node.name}'"
                array = read_tensor(attribute.t, what, self.file, self.folder, self.findings)
                return None if array is None else self.graph.const(array, node.output[0], loc)
            if attribute.name in ("value_float", "value_floats"):
                values = np.asarray(helper.get_attribute_value(attribute), np.float32)
                return self.graph.const(values, node.output[0], loc)
            if attribute.name in ("value_int", "value_ints"):
                return self.graph.const(
                    np.asarray(helper.get_attribute_value(attribute), np.int64), node.output[0], loc
                )
        self.findings.add(
            "model.unsupported",
            "the constant has no value of a supported kind",
            loc,
            allowed="value, value_float(s), value_int(s)",
        )
        return None

    def _outputs(self) -> None:
        nodes: list[Node] = []
        names: list[str] = []
        for value in self.proto.graph.output:
            if not value.name or "\0" in value.name or value.name in names:
                what = (
                    f"the graph output '{value.name}' is declared twice, or has NUL in its name"
                    if value.name
                    else "an output has no name"
                )
                self.findings.add("model.output", what, self.file)
                continue
            node = self.values.get(value.name)
            if node is None:
                self._missing(
                    value.name, f"the graph output '{value.name}' is computed by nothing", self.file
                )
                continue
            check_output(value, node, self.file, self.findings)
            nodes.append(node)
            names.append(value.name)
        self.graph.set_outputs(nodes, names)


def _domain(node: onnx.NodeProto) -> str:
    """The domain of a node; that of ONNX is empty, whatever it is called."""
    return "" if node.domain in DEFAULT_DOMAINS else node.domain
