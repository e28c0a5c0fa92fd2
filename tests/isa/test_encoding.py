"""Words and instructions are inverse, and every word that is none is refused with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.encoding import EncodingError, addresses, decode, decode_all, encode, encode_all
from isa.instructions.control import Halt
from isa.instructions.matrix import Conv
from isa.instructions.vector import Requant, Requantize
from isa.manual import bit_map
from isa.spec import INSTRUCTIONS, OPCODES, WORD_BITS, ElementType, Engine, Instruction, Trap
from isa.support.records import replace
from isa.target import load_target
from tests.strategies import instructions, often, words


@given(instructions())
@settings(max_examples=often(125))
def test_decoding_undoes_encoding(instr: Instruction) -> None:
    assert decode(encode(instr)) == instr


@given(words())
@settings(max_examples=often(750))
def test_every_word_encodes_back_to_itself_or_is_refused_with_a_reason(word: bytes) -> None:
    decoded, bad = decode_all(word)
    if bad:
        assert bad[0].fault.message
        assert not decoded
    else:
        assert encode(decoded[0]) == word


@st.composite
def alike(draw: st.DrawFn) -> list[Instruction]:
    """An instruction, and some that differ from it in addresses and semaphores, which may not fit."""
    first = draw(instructions())
    found = [first]
    for _ in range(draw(st.integers(1, 4))):
        values: dict[str, Any] = {}
        for spec in addresses(type(first)):
            low, high = spec.bounds(signed=spec.signed)
            near = st.integers(low - 2, high + 2) | st.sampled_from([low, high, high + 1, low - 1, low + 1])
            values[spec.name] = draw(near | st.integers(low, high).map(lambda v, s=spec.scale: v // s * s))
        slots = st.tuples() | st.lists(st.integers(-1, 33), max_size=3).map(tuple)
        found.append(replace(first, **values, waits=draw(slots), signals=draw(slots)))
    return found


def outcome(encoded: Callable[[], bytes]) -> bytes | list[str]:
    """The bytes, or why there are none."""
    try:
        return encoded()
    except EncodingError as error:
        return [f.message for f in error.faults]


@given(alike())
@settings(max_examples=often(125))
def test_a_stream_is_encoded_as_its_instructions_are_one_by_one(stream: list[Instruction]) -> None:
    expected = outcome(lambda: b"".join(map(encode, stream)))
    assert outcome(lambda: encode_all(stream)) == expected


def test_bit_map_is_pinned(golden: Callable[[str, str], None]) -> None:
    golden("isa/encoding.txt", bit_map())


def test_fields_fill_the_word_without_overlap() -> None:
    for cls in INSTRUCTIONS.values():
        end = 32
        for spec in cls.operands:
            assert spec.offset == end
            end += spec.width
        assert end <= WORD_BITS


def test_engine_stands_in_the_opcode() -> None:
    assert all(Engine(opcode >> 5) is cls.engine for opcode, cls in OPCODES.items())


def test_zero_point_of_a_signed_type_is_twos_complement() -> None:
    signed = encode(Conv(zx=-128, xt=ElementType.S8))
    unsigned = encode(Conv(zx=128, xt=ElementType.U8))
    different = [i for i, (a, b) in enumerate(zip(signed, unsigned, strict=True)) if a != b]
    assert len(different) == 1, "only the type differs: both zero points are stored as 0x80"
    assert decode(signed) == Conv(zx=-128)


def test_word_of_isa_page_is_as_written() -> None:
    """conv: the first operand from bit 32 upward, least significant first; oh stored minus 1."""
    word = int.from_bytes(encode(Conv(inp=5, wgt=16, acc=3, oh=4, waits=(1,), signals=(2,))), "little")
    assert word & 0xFF == 0x62
    assert (word >> 8) & 63 == 0x20 | 1
    assert (word >> 20) & 63 == 0x20 | 2
    assert (word >> 32) & ((1 << 23) - 1) == 5
    assert (word >> 55) & ((1 << 20) - 1) == 2
    assert (word >> 75) & ((1 << 14) - 1) == 3
    assert (word >> 89) & 1023 == 3


@pytest.mark.parametrize(
    ("instr", "trap"),
    [
        (Conv(oh=1025), Trap.LIMIT),
        (Conv(wgt=12), Trap.MISALIGN),
        (Conv(dh=2), Trap.RESERVED_BITS),
        (Requantize(mode=Requant.RAW, lo=1), Trap.RESERVED_BITS),
        (Halt(waits=(3, 3)), Trap.RESERVED_BITS),
        (Halt(waits=(1, 2, 3)), Trap.LIMIT),
        (Halt(signals=(32,)), Trap.LIMIT),
    ],
)
def test_operands_that_do_not_fit_are_refused(instr: Instruction, trap: Trap) -> None:
    with pytest.raises(EncodingError) as refused:
        encode(instr)
    assert [f.trap for f in refused.value.faults] == [trap]


@pytest.mark.parametrize(
    ("word", "trap"),
    [
        (0x00, Trap.ILLEGAL_OP),
        (0x0A, Trap.EXT_MISSING),
        (0x02 | 1 << 255, Trap.RESERVED_BITS),
        (0x02 | 5 << 8, Trap.RESERVED_BITS),
        (0x02 | 0x21 << 14, Trap.RESERVED_BITS),
        (0x02 | 0x21 << 8 | 0x21 << 14, Trap.RESERVED_BITS),
        (0x85 | 7 << 94, Trap.BAD_ENUM),
    ],
)
def test_words_that_are_not_canonical_are_refused(word: int, trap: Trap) -> None:
    with pytest.raises(EncodingError) as refused:
        decode(word.to_bytes(32, "little"))
    assert refused.value.faults[0].trap is trap


@given(instructions(), instructions())
@settings(max_examples=50)
def test_a_section_decodes_as_its_words_do(first: Instruction, second: Instruction) -> None:
    decoded, bad = decode_all(encode_all([first, second, first]))
    assert not bad
    assert decoded == [first, second, first]


@pytest.mark.parametrize("mnemonic", sorted(m for m in INSTRUCTIONS if m.startswith("xsig.")))
def test_a_remote_signal_needs_a_machine_with_several_cores(mnemonic: str) -> None:
    assert [f.trap for f in INSTRUCTIONS[mnemonic]().check(load_target("edge32"))] == [Trap.EXT_MISSING]
