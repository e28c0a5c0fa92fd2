"""Text to graph: the inverse of the printer."""

from __future__ import annotations

import base64
import json
import math
from typing import Any, NoReturn, cast, get_type_hints

import numpy as np
from lark import Token, Tree
from numpy.typing import NDArray

import compiler.ops  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.errors import CompileError
from compiler.ir.graph import Graph, Node, SourceView
from compiler.ir.op import OPS, ShapeError
from compiler.ir.printer import digest
from compiler.ir.stage import Stage
from compiler.ir.types import MAX_ELEMENTS, DType, Quant, Shape, TensorType
from compiler.ir.verify import VerifyError, verify
from isa.program import Steps
from isa.support.diagnostics import Diagnostic, did_you_mean
from isa.support.locations import UNKNOWN, FileLoc, FusedLoc, Loc, NodeLoc
from isa.support.parsing import Parsed, SyntaxProblem, grammar, lines_of, parse, trees
from isa.support.record_json import RecordError, from_builtins, is_unicode
from isa.support.records import names_of


def parse_graph(text: str, path: str = "<text>") -> Graph:
    """The graph of a text that holds its constants' bytes.

    Raises:
        CompileError: the text is not such a graph.
    """
    return _Reader(path, text).read()


class _Reader:
    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text
        self.blobs: dict[str, bytes] = {}
        self.nodes: dict[str, Node] = {}

    def read(self) -> Graph:
        try:
            tree = parse(grammar("compiler", "ir"), self.text)
        except SyntaxProblem as p:
            lines = lines_of(self.text)
            loc = FileLoc(self.path, p.line, p.column, p.column + p.width)
            source = lines[p.line - 1] if p.line <= len(lines) else ""
            raise CompileError(
                Diagnostic("ir.syntax", p.message, loc, p.expected, source_line=source)
            ) from None
        try:
            return self._graph(tree)
        except RecordError as error:
            self._fail(tree, str(error))
        except RecursionError:
            self._fail(tree, "the text is nested too deeply")

    def _graph(self, tree: Parsed) -> Graph:
        children = tree.children
        for blob in trees(tree, "blob"):
            self._blob(blob)
        name, stage = _string(children[0]), str(children[1])
        if stage not in list(Stage):
            self._fail(tree, f"there is no stage '{stage}'", ", ".join(Stage))
        said = {
            word: next((_string(s.children[0]) for s in trees(tree, word)), "")
            for word in ("scales", "scheme")
        }
        graph = Graph(name, Stage(stage), said["scales"], said["scheme"])
        for node in trees(tree, "node"):
            self._node(graph, node)
        results = [c.children for r in trees(tree, "results") for c in trees(r, "result")]
        graph.set_outputs([self._use(tree, str(v)) for v, _ in results], [_string(n) for _, n in results])
        try:
            verify(graph)
        except VerifyError as error:
            self._fail(tree, str(error))
        return graph

    def _fail(self, at: Parsed, message: str, allowed: str = "", remedy: str = "") -> NoReturn:
        line = 0 if at.meta.empty else at.meta.line
        raise CompileError(
            Diagnostic("ir.invalid", message, FileLoc(self.path, line), allowed, remedy)
        ) from None

    def _blob(self, tree: Parsed) -> None:
        name, content = str(tree.children[0]), _string(tree.children[1])
        try:
            self.blobs[name] = base64.b64decode(content, validate=True)
        except ValueError:
            self._fail(tree, f"the blob {name} is not base64")

    def _use(self, at: Parsed, name: str) -> Node:
        if name not in self.nodes:
            self._fail(at, f"{name} is used before it is defined")
        return self.nodes[name]

    def _node(self, graph: Graph, tree: Parsed) -> None:
        target, name = str(tree.children[0]), str(tree.children[1])
        if name not in OPS:
            self._fail(tree, f"there is no operation '{name}'", remedy=did_you_mean(name, OPS))
        inputs = [self._use(tree, str(v)) for o in trees(tree, "operands") for v in o.children]
        operation = self._operation(tree, name)
        kind, value = self._type(tree, trees(tree, "type")[0])
        further = tuple(self._type(tree, t)[0] for t in trees(tree, "type")[1:])
        label = next(_string(c) for c in tree.children if isinstance(c, Token) and c.type == "STRING")
        views = tuple(self._view(tree, v, kind.shape) for v in trees(tree, "view"))
        loc = _loc(trees(tree, "loc")[0])
        if target in self.nodes:
            self._fail(tree, f"{target} is defined twice")
        try:
            self.nodes[target] = graph.add(
                operation, inputs, name=label, loc=loc, type_=kind, further=further, value=value, views=views
            )
        except ShapeError as error:
            self._fail(tree, error.message, error.allowed)

    def _view(self, at: Parsed, tree: Parsed, shape: Shape) -> SourceView:
        name, (steps, result) = str(tree.children[0]), (_value(c) for c in tree.children[1:])
        try:
            view = SourceView(
                _string(tree.children[0]),
                cast("Steps", from_builtins(Steps, steps, "steps")),
                cast("Shape", from_builtins(Shape, result, "shape")),
            )
        except RecordError as error:
            self._fail(at, f"view {name}: {error}")
        size = math.prod(shape)
        for each, perm in (*view.steps, (view.shape, range(len(view.shape)))):
            if min(each, default=1) < 1 or math.prod(each) != size or sorted(perm) != list(range(len(each))):
                self._fail(at, f"view {name} does not take {list(shape)} to {list(view.shape)}")
        return view

    def _operation(self, tree: Parsed, name: str) -> Any:
        cls = OPS[name]
        given = {
            str(a.children[0]): _value(a.children[1])
            for attrs in trees(tree, "attributes")
            for a in trees(attrs, "attribute")
        }
        hints = get_type_hints(cls)
        names = names_of(cls)
        if extra := sorted(set(given) - set(names)):
            self._fail(tree, f"'{name}' has no attribute '{extra[0]}'", ", ".join(names))
        try:
            return cls(**{n: from_builtins(hints[n], given[n], n) for n in names if n in given})
        except RecordError as error:
            self._fail(tree, str(error))
        except TypeError:
            self._fail(tree, f"'{name}' lacks an attribute", ", ".join(names))

    def _type(self, at: Parsed, tree: Parsed) -> tuple[TensorType, NDArray[Any] | None]:
        dtype_name, *dims = [str(c) for c in tree.children if isinstance(c, Token)]
        if dtype_name not in list(DType):
            self._fail(at, f"there is no element type '{dtype_name}'", ", ".join(DType))
        dtype, shape = DType(dtype_name), tuple(int(d) for d in dims)
        quant = next((self._quant(at, q, dtype) for q in trees(tree, "quant")), None)
        kind = TensorType(dtype, shape, quant)
        if min(shape, default=1) < 1 or kind.elements > MAX_ELEMENTS:
            self._fail(at, f"{kind} is no shape", "dimensions of at least 1")
        payload = next(iter(trees(tree, "payload")), None)
        if payload is None:
            return kind, None
        name = str(payload.children[0])
        data = self.blobs.get(name)
        if data is None:
            self._fail(at, f"the constant {name} is not in the file", remedy="print the graph with its blobs")
        if len(data) != kind.elements * dtype.numpy.itemsize:
            self._fail(at, f"the constant {name} has {len(data)} bytes, not those of {kind}")
        value = np.frombuffer(data, dtype.numpy).reshape(shape)
        if digest(value) != name:
            self._fail(at, f"the constant {name} has another digest")
        return kind, value

    def _quant(self, at: Parsed, tree: Parsed, dtype: DType) -> Quant:
        scales, zero, axis = (_value(c) for c in tree.children)
        try:
            return Quant(
                cast("tuple[float, ...]", from_builtins(tuple[float, ...], scales, "scales")),
                cast("int", from_builtins(int, zero, "zero point")),
                cast("int | None", from_builtins(int | None, axis, "axis")),
                dtype,
            )
        except RecordError as error:
            self._fail(at, str(error))


