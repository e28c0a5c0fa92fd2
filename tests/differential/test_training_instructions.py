"""The instructions of extension T against plain Python: binary64 rounded once to binary32, and whole numbers.

A sum, product, quotient or root of two binary32 numbers, computed in binary64 and rounded to binary32, is the
correctly rounded one (Figueroa, 1995): so Python's own arithmetic is an oracle.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from isa.checker import check
from isa.faults import MachineTrap
from isa.instructions.control import Fence, ScalarSet
from isa.instructions.dma import Fill, Load, OnChip, Store
from isa.instructions.vector import Requant, Requantize
from isa.instructions.vector_words import (
    GIVES_FLOATS,
    IN_ACCUMULATORS,
    SHIFTED,
    TAKES_FLOATS,
    UNARY,
    Function32,
    Source32,
    Vector32,
)
from isa.memory_map import REQUANT_RECORD, Region, Space
from isa.program import Program
from isa.spec import ElementType, Instruction, Trap
from isa.support.records import replace
from isa.target import load_target
from isa.validate import instruction_faults
from runtime.state import CoreState
from tests.bench import Bench, execute
from tests.strategies import often

TARGET = load_target("edge32")
ROW = 4 * TARGET.mx.cols
LOW, HIGH = -(2**31), 2**31 - 1
F, S = Function32, Source32
Number = int | float

FLOATS = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0**-149, -(2.0**-126), 2.0**127, 0.5, 1.5, 2.5, 2.0**24 + 2]),
)
WORDS = st.one_of(
    st.integers(LOW, HIGH),
    st.sampled_from([0, 1, -1, LOW, HIGH, 2**24, 2**24 + 1, 2**25 + 2, 3, -3, 1 << 30, -126, 127]),
)


def f32(value: float) -> float:
    """Rounded to binary32; an overflow is infinite."""
    try:
        return struct.unpack("<f", struct.pack("<f", value))[0]
    except OverflowError:
        return math.copysign(math.inf, value)


def bits(value: float) -> int:
    """The int32 with the bits of a binary32."""
    return struct.unpack("<i", struct.pack("<f", value))[0]


def wrapped(value: int) -> int:
    return (value - LOW) % 2**32 + LOW


def saturated(value: int, low: int = LOW, high: int = HIGH) -> int:
    return min(max(value, low), high)


def rsh(value: int, shift: int) -> int:
    """value / 2^shift, half to even; saturated to int32 where it shifts left."""
    if shift <= 0:
        return saturated(value << min(-shift, 31))
    return round(Fraction(value, 1 << min(shift, 40)))


ORACLE: dict[Function32, Callable[[Any, Any, int], Number]] = {
    F.FADD: lambda a, b, _: f32(a + b),
    F.FSUB: lambda a, b, _: f32(a - b),
    F.FMUL: lambda a, b, _: f32(a * b),
    F.FDIV: lambda a, b, _: f32(a / b) if b else math.nan,
    F.FSQRT: lambda a, _b, _s: f32(math.sqrt(a)) if a >= 0 else math.nan,
    F.FMAX: lambda a, b, _: a if a > b else b,
    F.FMIN: lambda a, b, _: a if a < b else b,
    F.FABS: lambda a, _b, _s: abs(a),
    F.I2F: lambda a, _b, _s: f32(float(a)),
    F.F2I: lambda a, _b, _s: saturated(round(a), -(1 << 30), 1 << 30),
    F.P2F: lambda a, _b, _s: 2.0 ** saturated(a, -126, 127),
    F.IADD: lambda a, b, _: wrapped(a + b),
    F.ISUB: lambda a, b, _: wrapped(a - b),
    F.IMAX: lambda a, b, _: max(a, b),
    F.ISHADD: lambda a, b, shift: saturated(a + rsh(b, shift)),
    F.ISHSUB: lambda a, b, shift: saturated(a - rsh(b, shift)),
    F.SEL: lambda a, b, _: b if a > 0 else 0,
}
"""One lane, by Python; NaN or infinite where the machine is to trap."""


def words(values: list[Any], *, floats: bool) -> NDArray[np.int32]:
    """The bits of values, as int32."""
    return np.array([bits(v) if floats else v for v in values], np.int32)


@pytest.mark.parametrize("fn", list(F))
@given(data=st.data())
@settings(max_examples=often(60))
def test_every_function_computes_what_python_does_and_observes_the_greatest(
    fn: Function32, data: st.DataObject
) -> None:
    kind = FLOATS if fn in TAKES_FLOATS else WORDS
    rows, lanes = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    count = rows * lanes
    a, b = (data.draw(st.lists(kind, min_size=count, max_size=count)) for _ in "ab")
    shift, before = data.draw(st.integers(-40, 50)), data.draw(st.sampled_from([0, 5, 1 << 30]))
    instr = Vector32(
        d=8,
        a=0,
        b=0 if fn in UNARY else 4,
        rows=rows,
        lanes=lanes,
        fn=fn,
        sra=1 if fn in SHIFTED else 0,
        obs=2,
    )
    bench = Bench(ScalarSet(rd=1, imm=shift), ScalarSet(rd=2, imm=before), instr, target=TARGET)
    for first, side in ((0, a), (4, b)):
        for row in range(rows):
            held = words(side[row * lanes : (row + 1) * lanes], floats=fn in TAKES_FLOATS)
            bench.put(Space.ACC, (first + row) * ROW, held)
    wanted = [ORACLE[fn](x, y, shift) for x, y in zip(a, b, strict=True)]
    if not all(math.isfinite(v) for v in wanted):
        with pytest.raises(MachineTrap) as trap:
            bench.run()
        assert trap.value.record.code == "FP_INVALID"
        return
    bench.run()
    got = [bench.get(Space.ACC, (8 + r) * ROW, (lanes,), np.int32).tolist() for r in range(rows)]
    gives = fn in GIVES_FLOATS
    held = words(wanted, floats=gives).tolist()
    assert got == [held[r * lanes : (r + 1) * lanes] for r in range(rows)]
    magnitudes = [bits(abs(v)) for v in wanted] if gives else [min(abs(int(v)), HIGH) for v in wanted]
    assert bench.get(Space.SREG, 8, (1,), np.int32)[0] == max(before, *magnitudes)


@pytest.mark.parametrize("sa", list(S))
@pytest.mark.parametrize("sb", list(S))
def test_operands_come_from_rows_one_row_the_parameter_memory_or_a_register(
    sa: Source32, sb: Source32
) -> None:
    a = {S.ROWS: [[10, 20], [30, 40]], S.ROW: [[10, 20]] * 2, S.PRM: [[7] * 2] * 2, S.REG: [[5] * 2] * 2}[sa]
    b = {S.ROWS: [[1, 2], [3, 4]], S.ROW: [[1, 2]] * 2, S.PRM: [[9] * 2] * 2, S.REG: [[6] * 2] * 2}[sb]
    fields: dict[str, Any] = {}
    fields |= {"a": 0} if sa in IN_ACCUMULATORS else {"sra": 1} if sa is S.REG else {"prm": 3}
    fields |= {"b": 2} if sb in IN_ACCUMULATORS else {"srb": 2} if sb is S.REG else {"prm": 3}
    instr = Vector32(d=4, rows=2, lanes=2, fn=F.ISUB, sa=sa, sb=sb, **fields)
    bench = Bench(ScalarSet(rd=1, imm=5), ScalarSet(rd=2, imm=6), instr, target=TARGET)
    bench.put(Space.PRM, 24, np.array([7, 9], np.int32))
    for row, held in enumerate(([10, 20], [30, 40], [1, 2], [3, 4])):
        bench.put(Space.ACC, row * ROW, np.array(held, np.int32))
    bench.run()
    got = [bench.get(Space.ACC, (4 + r) * ROW, (2,), np.int32).tolist() for r in range(2)]
    assert got == [[x - y for x, y in zip(*pair, strict=True)] for pair in zip(a, b, strict=True)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("fn", [F.FADD, F.FMAX, F.FMIN, F.FABS, F.F2I, F.FSQRT])
def test_operands_that_are_not_finite_trap_before_anything_is_written(fn: Function32, value: float) -> None:
    instr = Vector32(d=8, a=0, b=0 if fn in UNARY else 4, lanes=2, fn=fn, obs=3)
    bench = Bench(ScalarSet(rd=3, imm=0), instr, target=TARGET)
    bench.put(Space.ACC, 0, np.array([1, value], np.float32)).put(Space.ACC, 4 * ROW, np.ones(2, np.float32))
    before = bench.state.chip[Space.ACC].bytes.copy()
    with pytest.raises(MachineTrap) as trap:
        bench.run()
    assert trap.value.record.code == "FP_INVALID"
    np.testing.assert_array_equal(bench.state.chip[Space.ACC].bytes, before)


@pytest.mark.parametrize("place", [0, 4])
def test_check_finds_a_word_of_the_parameter_memory_that_traps(place: int) -> None:
    source: dict[str, Any] = {"sa": S.PRM, "b": 4} if place == 0 else {"sb": S.PRM}
    load = Load(space=OnChip.PRM, region=Region.PARAMS, n0=8)
    body = Bench(
        Fill(space=OnChip.ACC, n0=4, n1=5, ls1=1),
        load,
        Fence(),
        Vector32(d=8, fn=F.FMUL, **source),
        target=TARGET,
    ).state.program.instructions
    words = bytearray(8)
    sound = Program(TARGET, body, params=bytes(words))
    assert not check(sound).violations
    words[place : place + 4] = np.array([np.nan], np.float32).tobytes()
    assert [v.rule for v in check(replace(sound, params=bytes(words))).violations] == ["FP_INVALID"]


def test_a_wrapping_sum_sets_the_flag_and_a_result_may_replace_its_operand() -> None:
    bench = Bench(Vector32(d=0, a=0, b=1, lanes=1, fn=F.IADD), target=TARGET)
    bench.put(Space.ACC, 0, np.array([HIGH], np.int32)).put(Space.ACC, ROW, np.array([1], np.int32)).run()
    assert bench.get(Space.ACC, 0, (1,), np.int32)[0] == LOW
    assert bench.state.accumulator_overflow


@given(
    st.lists(WORDS, min_size=1, max_size=8),
    st.integers(-64, 63),
    st.sampled_from([1.0, 0.25, 0.3]),
    st.data(),
)
@settings(max_examples=often(100))
def test_a_shift_is_a_requantization_by_a_power_of_two(
    sums: list[int], shift: int, scale: float, data: st.DataObject
) -> None:
    """Mode shr: rne(clamp(F(F(A) * F(m * 2^-s)))), observed before it is scaled."""
    kind, low, high = data.draw(st.sampled_from([(ElementType.S8, -127, 127), (ElementType.U8, 0, 255)]))
    bias = data.draw(st.sampled_from([0, 1, -1, LOW, HIGH]))
    instr = Requantize(mode=Requant.SHR, sreg=4, obs=5, lo=low, hi=high, ot=kind, out=64, c=len(sums))
    bench = Bench(ScalarSet(rd=4, imm=shift), ScalarSet(rd=5, imm=3), instr, target=TARGET)
    bench.put(Space.PRM, 0, np.array([(bias, scale)], REQUANT_RECORD))
    bench.put(Space.ACC, 0, np.array(sums, np.int32)).run()
    m = f32(f32(scale) * 2.0 ** -max(shift, -31))
    totals = [wrapped(a + bias) for a in sums]
    exact = [round(min(max(f32(f32(float(a)) * m), low), high)) for a in totals]
    assert bench.get(Space.SPM, 64, (len(sums),), kind.dtype).tolist() == exact
    seen = [max(a, 0) if kind is ElementType.U8 else min(abs(a), HIGH) for a in totals]
    assert bench.get(Space.SREG, 20, (1,), np.int32)[0] == max(3, *seen)


@given(st.lists(FLOATS, min_size=1, max_size=8), st.integers(-130, 130))
@settings(max_examples=often(60))
def test_float_rows_are_quantized_by_an_exponent(values: list[float], exponent: int) -> None:
    instr = Requantize(mode=Requant.FLOAT, sreg=4, obs=5, lo=-127, hi=127, out=64, c=len(values))
    bench = Bench(ScalarSet(rd=4, imm=exponent), ScalarSet(rd=5, imm=0), instr, target=TARGET)
    bench.put(Space.ACC, 0, np.array(values, np.float32)).run()
    scale = 2.0 ** -saturated(exponent, -126, 126)
    exact = [round(min(max(f32(v * scale), -127), 127)) for v in values]
    assert bench.get(Space.SPM, 64, (len(values),)).tolist() == exact
    assert bench.get(Space.SREG, 20, (1,), np.int32)[0] == max(bits(abs(v)) for v in values)


def test_float_rows_that_are_not_finite_trap() -> None:
    bench = Bench(Requantize(mode=Requant.FLOAT, shift=-6, lo=-127, hi=127, out=64), target=TARGET)
    bench.put(Space.ACC, 0, np.array([np.nan], np.float32))
    with pytest.raises(MachineTrap) as trap:
        bench.run()
    assert trap.value.record.code == "FP_INVALID"


def test_registers_are_loaded_from_dram_and_stored_there() -> None:
    load = Load(space=OnChip.SREG, region=Region.STATE, loc=61, n0=12)
    store = Store(space=OnChip.SREG, region=Region.STATE, dram=16, loc=62, n0=8)
    given = np.array([7, -1, LOW, 0, 0, 0], np.int32)
    state = CoreState(Program(TARGET, Bench(load, store).state.program.instructions, state=given.tobytes()))
    execute(state)
    assert state.kept.view(np.int32).tolist() == [7, -1, LOW, 0, -1, LOW]


@pytest.mark.parametrize(
    ("instr", "trap"),
    [
        (Load(space=OnChip.SREG, region=4, loc=0, n0=4), Trap.LIMIT),
        (Load(space=OnChip.SREG, region=4, loc=63, n0=8), Trap.LIMIT),
        (Load(space=OnChip.SREG, region=4, loc=1, n0=6), Trap.MISALIGN),
        (Load(space=OnChip.SREG, region=4, loc=1, n0=4, n1=2), Trap.LIMIT),
        (Fill(space=OnChip.SREG, loc=1, n0=4), Trap.BAD_ENUM),
        (Vector32(lanes=33), Trap.LIMIT),
        (Vector32(fn=F.ISHADD, sa=S.REG, b=1), Trap.BAD_ENUM),
    ],
)
def test_what_registers_and_rows_do_not_allow_is_refused(instr: Instruction, trap: Trap) -> None:
    assert trap in [f.trap for f in instruction_faults(instr, TARGET, {Region.STATE: 64})]


@pytest.mark.parametrize(
    "instr",
    [
        Vector32(b=1, d=2),
        Requantize(mode=Requant.FLOAT, hi=1),
        Requantize(mode=Requant.SHR, obs=3, hi=1),
        Store(space=OnChip.SREG, region=4, n0=4),
    ],
)
def test_without_the_extension_they_are_refused(instr: Instruction) -> None:
    plain = replace(TARGET, ext=())
    assert not instruction_faults(instr, TARGET, {Region.STATE: 64})
    assert [f.trap for f in instruction_faults(instr, plain, {Region.STATE: 64})] == [Trap.EXT_MISSING]


def test_a_run_that_traps_leaves_the_state_as_it_was() -> None:
    store = Store(space=OnChip.SREG, region=Region.STATE, loc=1, n0=4)
    bad = Vector32(d=8, a=0, b=4, fn=F.FDIV)
    body = Bench(ScalarSet(rd=1, imm=9), store, bad).state.program.instructions
    state = CoreState(Program(TARGET, body, state=bytes(4)))
    state.chip[Space.ACC].preload(bytes(5 * ROW))
    with pytest.raises(MachineTrap):
        execute(state)
    assert state.kept.tolist() == [0] * 4
    state.reset()
    state.chip[Space.ACC].preload(np.ones(5 * ROW // 4, np.float32).tobytes())
    execute(state)
    assert state.kept.tolist() == [9, 0, 0, 0]
