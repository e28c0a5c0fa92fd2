"""Instruction words: 32 little-endian bytes to instructions and back.

Text and words correspond one to one, so a word that is not in canonical form (a reserved bit, an
unused operand, a semaphore slot out of order) is refused. A whole text section is decoded with
numpy, one opcode at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum
from functools import cache
from operator import attrgetter, itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import isa.instructions  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from isa.spec import (
    HEADER_BITS,
    OPCODES,
    RESERVED_OPCODES,
    WORD_BITS,
    WORD_BYTES,
    ElementType,
    Fault,
    Instruction,
    Operand,
    Trap,
)
from isa.support.records import Frozen

SLOT_SHIFTS: Final = {"waits": (8, 14), "signals": (20, 26)}
Range = tuple[int, int]
Getter = Callable[[Instruction], tuple[Any, ...]]
Slots = tuple[tuple[int, ...], tuple[int, ...]]
"""The semaphores that an instruction waits for, and those that it signals."""
SLOT_BITS: Final = 6
SLOT_VALID: Final = 0x20
SEMAPHORES: Final = 32
WORD_LANES: Final = WORD_BITS // 64


class EncodingError(Exception):
    """An instruction whose operands do not fit its word; `faults` lists every reason."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f.message for f in faults))
        self.faults = list(faults)


class BadWord(Frozen):
    """A word that is no instruction: its index in the section, and why."""

    pc: int
    fault: Fault


def operand_faults(instr: Instruction) -> list[Fault]:
    """Why the operands cannot be encoded in canonical form."""
    found: list[Fault] = []
    unused = instr.unused()
    for spec, plain, complement in _fields(type(instr)):
        value = getattr(instr, spec.name)
        signed = complement is not None and _signed(spec, instr)
        low, high = complement if complement is not None and signed else plain
        sound = low <= value <= high and (spec.scale == 1 or not (value - spec.low) % spec.scale)
        meant = spec.enum is None or type(value) is spec.enum
        if sound and meant and (value == spec.low or spec.name not in unused):
            continue
        if fault := _operand_fault(spec, int(value), (low, high), used=spec.name not in unused):
            found.append(fault)
        elif not meant:  # equal to the value that is meant, and not the same to `check` and `accesses`
            text = f"{spec.name}={value!r} is a number; allowed: {enum_names(spec)}"
            found.append(Fault(Trap.BAD_ENUM, spec.name, text))
    return found + slot_faults((instr.waits, instr.signals))


@cache
def _fields(cls: type[Instruction]) -> list[tuple[Operand, Range, Range | None]]:
    """The operands of a format, with their range; and that in two's complement where a type decides."""
    return [
        (o, o.bounds(signed=o.signed), o.bounds(signed=True) if o.type_field else None) for o in cls.operands
    ]


def _operand_fault(spec: Operand, value: int, bounds: Range, *, used: bool) -> Fault | None:
    low, high = bounds
    if not low <= value <= high:
        return Fault(Trap.LIMIT, spec.name, f"{spec.name}={value} is outside {low}..{high}")
    if (value - spec.low) % spec.scale:
        return Fault(Trap.MISALIGN, spec.name, f"{spec.name}={value} is not a multiple of {spec.scale}")
    if spec.enum is not None and value not in spec.members():
        text = f"{spec.name}={value} has no meaning; allowed: {enum_names(spec)}"
        return Fault(Trap.BAD_ENUM, spec.name, text)
    if not used and value != spec.low:
        text = f"{spec.name}={value} is not used here; allowed: {spec.low}"
        return Fault(Trap.RESERVED_BITS, spec.name, text)
    return None


def slot_faults(slots: Slots) -> list[Fault]:
    """Why waits and signals do not fit the header."""
    waits, signals = slots
    return _slot_faults(waits, "wait") + _slot_faults(signals, "signal")