def _string(token: Parsed | Token) -> str:
    """The text of a quoted string.

    Raises:
        RecordError: an escape that JSON does not have, or half a surrogate pair.
    """
    try:
        text = str(json.loads(str(token)))
    except ValueError:
        raise RecordError(f"{token} is no string as JSON has them") from None
    if not is_unicode(text):
        raise RecordError(f"{token} holds half of a surrogate pair")
    return text


def _real(text: str) -> float:
    try:
        return float.fromhex(text)
    except OverflowError:
        raise RecordError(f"{text} is beyond float64") from None


def _value(node: Parsed | Token) -> object:
    assert isinstance(node, Tree)
    match node.data:
        case "real":
            return _real(str(node.children[0]))
        case "integer":
            return int(str(node.children[0]))
        case "text":
            return _string(node.children[0])
        case "list":
            return [_value(c) for c in node.children]
        case word:
            return {"true": True, "false": False, "none": None}[str(word)]


def _loc(tree: Parsed) -> Loc:
    return _place(cast("Parsed", tree.children[0])) if tree.children else UNKNOWN


def _place(tree: Parsed) -> Loc:
    words = [c for c in tree.children if isinstance(c, Token)]
    if tree.data == "file":
        path, line, column, end = words
        return FileLoc(_string(path), int(line), int(column), int(end))
    if tree.data == "model_node":
        model, node, op_type = (_string(w) for w in words)
        return NodeLoc(model, node, op_type)
    return FusedLoc(tuple(_place(cast("Parsed", c)) for c in tree.children))
