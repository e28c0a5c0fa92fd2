"""Hypothesis strategies, derived from the declarations."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import strategies as st

import isa.instructions  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from isa.spec import INSTRUCTIONS, OPCODES, WORD_BYTES, Instruction, Operand

SLOTS = st.lists(st.integers(0, 31), max_size=2, unique=True).map(tuple)


def often(examples: int) -> int:
    """Two thirds of so many examples; eight times as many where X1_LONG is set, as long runs set it."""
    return examples * 8 if os.environ.get("X1_LONG") else max(1, examples * 2 // 3)


def values_of(spec: Operand, *, signed: bool) -> st.SearchStrategy[Any]:
    """Values that an operand can hold, the ends more often than chance."""
    if spec.enum is not None:
        return st.sampled_from(spec.members())
    low, high = spec.bounds(signed=signed)
    steps = (high - low) // spec.scale
    ends = st.sampled_from(sorted({0, min(1, steps), max(steps - 1, 0), steps}))
    return st.one_of(ends, st.integers(0, steps)).map(lambda n: low + n * spec.scale)


@st.composite
def instructions(draw: st.DrawFn, *mnemonics: str) -> Instruction:
    """Any instruction in canonical form, or any of some kinds; it need not be legal on a target."""
    cls = INSTRUCTIONS[draw(st.sampled_from(sorted(mnemonics or INSTRUCTIONS)))]
    values: dict[str, Any] = {}
    for spec in cls.operands:
        if spec.type_field is None:
            values[spec.name] = draw(values_of(spec, signed=spec.signed))
    for spec in cls.operands:
        if spec.type_field is not None:
            values[spec.name] = draw(values_of(spec, signed=spec.is_signed(values[spec.type_field])))
    raw = cls(waits=draw(SLOTS), signals=draw(SLOTS), **values)
    defaults = {o.name: o.enum(o.low) if o.enum is not None else o.low for o in cls.operands}
    while True:  # clearing one operand may leave another unused
        unused = {n: defaults[n] for n in raw.unused() if values[n] != defaults[n]}
        if not unused:
            return raw
        values |= unused
        raw = cls(waits=raw.waits, signals=raw.signals, **values)


@st.composite
def words(draw: st.DrawFn) -> bytes:
    """Any 32 bytes, an assigned opcode more often than chance, long runs of zero bits likely."""
    opcode = draw(st.one_of(st.sampled_from(sorted(OPCODES)), st.integers(0, 255)))
    body = draw(st.one_of(st.binary(min_size=31, max_size=31), _sparse()))
    return bytes([opcode]) + body


def _sparse() -> st.SearchStrategy[bytes]:
    """Bytes of which only a few bits are set."""
    bits = st.lists(st.integers(0, 8 * (WORD_BYTES - 1) - 1), max_size=4)
    return bits.map(lambda places: sum({1 << p for p in places}).to_bytes(WORD_BYTES - 1, "little"))