def encode(instr: Instruction) -> bytes:
    """The word of an instruction.

    Raises:
        EncodingError: an operand outside its range, or not in canonical form.
    """
    if faults := operand_faults(instr):
        raise EncodingError(faults)
    word = instr.opcode
    for slots, shifts in ((instr.waits, SLOT_SHIFTS["waits"]), (instr.signals, SLOT_SHIFTS["signals"])):
        for semaphore, shift in zip(slots, shifts, strict=False):
            word |= (SLOT_VALID | semaphore) << shift
    for spec, _, complement in _fields(type(instr)):
        value = getattr(instr, spec.name)
        if complement is None or not _signed(spec, instr):
            value = value if spec.signed else (value - spec.low) // spec.scale
        if value:
            word |= (value & ((1 << spec.width) - 1)) << spec.offset
    return word.to_bytes(WORD_BYTES, "little")


def encode_all(instrs: Iterable[Instruction]) -> bytes:
    """The text section of a stream.

    Raises:
        EncodingError: as `encode` does.
    """
    forms = _EncodedForms()
    return b"".join(forms.word(i) for i in instrs)


class _EncodedForms:
    """Words of instructions that differ in addresses and semaphores: the rest is encoded and judged once."""

    def __init__(self) -> None:
        self.forms: dict[Any, tuple[int, list[tuple[Operand, bool]]]] = {}
        self.slots: dict[Slots, int] = {}

    def word(self, instr: Instruction) -> bytes:
        """The word of an instruction; what is not as its form promises is left to `encode` to refuse."""
        fixed, moving = form_getters(type(instr))
        key = (type(instr), fixed(instr))
        slots = (instr.waits, instr.signals)
        if key not in self.forms or slots not in self.slots:
            return self._first(instr, key, slots)
        bits, operands = self.forms[key]
        for (spec, used), value in zip(operands, moving(instr), strict=True):
            stored, rest = divmod(value - spec.low, spec.scale)
            if rest or stored >> spec.width or (stored and not used):
                return encode(instr)
            bits |= stored << spec.offset
        return (bits | self.slots[slots]).to_bytes(WORD_BYTES, "little")

    def _first(self, instr: Instruction, key: object, slots: Slots) -> bytes:
        word = encode(instr)
        bits, unused = int.from_bytes(word, "little"), instr.unused()
        places = addresses(type(instr))
        self.slots[slots] = bits & _SLOT_MASK
        moved = sum(((1 << o.width) - 1) << o.offset for o in places)
        self.forms[key] = bits & ~(_SLOT_MASK | moved), [(o, o.name not in unused) for o in places]
        return word


_SLOT_MASK: Final = sum(((1 << SLOT_BITS) - 1) << shift for shift in itertools.chain(*SLOT_SHIFTS.values()))


def addresses(cls: type[Instruction]) -> list[Operand]:
    """The operands that only place accesses."""
    return [o for o in cls.operands if o.address]


@cache
def form_getters(cls: type[Instruction]) -> tuple[Getter, Getter]:
    """The values of the operands that make the form of an instruction, and those of its addresses."""
    fixed = [o.name for o in cls.operands if not o.address]
    return _getter(fixed), _getter([o.name for o in addresses(cls)])


def _getter(names: Sequence[str]) -> Getter:
    """The values of some operands, always as a tuple."""
    if not names:
        return lambda _: ()
    if len(names) == 1:
        only = attrgetter(names[0])
        return lambda instr: (only(instr),)
    return attrgetter(*names)


def decode(word: bytes) -> Instruction:
    """The instruction of one word.

    Raises:
        EncodingError: the word is no instruction in canonical form.
    """
    instrs, bad = decode_all(word)
    if bad:
        raise EncodingError([b.fault for b in bad])
    return instrs[0]


def decode_all(text: bytes) -> tuple[list[Instruction], list[BadWord]]:
    """The instructions of a text section, and the words that are none.

    The instruction list is complete only where there is no bad word.
    """
    assert len(text) % WORD_BYTES == 0
    lanes = np.frombuffer(text, "<u8").reshape(-1, WORD_LANES)
    opcodes = (lanes[:, 0] & np.uint64(0xFF)).astype(np.int64)
    decoded: list[Instruction | None] = [None] * len(lanes)
    bad: list[BadWord] = []
    for opcode in np.unique(opcodes).tolist():
        places = np.flatnonzero(opcodes == opcode)
        cls = OPCODES.get(opcode)
        if cls is None:
            bad += [BadWord(pc, _unknown_opcode(opcode)) for pc in places.tolist()]
        else:
            _decode_class(cls, lanes[places], places.tolist(), decoded, bad)
    return [i for i in decoded if i is not None], sorted(bad, key=lambda b: b.pc)


