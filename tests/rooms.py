"""The order of the rooms: which file may import which, whether files import one another in a circle, and
whether memories and DRAM regions are called by their names.

Code is read as text, so that faults can be planted in it. Imports inside functions and under TYPE_CHECKING
count. `from package import submodule` is an import of the submodule.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, cast

import networkx as nx

Sources = Mapping[str, str]
"""The text of every file of the four packages, by its path."""
PACKAGES: Final = {"isa": ("isa",), "compiler": ("isa", "compiler"), "runtime": ("isa", "runtime"),
                   "x1": ("isa", "compiler", "runtime", "x1")}  # fmt: skip
"""What each package may import from."""
ORDER: Final = (
    "isa/__init__.py",
    *("isa/support/", "isa/versions.py", "isa/target.py", "isa/memory_map.py", "isa/spec.py"),
    *("isa/arithmetic.py", "isa/footprint.py", "isa/instructions/", "isa/encoding.py", "isa/validate.py"),
    *(
        "isa/accesses.py",
        "isa/program.py",
        "isa/executable.py",
        "isa/pooling.py",
        "isa/soundness.py",
        "isa/elf.py",
        "isa/container.py",
        "isa/assembly/",
        "isa/faults.py",
        "isa/waiting.py",
    ),
    *("isa/checker/", "isa/timing/", "isa/manual/"),
    *("compiler/__init__.py", "compiler/errors.py", "compiler/ir/", "compiler/quantize/", "compiler/rules/"),
    *("compiler/ops/", "compiler/frontend/", "compiler/export/", "compiler/passes/", "compiler/train/"),
    *("compiler/schedule/__init__.py", "compiler/schedule/options.py", "compiler/schedule/tile_graph.py"),
    *("compiler/schedule/builder.py", "compiler/schedule/tiles/", "compiler/schedule/segments/"),
    *(
        "compiler/schedule/order/",
        "compiler/schedule/scheduler.py",
        "compiler/schedule/printer.py",
        "compiler/schedule/tokens.py",
        "compiler/schedule/step/",
    ),
    *(
        "compiler/codegen/__init__.py",
        "compiler/codegen/emit.py",
        "compiler/codegen/emit_step.py",
        "compiler/codegen/training.py",
    ),
    *("compiler/driver.py", "compiler/search.py", "compiler/partition/", "compiler/manual.py"),
    *(
        "runtime/__init__.py",
        "runtime/memory.py",
        "runtime/mailboxes.py",
        "runtime/state.py",
        "runtime/executors/",
    ),
    *(
        "runtime/host.py",
        "runtime/capture.py",
        "runtime/session.py",
        "runtime/devices.py",
        "runtime/trace.py",
    ),
    *(
        "x1/version.py",
        "x1/files.py",
        "x1/data.py",
        "x1/samples.py",
        "x1/graph_export.py",
        "x1/binary.py",
        "x1/model.py",
        "x1/quantization.py",
        "x1/api.py",
    ),
    *(
        "x1/trainer.py",
        "x1/checkpoint.py",
        "x1/keras/",
        "x1/training.py",
        "x1/session.py",
        "x1/onnx_backend.py",
        "x1/lab/",
        "x1/__init__.py",
        "x1/cli/",
        "x1/__main__.py",
    ),
)
"""The rooms, each a file or a folder: a file imports from its own room and from those before it."""
FRONT_DOOR: Final = "x1/__init__.py"
"""Its re-exports count nowhere: they are what the package is for."""
NAMED: Final = re.compile(r"(^|_)(regions?|spaces?)$", re.IGNORECASE)
"""What must not be given, or compared with, a bare number."""


def sources(repository: Path) -> dict[str, str]:
    """The text of every file of the four packages."""
    paths = sorted(path for package in PACKAGES for path in (repository / package).rglob("*.py"))
    return {str(path.relative_to(repository)): path.read_text(encoding="utf-8") for path in paths}


@cache
def nodes(text: str) -> list[ast.AST]:
    """The nodes of a file's tree."""
    return list(ast.walk(ast.parse(text)))


@cache
def _imports(text: str) -> list[tuple[str, str]]:
    """The modules that a file imports, and the names from them; no name where it is the module itself."""
    found: list[tuple[str, str]] = []
    for node in nodes(text):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def imported(path: str, code: Sources) -> set[str]:
    """The files of the packages that a file imports."""
    found = {_file(f"{module}.{name}", code) or _file(module, code) for module, name in _imports(code[path])}
    return found - {"", path}


