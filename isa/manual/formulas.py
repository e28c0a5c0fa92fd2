"""What the page of an instruction says beyond its fields: its cost, what it touches, where its meaning is.

Formulas are the code of the declarations, so that the page cannot say anything else.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, Final

from isa.spec import ElementType, Instruction, Operand
from isa.support.records import replace
from isa.target import Target

MAX_MODES: Final = 4096
"""Combinations of functions and flags looked at to see what an instruction touches."""


def costs(cls: type[Instruction]) -> str:
    """The code of `cycles`, and of `latency` where the instruction has one."""
    methods = [cls.cycles] if cls.latency is Instruction.latency else [cls.cycles, cls.latency]
    return "\n".join(_code(method) for method in methods)


def helpers(classes: list[type[Instruction]]) -> str:
    """The functions and numbers that costs of these instructions name, each once, in order of their names."""
    found: dict[str, str] = {}
    for cls in classes:
        for method in (cls.cycles, cls.latency):
            _collect(cls, method, found)
    return "\n".join(found[name] for name in sorted(found))


def _collect(cls: type[Instruction], method: Callable[..., Any], found: dict[str, str]) -> None:
    for name, called in _called(cls, method):
        if name not in found:
            found[name] = _code(called)
            _collect(cls, called, found)
    known = vars(sys.modules[method.__module__])
    for node in ast.walk(_tree(method)):
        if isinstance(node, ast.Name) and node.id.isupper() and isinstance(known.get(node.id), int):
            found[node.id] = f"{node.id} = {known[node.id]}"


def _called(cls: type[Instruction], method: Callable[..., Any]) -> Iterator[tuple[str, FunctionType]]:
    """Functions of the declarations and methods of the instruction that a function calls."""
    known = vars(sys.modules[method.__module__])
    for call in ast.walk(_tree(method)):
        if not isinstance(call, ast.Call):
            continue
        match call.func:
            case ast.Name(id=name):
                called = known.get(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name):
                called = getattr(cls, name, None)
            case _:
                continue
        if isinstance(called, FunctionType) and called.__module__.startswith("isa.instructions"):
            yield name, called


def _tree(function: Callable[..., Any]) -> ast.Module:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _code(function: Callable[..., Any]) -> str:
    """A function as it is declared, without its docstring, annotations and what only pleases the linter."""
    (declared,) = _tree(function).body
    assert isinstance(declared, ast.FunctionDef)
    declared.decorator_list, declared.returns = [], None
    for argument in (*declared.args.args, *declared.args.kwonlyargs):
        argument.annotation = None
    kept = [s for s in declared.body if not _is_text(s) and not isinstance(s, ast.Delete)]
    declared.body = kept
    return ast.unparse(declared)


def _is_text(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def meaning(cls: type[Instruction]) -> tuple[str, str]:
    """Where `execute` is declared: the file, from the root of the repository, and `Class.execute`."""
    execute = cls.execute
    return f"{execute.__module__.replace('.', '/')}.py", execute.__qualname__


OPTIONAL: Final = ("lut", "sreg", "obs")
"""Operands of which 0 means that there is none."""


def touched(cls: type[Instruction], t: Target) -> list[tuple[str, str, str, str]]:
    """Operand, memory, read or written, and whether in every function and mode or in some."""
    counts: dict[tuple[str, str, str], int] = {}
    modes = 0
    for instr in itertools.islice(_modes(cls), MAX_MODES):
        modes += 1
        for key in dict.fromkeys(
            (a.operand, a.space.name, "written" if a.write else "read") for a in instr.accesses(t)
        ):
            counts[key] = counts.get(key, 0) + 1
    return [(*key, "always" if n == modes else "in some modes") for key, n in counts.items()]


def _modes(cls: type[Instruction]) -> Iterator[Instruction]:
    """The instruction in every function and with every flag, all else as small as it can be."""
    choices = {o.name: _choices(o) for o in cls.operands if _is_mode(o)}
    for values in itertools.product(*choices.values()):
        yield replace(cls(), **dict(zip(choices, values, strict=True)))


def _is_mode(o: Operand) -> bool:
    return (
        (o.enum is not None and o.enum is not ElementType)
        or (o.width == 1 and o.enum is None)
        or o.name in OPTIONAL
    )


def _choices(o: Operand) -> tuple[Any, ...]:
    return tuple(o.members()) if o.enum is not None else (0, 1)