def enum_names(spec: Operand) -> str:
    """The names of an operand's values."""
    return ", ".join(member.name.lower() for member in spec.members())


def _signed(spec: Operand, instr: Instruction) -> bool:
    element = int(getattr(instr, spec.type_field)) if spec.type_field else 1
    return spec.is_signed(element)


def _slot_faults(slots: tuple[int, ...], name: str) -> list[Fault]:
    if len(slots) > len(SLOT_SHIFTS["waits"]):
        return [Fault(Trap.LIMIT, name, f"{len(slots)} {name}s; allowed: at most 2")]
    if len(set(slots)) != len(slots):
        return [Fault(Trap.RESERVED_BITS, name, f"both {name}s name semaphore {slots[0]}")]
    return [Fault(Trap.LIMIT, name, f"{name} {s} is outside 0..31") for s in slots if not 0 <= s < SEMAPHORES]


def _unknown_opcode(opcode: int) -> Fault:
    if opcode in RESERVED_OPCODES:
        mnemonic, extension = RESERVED_OPCODES[opcode]
        return Fault(Trap.EXT_MISSING, "op", f"'{mnemonic}' needs extension {extension}")
    return Fault(Trap.ILLEGAL_OP, "op", f"the opcode {opcode:#04x} is not assigned")


def _field(lanes: NDArray[np.uint64], offset: int, width: int) -> NDArray[np.int64]:
    """Bits offset..offset+width of every word."""
    lane, shift = divmod(offset, 64)
    bits = lanes[:, lane] >> np.uint64(shift)
    if shift + width > 64:
        bits = bits | (lanes[:, lane + 1] << np.uint64(64 - shift))
    return (bits & np.uint64((1 << width) - 1)).astype(np.int64)


def _decode_class(
    cls: type[Instruction],
    lanes: NDArray[np.uint64],
    places: list[int],
    decoded: list[Instruction | None],
    bad: list[BadWord],
) -> None:
    """The words of one opcode; of several faults of a word the first is kept."""
    faults: dict[int, Fault] = {
        index: Fault(Trap.RESERVED_BITS, "word", "a reserved bit is set")
        for index in np.flatnonzero(_reserved_bits(cls, lanes)).tolist()
    }
    columns = _columns(cls, lanes)
    names = [s.name for s in cls.operands]
    values = [_meanings(s, columns[s.name], faults) for s in cls.operands]
    waits, signals = (_slot_column(lanes, kind, faults) for kind in SLOT_SHIFTS)
    rows = zip(*values, strict=True) if names else itertools.repeat((), len(places))
    numbers = (
        zip(*(columns[n].tolist() for n in names), strict=True)
        if names
        else itertools.repeat((), len(places))
    )
    unused = _Unused(cls)
    for index, (pc, row, stored) in enumerate(zip(places, rows, numbers, strict=True)):
        fault = faults.get(index)
        if fault is None:
            instr = cls(waits=waits[index], signals=signals[index], **dict(zip(names, row, strict=True)))
            fault = unused.fault(instr, stored)
            decoded[pc] = None if fault else instr
        if fault is not None:
            bad.append(BadWord(pc, fault))


class _Unused:
    """Finds operands that are not used and hold something.

    What is not used depends on no address, so that words which differ in addresses alone are looked at
    once; after that only their unused addresses are.
    """

    def __init__(self, cls: type[Instruction]) -> None:
        self.operands = cls.operands
        self.fixed = [i for i, o in enumerate(cls.operands) if not o.address]
        self.pick = itemgetter(*self.fixed) if self.fixed else len
        self.known: dict[Any, list[int]] = {}

    def fault(self, instr: Instruction, stored: tuple[int, ...]) -> Fault | None:
        """Why the word is not canonical, if it is not; `stored` are the operands as numbers."""
        key = self.pick(stored)
        places = self.known.get(key)
        if places is None:
            names = instr.unused()
            places = self.known[key] = [i for i, o in enumerate(self.operands) if o.name in names]
            if all(stored[i] == self.operands[i].low for i in places if not self.operands[i].address):
                places[:] = [i for i in places if self.operands[i].address]
        for place in places:
            spec = self.operands[place]
            if stored[place] != spec.low:
                text = f"{spec.name}={stored[place]} is not used here"
                return Fault(Trap.RESERVED_BITS, spec.name, text)
        return None