def _file(module: str, code: Sources) -> str:
    """The file of a module, or nothing where it is not ours."""
    plain = module.replace(".", "/")
    return next((name for name in (f"{plain}.py", f"{plain}/__init__.py") if name in code), "")


def room(path: str) -> str:
    """The room of a file, or nothing where it has none."""
    return next((r for r in ORDER if path == r or (r.endswith("/") and path.startswith(r))), "")


def misplaced(code: Sources) -> Iterator[str]:
    """Imports against the order, and files without a room."""
    for path in code:
        if not room(path):
            yield f"{path} has no room: add it to ORDER"
            continue
        for other in sorted(imported(path, code)) if path != FRONT_DOOR else ():
            allowed = other.split("/")[0] in PACKAGES[path.split("/")[0]]
            if not allowed or ORDER.index(room(other)) > ORDER.index(room(path)):
                yield f"{path} imports {other}, which stands after it"


def circles(code: Sources) -> list[list[str]]:
    """Files that import one another, each circle sorted."""
    net: Any = cast("Any", nx).DiGraph()
    for path in code:
        if path != FRONT_DOOR:
            net.add_edges_from((path, other) for other in imported(path, code))
    parts: list[set[str]] = list(nx.strongly_connected_components(net))
    return sorted(sorted(part) for part in parts if len(part) > 1)


def bare_numbers(code: Sources, among: Iterable[str] | None = None) -> Iterator[str]:
    """Places where a region or a space is a number and not a name, in all files or in some."""
    positions = _positions(code)
    for path, text in code.items():
        if among is not None and path not in among:
            continue
        for node in nodes(text):
            if any(_is_number(value) for value in _given(node, positions)):
                yield f"{path}:{getattr(node, 'lineno', 0)}: {ast.unparse(node)[:80]}"


def _positions(code: Sources) -> dict[str, set[int]]:
    """For every function and class the places of arguments that are named region or space."""
    found: dict[str, set[int]] = {}
    for text in code.values():
        for name, places in _positions_of(text):
            found.setdefault(name, set()).update(places)
    return found


@cache
def _positions_of(text: str) -> list[tuple[str, set[int]]]:
    found: list[tuple[str, set[int]]] = []
    for node in nodes(text):
        if isinstance(node, ast.ClassDef):
            declared = [n.target for n in node.body if isinstance(n, ast.AnnAssign)]
            found.append((node.name, _named_at([_name(target) for target in declared])))
        elif isinstance(node, ast.FunctionDef):
            names = [a.arg for a in node.args.args if a.arg not in ("self", "cls")]
            found.append((node.name, _named_at(names)))
    return [(name, places) for name, places in found if places]


def _named_at(names: list[str]) -> set[int]:
    return {i for i, name in enumerate(names) if NAMED.search(name)}


def _given(node: ast.AST, positions: Mapping[str, set[int]]) -> Iterator[ast.expr | None]:
    """What a piece of code gives to a region or a space, or compares with one."""
    match node:
        case ast.Call(func=function, args=arguments, keywords=keywords):
            yield from (k.value for k in keywords if k.arg and NAMED.search(k.arg))
            places = positions.get(_name(function), ())
            yield from (value for i, value in enumerate(arguments) if i in places)
        case ast.Compare(left=left, comparators=comparators):
            sides = [left, *comparators]
            if any(NAMED.search(_name(side)) for side in sides):
                yield from sides
        case ast.Assign(targets=targets, value=value):
            yield from (value for target in targets if NAMED.search(_name(target)))
        case ast.AnnAssign(target=target, value=value) if NAMED.search(_name(target)):
            yield value
        case ast.Subscript(value=holder, slice=index) if NAMED.search(_name(holder)):
            yield index
        case ast.FunctionDef(args=parameters):
            names = parameters.args[len(parameters.args) - len(parameters.defaults) :]
            yield from (v for a, v in zip(names, parameters.defaults, strict=True) if NAMED.search(a.arg))
        case ast.Match(subject=subject, cases=cases) if NAMED.search(_name(subject)):
            yield from (case.pattern.value for case in cases if isinstance(case.pattern, ast.MatchValue))
        case _:
            return


def _name(node: ast.expr) -> str:
    """The last name of an expression."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return _name(function)
        case _:
            return ""


def _is_number(node: ast.expr | None) -> bool:
    """Whether an expression is a whole number, or some of them."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int) and not isinstance(value, bool)
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            return any(_is_number(item) for item in items)
        case ast.UnaryOp(operand=operand):
            return _is_number(operand)
        case _:
            return False
