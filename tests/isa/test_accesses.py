"""Columns of accesses agree with the instructions that they are made from."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.accesses import tabulate
from isa.checker.legality import suspects
from isa.encoding import addresses
from isa.instructions.control import Halt
from isa.instructions.matrix import ArrayGemm
from isa.memory_map import address_unit
from isa.program import Program
from isa.spec import INSTRUCTIONS, Access, ElementType, Instruction
from isa.support.records import replace
from isa.target import load_target
from isa.validate import instruction_faults
from tests.strategies import instructions, often

TARGET = load_target("edge32")


def moved(access: Access, operand: str, step: int) -> Access:
    distance = step * address_unit(TARGET, access.space) if access.operand == operand else 0
    return replace(access, base=access.base + distance)


@given(st.data())
@settings(max_examples=often(200))
def test_an_address_moves_the_accesses_that_name_it_and_nothing_else(data: st.DataObject) -> None:
    instr = data.draw(instructions())
    for spec in addresses(type(instr)):
        if spec.name in instr.unused():
            continue
        low, high = spec.bounds(signed=spec.signed)
        value = data.draw(st.integers(0, (high - low) // spec.scale)) * spec.scale + low
        other = replace(instr, **{spec.name: value})
        step = value - getattr(instr, spec.name)
        assert list(other.accesses(TARGET)) == [moved(a, spec.name, step) for a in instr.accesses(TARGET)]
        assert list(other.check(TARGET)) == list(instr.check(TARGET))
        assert other.unused() == instr.unused()


def test_every_operand_that_an_access_is_named_after_in_a_large_field_is_an_address() -> None:
    """Nothing breaks where one is not declared, but every address would then have a form of its own."""
    for cls in INSTRUCTIONS.values():
        names = {a.operand for a in cls().accesses(TARGET)}
        wide = {o.name for o in cls.operands if o.width >= 14 and o.name in names}
        assert wide == {o.name for o in addresses(cls) if o.name in names}, cls.mnemonic


@given(st.lists(instructions(), max_size=12))
@settings(max_examples=often(60))
def test_rows_are_the_accesses_of_the_sound_instructions(stream: list[Instruction]) -> None:
    table = tabulate(stream, TARGET)
    rows = iter(range(table.pc.size))
    for pc, instr in enumerate(stream):
        if not table.forms[int(table.form[pc])].sound:
            continue
        for access in instr.accesses(TARGET):
            row = next(rows)
            assert table.access(row) == access
            assert (table.pc[row], table.low[row], table.high[row]) == (pc, *access.span())
    assert next(rows, None) is None


def nudged(instr: Instruction, data: st.DataObject) -> Instruction:
    """The instruction with another address, perhaps near the end of its memory, or other semaphores."""
    places = [o for o in addresses(type(instr)) if o.name not in instr.unused()]
    if not places or data.draw(st.booleans()):
        return replace(instr, waits=data.draw(st.sampled_from([(), (1,), (3, 3), (40,), (1, 2, 3)])))
    spec = data.draw(st.sampled_from(places))
    value = data.draw(st.sampled_from([0, 8, 1024, (1 << spec.width) - 8, 1 << 40, -8, 3]))
    return replace(instr, **{spec.name: value})


@given(st.data())
@settings(max_examples=often(80))
def test_no_illegal_instruction_escapes_the_columns(data: st.DataObject) -> None:
    stream: list[Instruction] = []
    for instr in data.draw(st.lists(instructions(), max_size=5)):
        stream += [instr, nudged(instr, data), nudged(instr, data)]
    program = Program(TARGET, (*stream, Halt()), arena_bytes=4096, input_bytes=64, weights=bytes(512))
    illegal = {
        pc
        for pc, instr in enumerate(program.instructions)
        if instruction_faults(instr, TARGET, program.region_sizes())
    }
    assert illegal <= set(suspects(program, tabulate(program.instructions, TARGET)))


def test_an_empty_stream_has_no_rows() -> None:
    assert tabulate([], TARGET).pc.size == 0
    assert not np.any(suspects(Program(TARGET, ()), tabulate([], TARGET)))


def test_a_number_in_place_of_a_member_is_illegal_and_hides_nothing() -> None:
    """The two are equal, so that what is known of one must not be taken for the other."""
    legal = ArrayGemm(m=1, n=1, k=3, xt=ElementType.U8, wt=ElementType.S8)
    barred = ArrayGemm(m=1, n=1, k=3, xt=ElementType.S8, wt=ElementType.S16)
    numbers: Any = {"xt": 1, "wt": 0}, {"xt": 0, "wt": 2}
    plain = [replace(instr, **values) for instr, values in zip((legal, barred), numbers, strict=True)]
    assert plain == [legal, barred]
    for instr, faulty in ((plain[0], True), (plain[1], True), (legal, False), (barred, True), (legal, False)):
        table = tabulate([instr], TARGET)
        assert bool(list(instruction_faults(instr, TARGET, {}))) == faulty
        assert suspects(Program(TARGET, (instr,)), table) == [0] * faulty
        assert table.pc.size == (0 if faulty else len(list(instr.accesses(TARGET))))
