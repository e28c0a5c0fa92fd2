"""Instructions as text: the canonical form, and shorthands for people.

The canonical form prints each operand whose stored bits are not 0 as `name=value`, then the
waits, then the signals. Shorthands come from the declaration: `{oh}x{ow}` lets a person write
`4x112` for `oh=4, ow=112`.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

from isa.spec import Instruction, Operand
from isa.support.records import Frozen

_NAMED: Final = re.compile(r"(\w+)=(.*)")
_FIELD: Final = re.compile(r"\{(\w+)\}")


class Shorthand(Frozen):
    """A way to write operands: scalar, address, extents, arrow or move; with a name or by place."""

    name: str
    form: str
    operands: tuple[str, ...]


@cache
def shorthands(cls: type[Instruction]) -> tuple[Shorthand, ...]:
    """The declared shorthands of an instruction."""
    return tuple(_parse(template) for template in cls.shorthands)


@cache
def operands_by_name(cls: type[Instruction]) -> dict[str, Operand]:
    """The operands of an instruction by name."""
    return {o.name: o for o in cls.operands}


def format_instruction(instr: Instruction) -> str:
    """The canonical text of an instruction."""
    fields = [
        f"{o.name}={format_operand(o, getattr(instr, o.name))}"
        for o in instr.operands
        if getattr(instr, o.name) != o.low
    ]
    parts = [instr.mnemonic, ", ".join(fields)]
    for name, slots in (("wait", instr.waits), ("signal", instr.signals)):
        if slots:
            parts.append(f"{name}({','.join(map(str, slots))})")
    return " ".join(p for p in parts if p)


def format_operand(spec: Operand, value: int) -> str:
    """A number, or the name of an enumerated value."""
    return spec.enum(value).name.lower() if spec.enum is not None else str(int(value))


def _parse(template: str) -> Shorthand:
    named = _NAMED.fullmatch(template)
    name, body = named.groups() if named else ("", template)
    operands = tuple(_FIELD.findall(body))
    separators = set(_FIELD.split(body)[2::2]) - {""}
    forms: dict[frozenset[str], str] = {
        frozenset(): "scalar",
        frozenset({":"}): "address",
        frozenset({"x"}): "extents",
        frozenset({"->"}): "arrow",
        frozenset({"<-"}): "move",
    }
    return Shorthand(name, forms[frozenset(separators)], operands)