def _columns(cls: type[Instruction], lanes: NDArray[np.uint64]) -> dict[str, NDArray[np.int64]]:
    """The operands of many words, as numbers."""
    columns: dict[str, NDArray[np.int64]] = {}
    complements: dict[str, NDArray[np.int64]] = {}
    for spec in cls.operands:
        stored = _field(lanes, spec.offset, spec.width)
        complements[spec.name] = stored - ((stored >> (spec.width - 1)) << spec.width)
        columns[spec.name] = complements[spec.name] if spec.signed else stored * spec.scale + spec.low
    for spec in cls.operands:
        if spec.type_field:
            signed = columns[spec.type_field] == ElementType.S8
            columns[spec.name] = np.where(signed, complements[spec.name], columns[spec.name])
    return columns


def _meanings(spec: Operand, column: NDArray[np.int64], faults: dict[int, Fault]) -> list[Any]:
    """The values of an operand; numbers without a meaning become faults of their words."""
    values: list[int] = column.tolist()
    if spec.enum is None:
        return values
    members: dict[int, IntEnum] = {int(m): m for m in spec.enum}
    for index in np.flatnonzero(~np.isin(column, list(members))).tolist():
        text = f"{spec.name}={values[index]} has no meaning; allowed: {enum_names(spec)}"
        faults.setdefault(index, Fault(Trap.BAD_ENUM, spec.name, text))
    return [members.get(v) for v in values]


def _slot_column(lanes: NDArray[np.uint64], kind: str, faults: dict[int, Fault]) -> list[tuple[int, ...]]:
    """The waits or the signals of many words; what is not canonical becomes a fault of its word."""
    first, second = (_field(lanes, shift, SLOT_BITS) for shift in SLOT_SHIFTS[kind])
    stored = (first << SLOT_BITS | second).tolist()
    known = {pair: _slots(divmod(pair, 1 << SLOT_BITS), kind.removesuffix("s")) for pair in set(stored)}
    if any(fault for _, fault in known.values()):
        for index, pair in enumerate(stored):
            fault = known[pair][1]
            if fault is not None:
                faults.setdefault(index, fault)
    return [known[pair][0] for pair in stored]


def _slots(stored: tuple[int, int], name: str) -> tuple[tuple[int, ...], Fault | None]:
    """The semaphores of two slots, and why they are not canonical."""
    valid = [bool(s & SLOT_VALID) for s in stored]
    indices = [s & (SLOT_VALID - 1) for s in stored]
    if any(i and not v for i, v in zip(indices, valid, strict=True)):
        return (), Fault(Trap.RESERVED_BITS, name, f"an unused {name} slot holds a semaphore")
    if valid == [False, True]:
        return (), Fault(Trap.RESERVED_BITS, name, f"the second {name} slot is used before the first")
    used = tuple(i for i, v in zip(indices, valid, strict=True) if v)
    if len(set(used)) != len(used):
        return (), Fault(Trap.RESERVED_BITS, name, f"both {name}s name semaphore {used[0]}")
    return used, None


def _reserved_bits(cls: type[Instruction], lanes: NDArray[np.uint64]) -> NDArray[np.bool_]:
    used = (1 << HEADER_BITS) - 1
    for spec in cls.operands:
        used |= ((1 << spec.width) - 1) << spec.offset
    free = ~used & ((1 << WORD_BITS) - 1)
    masks = np.array([(free >> (64 * i)) & ((1 << 64) - 1) for i in range(WORD_LANES)], np.uint64)
    return ((lanes & masks) != 0).any(axis=1)
