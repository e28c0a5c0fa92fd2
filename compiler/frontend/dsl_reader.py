"""The network language to graphs: Keras-like layers applied to named values.

Weights come from an .npz file beside the text, under the names that Keras gives them:
`conv2d/kernel`, `conv2d/bias`, `dense/kernel`, and so on; `name="..."` overrides a layer's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NoReturn, cast

import numpy as np
from lark import Token, Tree
from numpy.typing import NDArray

import compiler.ops  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.errors import CompileError, Unsupported
from compiler.frontend.texts import read_text
from compiler.ir.graph import Graph, Node
from compiler.ir.op import ShapeError
from compiler.ir.types import MAX_ELEMENTS, DType
from compiler.rules.importing import LAYERS, LayerCall
from isa.support.arrays import members
from isa.support.diagnostics import MAX_FOUND, Diagnostic, UsageError, did_you_mean, one_line
from isa.support.locations import FileLoc
from isa.support.numerals import MAX_DIGITS
from isa.support.parsing import Parsed, SyntaxProblem, grammar, lines_of, parse
from isa.support.paths import is_file, resolved

MAX_TEXT: Final = 1 << 20
MAX_SYNTAX_ERRORS: Final = 20


def read_dsl(path: Path, fresh: Callable[[str, tuple[int, ...]], Any] | None = None) -> Graph:
    """The graph of a .net file; `fresh` gives the weights in the place of the file that it names.

    Raises:
        CompileError: the text is no network; every finding, with line, column and caret.
    """
    return _Reader(path, read_text(path, MAX_TEXT, "dsl"), fresh).run()


class _Abort(Exception):
    """A finding that ends one statement."""


class _Reader:
    def __init__(
        self, path: Path, text: str, fresh: Callable[[str, tuple[int, ...]], Any] | None = None
    ) -> None:
        self.path, self.text, self.fresh = path, text, fresh
        self.shown = one_line(str(path))
        """The path in messages and places: it may hold what is no text."""
        self.lines = lines_of(text)
        self.found: list[Diagnostic] = []
        self.graph = Graph(one_line(path.stem))
        self.values: dict[str, Node] = {}
        self.broken: set[str] = set()
        self.names: dict[str, int] = {}
        self.taken: set[str] = set()
        self.weights: _Weights | None = None
        self.weights_named = False
        self.outputs: list[Token] = []

    def run(self) -> Graph:
        for statement in self._parse().children:
            if len(self.found) >= MAX_FOUND:
                break
            try:
                getattr(self, f"_{cast('Parsed', statement).data}")(cast("Parsed", statement))
            except _Abort:
                if cast("Parsed", statement).data == "input":
                    self.broken.add(str(cast("Parsed", statement).children[0]))
            except (Unsupported, ShapeError) as error:
                self._note(cast("Parsed", statement), error)
        if not self.outputs and not self.found:
            self.found.append(
                Diagnostic(
                    "dsl.output",
                    "the network has no output",
                    FileLoc(self.shown),
                    remedy="end it with: output NAME",
                )
            )
        nodes = [self.values[str(t)] for t in self.outputs if t in self.values]
        if self.found:
            raise CompileError(self.found)
        self.graph.set_outputs(nodes, [str(t) for t in self.outputs])
        self.graph.erase_dead()
        return self.graph

    def _parse(self) -> Parsed:
        """The tree of the text; a line with a syntax error is noted, and the rest is read without it."""
        lines = list(self.lines)
        found: list[Diagnostic] = []
        while True:
            try:
                tree = parse(grammar("compiler", "dsl"), "\n".join(lines))
            except SyntaxProblem as p:
                found.append(
                    self._diagnostic(
                        "dsl.syntax", p.message, p.line, p.column, p.column + p.width, p.expected
                    )
                )
                if len(found) < MAX_SYNTAX_ERRORS and p.line <= len(lines) and lines[p.line - 1].strip():
                    lines[p.line - 1] = ""
                    continue
            else:
                if not found:
                    return tree
            raise CompileError(found)

    def _diagnostic(
        self, code: str, message: str, line: int, column: int, end: int, allowed: str = "", remedy: str = ""
    ) -> Diagnostic:
        source = self.lines[line - 1] if 0 < line <= len(self.lines) else ""
        return Diagnostic(
            code, message, FileLoc(self.shown, line, column, end), allowed, remedy, source_line=source
        )

    def _loc(self, at: Parsed | Token) -> FileLoc:
        if isinstance(at, Token):
            return FileLoc(self.shown, at.line or 0, at.column or 0, at.end_column or 0)
        if at.meta.empty:
            return FileLoc(self.shown)
        return FileLoc(
            self.shown,
            at.meta.line,
            at.meta.column,
            at.meta.end_column if at.meta.end_line == at.meta.line else at.meta.column + 1,
        )

    def _fail(
        self, at: Parsed | Token, code: str, message: str, allowed: str = "", remedy: str = ""
    ) -> NoReturn:
        loc = self._loc(at)
        self.found.append(
            self._diagnostic(code, message, loc.line, loc.column, loc.end_column, allowed, remedy)
        )
        raise _Abort

    def _note(self, statement: Parsed, error: Unsupported | ShapeError) -> None:
        """Record what a layer refused, and do not report what follows from it."""
        if statement.data == "assign":
            self.broken.add(str(statement.children[0]))
        place = self._loc(cast("Parsed", statement.children[-1]))
        if isinstance(error, Unsupported):
            d = error.diagnostic
            message, allowed, remedy, code = d.message, d.allowed, d.remedy, d.code
        else:
            message, allowed, remedy, code = error.message, error.allowed, error.remedy, "dsl.shape"
        self.found.append(
            self._diagnostic(code, message, place.line, place.column, place.end_column, allowed, remedy)
        )

    # --- statements ------------------------------------------------------------------------------

    def _model(self, statement: Parsed) -> None:
        self.graph.name = str(statement.children[0])

    def _weights(self, statement: Parsed) -> None:
        token = cast("Token", statement.children[0])
        self.weights_named = True
        if self.fresh is not None:
            return
        folder = self.path.resolve().parent
        place = resolved(folder / str(token)[1:-1])
        if place is None or not place.is_relative_to(folder):
            self._fail(token, "dsl.weights", f"{token} lies outside the folder of the network")
        if not is_file(place):
            self._fail(token, "dsl.weights", f"there is no file {token}")
        try:
            self.weights = _Weights(place)
        except UsageError as error:
            self._fail(token, "dsl.weights", f"{token} cannot be read: {error.diagnostics[0].message}")

    def _input(self, statement: Parsed) -> None:
        name, dtype, *dims = cast("list[Token]", statement.children)
        self._new(name)
        if dtype != "float32":
            self._fail(dtype, "dsl.dtype", f"an input of dtype '{dtype}' is not supported", "float32")
        shape = tuple(self._integer(d) for d in dims)
        if not 2 <= len(shape) <= 4 or min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
            self._fail(
                dims[0],
                "dsl.shape",
                f"the shape {list(shape)} is not allowed",
                "[batch, ...] of 2 to 4 dimensions, each at least 1",
            )
        self.taken.add(str(name))
        self.values[str(name)] = self.graph.input(str(name), DType.F32, shape, self._loc(name))

    def _assign(self, statement: Parsed) -> None:
        target, application = cast("Token", statement.children[0]), cast("Parsed", statement.children[1])
        try:
            self.values[str(target)] = self._apply(application)
            self.broken.discard(str(target))
        except _Abort:
            self.broken.add(str(target))
            raise

    def _output(self, statement: Parsed) -> None:
        for token in cast("list[Token]", statement.children):
            self._use(token)
            if token in self.outputs:
                self._fail(token, "dsl.output", f"'{token}' is an output twice")
            self.outputs.append(token)

    def _new(self, name: Token) -> None:
        if name in self.values:
            self._fail(name, "dsl.name", f"the value '{name}' is defined twice")

    def _use(self, name: Token) -> Node:
        if name in self.broken:
            raise _Abort
        if name not in self.values:
            self._fail(
                name,
                "dsl.name",
                f"the value '{name}' is not defined",
                ", ".join(self.values),
                did_you_mean(name, self.values),
            )
        return self.values[str(name)]

    def _apply(self, application: Parsed) -> Node:
        name = cast("Token", application.children[0])
        if name not in LAYERS:
            self._fail(
                name,
                "dsl.layer",
                f"there is no layer '{name}'",
                ", ".join(sorted(LAYERS)),
                did_you_mean(name, LAYERS),
            )
        rule, positional = LAYERS[str(name)]
        operands = [self._use(cast("Token", t)) for t in _tree(application, "operands").children]
        arguments = self._arguments(application, str(name), positional)
        label = arguments.pop("name", None)
        if label is not None and not isinstance(label, str):
            self._fail(name, "dsl.layer", f"name={label!r} is no text")
        layer_name = label if isinstance(label, str) else self._default_name(str(name))
        if layer_name in self.taken:
            self._fail(
                name, "dsl.name", f"the name '{layer_name}' is taken", remedy='give another: name="..."'
            )
        self.taken.add(layer_name)
        call = LayerCall(
            self.graph,
            str(name),
            layer_name,
            operands,
            arguments,
            self._source(layer_name),
            self._loc(application),
        )
        return rule(call)

    def _default_name(self, layer: str) -> str:
        """Keras's name of the n-th layer of a kind: conv2d, conv2d_1, ..."""
        snake = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", layer).lower().replace("conv2_d", "conv2d")
        count = self.names.get(snake, 0)
        self.names[snake] = count + 1
        return snake if count == 0 else f"{snake}_{count}"

    def _arguments(self, application: Parsed, layer: str, positional: Sequence[str]) -> dict[str, object]:
        given: dict[str, object] = {}
        places = list(positional)
        for tree in application.children:
            if not isinstance(tree, Tree) or tree.data != "arguments":
                continue
            for argument in cast("list[Parsed]", tree.children):
                if argument.data == "positional":
                    if not places:
                        self._fail(
                            argument, "dsl.layer", f"{layer} takes {len(positional)} arguments without a name"
                        )
                    key, value = places.pop(0), argument.children[0]
                else:
                    key, value = str(argument.children[0]), argument.children[1]
                if key in given:
                    self._fail(argument, "dsl.layer", f"'{key}' is given twice")
                given[key] = self._argument(cast("Parsed", value))
        return given

    def _integer(self, token: Token) -> int:
        if len(token) > MAX_DIGITS:
            text = f"the number has {len(token)} digits"
            self._fail(token, "dsl.number", text, f"at most {MAX_DIGITS}")
        return int(token)

    def _argument(self, value: Parsed) -> object:
        match value.data:
            case "integer":
                return self._integer(cast("Token", value.children[0]))
            case "real":
                return float(str(value.children[0]))
            case "text":
                return str(value.children[0])[1:-1]
            case "tuple":
                return tuple(self._argument(cast("Parsed", c)) for c in value.children)
            case _:
                word = str(value.children[0])
                words: dict[str, object] = {
                    "true": True,
                    "false": False,
                    "True": True,
                    "False": False,
                    "None": None,
                }
                if word not in words:
                    self._fail(
                        value,
                        "dsl.syntax",
                        f"'{word}' is no value",
                        'a number, a "text", true, false',
                        f'"{word}" in quotes, if a text is meant',
                    )
                return words[word]

    def _source(self, layer: str) -> Callable[[str, tuple[int, ...]], NDArray[np.float32]]:
        def take(kind: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
            if self.fresh is not None:
                return self.fresh(f"{layer}/{kind}", shape)
            if self.weights is None and self.weights_named:
                raise _Abort  # why the file cannot be used has been said
            if self.weights is None:
                raise Unsupported(
                    Diagnostic(
                        "dsl.weights",
                        f"'{layer}' needs weights, and the network names no file",
                        remedy='add: weights "FILE.npz"',
                    )
                )
            return self.weights.take(f"{layer}/{kind}", shape)

        return take


class _Weights:
    """The arrays of an .npz file, each checked before it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.members = members(path)

    def take(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The float32 array of that name and shape."""
        member = self.members.get(name)
        if member is None:
            known = sorted(self.members)
            _refuse(f"'{self.path.name}' has no array '{name}'", ", ".join(known), did_you_mean(name, known))
        if member.shape != shape or member.dtype != np.float32:
            _refuse(f"the array '{name}' is {member.dtype}{list(member.shape)}", f"float32{list(shape)}")
        try:
            value: NDArray[np.float32] = member.read()
        except UsageError as error:
            _refuse(f"the array '{name}' cannot be read: {error.diagnostics[0].message}")
        if not np.isfinite(value).all():
            _refuse(f"the array '{name}' holds NaN or infinity")
        return value


def _refuse(message: str, allowed: str = "", remedy: str = "") -> NoReturn:
    raise Unsupported(Diagnostic("dsl.weights", message, allowed=allowed, remedy=remedy)) from None


def _tree(parent: Parsed, kind: str) -> Parsed:
    return next(c for c in parent.children if isinstance(c, Tree) and c.data == kind)
