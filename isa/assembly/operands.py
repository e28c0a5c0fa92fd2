"""One line's items to an instruction: names, places, shorthands, enumerated values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from lark import Token, Tree

from isa.assembly.state import Assembly, Mistake, address, evaluate
from isa.assembly.text import Shorthand, operands_by_name, shorthands
from isa.encoding import operand_faults
from isa.spec import INSTRUCTIONS, Instruction
from isa.support.diagnostics import did_you_mean
from isa.support.parsing import Parsed as Node


def build_instruction(state: Assembly, tree: Node) -> Instruction:
    """The instruction of a line, its symbols resolved.

    Raises:
        Mistake: an item that is no operand of the instruction, or a value that does not fit.
    """
    cls = INSTRUCTIONS[str(tree.children[0])]
    values: dict[str, int] = {}
    slots: dict[str, tuple[int, ...]] = {"waits": (), "signals": ()}
    places: dict[str, Node] = {}
    positional = [s for s in shorthands(cls) if not s.name]
    for child in tree.children[1:]:
        assert isinstance(child, Tree)
        if child.data in slots:
            slots[str(child.data)] = tuple(_semaphore(state, c) for c in child.children)
            continue
        for item in cast("list[Node]", child.children):
            for name, value in _item(state, cls, item, positional):
                if name in values:
                    raise Mistake(f"'{name}' is given twice", item)
                values[name], places[name] = value, item
    enums = {o.name: o.enum for o in cls.operands if o.enum is not None}
    typed: dict[str, Any] = {
        n: enums[n](v) if n in enums and v in list(enums[n]) else v for n, v in values.items()
    }
    instr = cls(waits=slots["waits"], signals=slots["signals"], **typed)
    for fault in operand_faults(instr):
        raise Mistake(fault.message, places.get(fault.operand, tree))
    return instr


def _semaphore(state: Assembly, node: Node | Token) -> int:
    assert isinstance(node, Tree)
    if node.data == "symbol" and str(node.children[0]) in state.semaphores:
        return state.semaphores[str(node.children[0])]
    return evaluate(state, node)


def _item(
    state: Assembly, cls: type[Instruction], item: Node, positional: list[Shorthand]
) -> Iterator[tuple[str, int]]:
    """The operands that one item gives."""
    if item.data == "positional":
        value = cast("Node", item.children[0])
        form, arity = _form(value)
        for index, short in enumerate(positional):
            if _fits(short, form, arity):
                del positional[index]
                yield from _expand(state, cls, short, value)
                return
        raise Mistake(
            "nothing of this form stands here without a name", item, allowed=", ".join(_allowed(cls))
        )
    name, value = cast("Token", item.children[0]), cast("Node", item.children[1])
    if name in operands_by_name(cls):
        yield str(name), _operand_value(state, cls, str(name), value)
        return
    for short in shorthands(cls):
        if short.name == name and _fits(short, *_form(value)):
            yield from _expand(state, cls, short, value)
            return
    raise Mistake(
        f"'{cls.mnemonic}' has no operand '{name}'",
        name,
        allowed=", ".join(_allowed(cls)),
        remedy=did_you_mean(name, operands_by_name(cls)),
    )


def _allowed(cls: type[Instruction]) -> list[str]:
    return [*cls.shorthands, *operands_by_name(cls)]


def _form(value: Node) -> tuple[str, int]:
    if value.data in ("extents", "arrow", "move"):
        return str(value.data), len(_parts(value))
    return "scalar", 1


def _fits(short: Shorthand, form: str, arity: int) -> bool:
    if short.form == "address":
        return form == "scalar"
    return short.form == form and len(short.operands) == arity


def _parts(value: Node) -> list[Node]:
    return [c for c in value.children if isinstance(c, Tree)]


def _expand(
    state: Assembly, cls: type[Instruction], short: Shorthand, value: Node
) -> Iterator[tuple[str, int]]:
    if short.form == "address":
        yield from zip(short.operands, address(state, value), strict=True)
        return
    parts = [value] if short.form == "scalar" else _parts(value)
    for name, part in zip(short.operands, parts, strict=True):
        yield name, _operand_value(state, cls, name, part)


def _operand_value(state: Assembly, cls: type[Instruction], name: str, value: Node) -> int:
    if value.data in ("extents", "arrow", "move"):
        raise Mistake(f"'{name}' takes one value", value)
    spec = operands_by_name(cls)[name]
    if spec.enum is not None and value.data == "symbol":
        word = cast("Token", value.children[0])
        names = {m.name.lower(): m.value for m in spec.members()}
        if word in names:
            return names[str(word)]
        if word not in state.symbols:
            raise Mistake(
                f"'{word}' is no value of {name}",
                word,
                allowed=", ".join(names),
                remedy=did_you_mean(word, names),
            )
    return evaluate(state, value)
