"""How an instruction is declared, and the vocabulary that declarations share.

One class per instruction states its opcode, engine, operands, memory accesses, meaning, cost and
manual text. Everything else (encoder, decoder, assembler, disassembler, validator, checker,
interpreter dispatch, cycle model, manual, test strategies) is derived from these classes and
names no instruction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum, IntEnum
from functools import cache, wraps
from typing import Any, ClassVar, Final, Protocol, TypeVar, dataclass_transform

import numpy as np
from numpy.typing import NDArray

from isa.memory_map import Region, Space
from isa.support.records import Frozen, FrozenMeta, described, descriptions
from isa.target import Target

HEADER_BITS: Final = 32
WORD_BITS: Final = 256
WORD_BYTES: Final = WORD_BITS // 8
MAX_WAITS: Final = 2
MAX_SIGNALS: Final = 2
MAX_ACCESS: Final = 1 << 24
"""No operand names more bytes than this, repeats by small pitches counted."""


class Engine(IntEnum):
    """The in-order engines of a core; the number stands in bits 7-5 of every opcode."""

    CTL = 0
    LD = 1
    ST = 2
    MX = 3
    VX = 4
    TX = 5
    RX = 6


class ElementType(IntEnum):
    """The type of an operand's elements."""

    S8 = 0
    U8 = 1
    S16 = 2
    S32 = 3

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the greatest value."""
        return ELEMENT_BOUNDS[self]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type."""
        return ELEMENT_DTYPES[self]


ELEMENT_BOUNDS: Final = ((-128, 127), (0, 255), (-(1 << 15), (1 << 15) - 1), (-(1 << 31), (1 << 31) - 1))
ELEMENT_DTYPES: Final[tuple[np.dtype[Any], ...]] = tuple(map(np.dtype, ("<i1", "<u1", "<i2", "<i4")))
"""In the order of `ElementType`."""


class Trap(Enum):
    """Why an instruction is refused or stops the machine (docs/isa/machine.md)."""

    ILLEGAL_OP = "the opcode is not assigned"
    RESERVED_BITS = "a bit that must be 0 is set"
    BAD_ENUM = "a field holds a number without a meaning"
    EXT_MISSING = "the target lacks an extension"
    SPM_RANGE = "an access leaves the scratchpad"
    ACC_RANGE = "an access leaves the accumulators"
    PRM_RANGE = "an access leaves the parameter memory"
    DRAM_RANGE = "an access leaves its DRAM region, or writes a read-only one"
    MISALIGN = "an address or a length is not a multiple of its unit"
    LIMIT = "a value is above a limit of the machine"
    SEM_UNDERFLOW = "a wait finds its semaphore at zero"
    SEM_OVERFLOW = (
        "a signal may find its semaphore full: a check rejects it, a machine waits until there is room"
    )
    SEM_OWNER = "a semaphore has more than one producer or consumer"
    SEM_LEFT = "a semaphore is not zero at halt"
    RACE = "two unordered instructions touch the same bytes"
    UNINIT_READ = "bytes are read that nothing has written"
    ACC_OVF = "an accumulator left the range of int32"
    FP_INVALID = "a scale is NaN, infinite or negative, or a divisor is zero"
    NO_HALT = "a stream does not end in its only halt"
    ASSERT = "an assert does not hold"
    PEER = "a transfer names a device that is not there, or its own"
    UNMATCHED = "a send and a receive differ, or one of them has no other"
    DEADLOCK = "devices wait for one another"


RANGE_TRAP: Final = {
    Space.SPM: Trap.SPM_RANGE,
    Space.ACC: Trap.ACC_RANGE,
    Space.PRM: Trap.PRM_RANGE,
    Space.DRAM: Trap.DRAM_RANGE,
    Space.SREG: Trap.LIMIT,
}

Dims = tuple[tuple[int, int], ...]


class Access(Frozen):
    """The exact bytes that one operand reads or writes: a strided box.

    `dims` lists (count, pitch in bytes), outermost first; the innermost pair is a run of bytes.
    """

    operand: str
    space: Space
    base: int
    dims: Dims
    write: bool = False
    region: Region | None = None
    """Which region, where the space is DRAM."""

    def span(self) -> tuple[int, int]:
        """The first byte, and one past the last."""
        low = high = self.base
        for count, pitch in self.dims:
            reach = (count - 1) * pitch
            low, high = low + min(reach, 0), high + max(reach, 0)
        return low, high + 1

    def size(self) -> int:
        """The number of bytes named, repeats counted."""
        total = 1
        for count, _ in self.dims:
            total *= count
        return total


class Transfer(Frozen):
    """One side of a transfer between devices."""

    sends: bool
    peer: int
    relative: bool
    """Whether `peer` is added to the own number."""
    channel: int
    tag: int
    bytes: int

    def other(self, device: int, devices: int) -> int:
        """The number of the device at the other side."""
        return (device + self.peer) % devices if self.relative else self.peer

    def peer_fault(self, device: int, devices: int) -> str:
        """Why that is no device to transfer with; empty where it is one."""
        other = self.other(device, devices)
        if other != device and other < devices:
            return ""
        return f"device {device} of {devices} transfers to or from device {other}"


class Fault(Frozen):
    """A reason why an instruction is not legal."""

    trap: Trap
    operand: str
    message: str


class TrapError(Exception):
    """Raised inside `execute` and the memories; the machine adds instruction and place."""

    def __init__(self, trap: Trap, operand: str, message: str, address: int | None = None) -> None:
        super().__init__(f"{trap.name}: {message}")
        self.trap, self.operand, self.message, self.address = trap, operand, message, address


class MachineState(Protocol):
    """What an instruction may touch while it executes."""

    target: Target
    device: int
    """The number of the device."""

    def accumulators_overflow(self) -> None:
        """Note that a sum leaves int32; called before the instruction writes, and may trap."""
        ...

    def mark(self, tag: int) -> None:
        """Note that a mark has been passed."""
        ...

    def send(self, transfer: Transfer, content: NDArray[np.uint8]) -> None:
        """Hand bytes over to the other side."""
        ...

    def receive(self, transfer: Transfer) -> NDArray[np.uint8]:
        """The bytes that the other side has sent."""
        ...

    def read(self, access: Access, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The elements of the access, shaped as its dims; a view, not to be written."""
        ...

    def write(self, access: Access, values: NDArray[Any], dtype: np.dtype[Any]) -> None:
        """Write the elements; `values` broadcasts to the shape of the access."""
        ...


class Operand(Frozen):
    """A field of the instruction word.

    The stored number is (value - low) / scale for unsigned fields and two's complement for signed
    ones. `type_field` names the operand that decides the sign: two's complement where it is S8.
    An `address` does nothing but place accesses: `accesses` names it in each access that it places, that
    access moves with it by `address_unit` bytes, and neither `check` nor `unused` looks at it.
    """

    name: str
    width: int
    offset: int
    low: int
    signed: bool
    scale: int
    type_field: str | None
    enum: type[IntEnum] | None
    address: bool
    doc: str

    def is_signed(self, element: int) -> bool:
        """Whether the field is two's complement, given the value of its type field."""
        return self.signed or (self.type_field is not None and element == ElementType.S8)

    def members(self) -> list[IntEnum]:
        """The enumerated values that the field can hold."""
        return [m for m in self.enum or () if m < 1 << self.width]

    def bounds(self, *, signed: bool) -> tuple[int, int]:
        """The least and the greatest value that can be encoded."""
        if signed:
            return -(1 << (self.width - 1)), (1 << (self.width - 1)) - 1
        return self.low, self.low + ((1 << self.width) - 1) * self.scale


def operand(
    width: int,
    *,
    low: int = 0,
    signed: bool = False,
    scale: int = 1,
    type_field: str | None = None,
    enum: type[IntEnum] | None = None,
    address: bool = False,
    doc: str,
) -> Any:
    """Declare a field; its default is the value that is stored as 0."""
    default: object = low if enum is None else enum(low)
    return described(
        default=default,
        width=width,
        low=low,
        signed=signed,
        scale=scale,
        type_field=type_field,
        enum=enum,
        address=address,
        doc=doc,
    )


M = TypeVar("M", bound="InstructionMeta")


class InstructionMeta(FrozenMeta):
    """Makes classes of instructions, whose fields are given by name."""

    def __new__(
        cls: type[M], name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **options: Any
    ) -> M:
        """A class of instructions, or the common operands of several."""
        return super().__new__(cls, name, bases, namespace, kw_only=True, **options)


@dataclass_transform(eq_default=False, frozen_default=True, kw_only_default=True)
class Instruction(Frozen, metaclass=InstructionMeta, dict=True):
    """The base of all instructions: the header that every word has."""

    waits: tuple[int, ...] = ()
    signals: tuple[int, ...] = ()

    mnemonic: ClassVar[str]
    opcode: ClassVar[int]
    engine: ClassVar[Engine]
    operands: ClassVar[tuple[Operand, ...]]
    shorthands: ClassVar[tuple[str, ...]] = ()
    extension: ClassVar[str] = ""
    """The letter of the extension that it belongs to, or none."""
    is_barrier: ClassVar[bool] = False
    """Whether it completes only when every earlier instruction of its core has."""
    is_terminator: ClassVar[bool] = False
    """Whether it ends the stream."""

    def unused(self) -> frozenset[str]:
        """Operands that this function or mode does not use; they must be stored as 0."""
        return frozenset()

    def extensions(self) -> Sequence[tuple[str, str]]:
        """The extensions that it uses: their letters, and the operands that ask for them."""
        return ((self.extension, ""),) if self.extension else ()

    def check(self, t: Target) -> Iterator[Fault]:
        """Constraints beyond field ranges and footprints."""
        del t
        return iter(())

    def accesses(self, t: Target) -> Iterator[Access]:
        """The exact footprints, reads before writes."""
        del t
        return iter(())

    def transfer(self) -> Transfer | None:
        """Its side of a transfer between devices."""
        return None

    def execute(self, m: MachineState) -> None:
        """The meaning, in plain numpy."""
        del m

    def cycles(self, t: Target) -> int:
        """Cycles for which the instruction occupies its engine, memory conflicts left out.

        An address changes them only by its place within a burst of DRAM.
        """
        return t.ctl.issue

    def latency(self, t: Target) -> int:
        """Cycles from leaving its engine to its completion; the next instruction may start before."""
        del t
        return 0

    def macs(self) -> int:
        """Multiply-accumulate operations that it performs."""
        return 0

    def may_alias(self, read: Access, write: Access) -> bool:
        """Whether a write footprint may share bytes with this read footprint."""
        del read, write
        return False


InstructionT = TypeVar("InstructionT", bound=Instruction)
Kept = TypeVar("Kept")


def kept(method: Callable[[InstructionT, Target], Kept]) -> Callable[[InstructionT, Target], Kept]:
    """Make a method remember what it gives for a target: a program of training runs thousands of times."""
    name = f"{method.__name__} kept"  # no attribute: it would hide the method

    @wraps(method)
    def remembered(self: InstructionT, t: Target) -> Kept:
        found: tuple[Target, Kept] | None = vars(self).get(name)
        if found is None or found[0] is not t:
            found = vars(self)[name] = t, method(self, t)
        return found[1]

    return remembered


INSTRUCTIONS: Final[dict[str, type[Instruction]]] = {}
OPCODES: Final[dict[int, type[Instruction]]] = {}
RESERVED_OPCODES: Final[dict[int, tuple[str, str]]] = {}
"""Opcodes of extensions: mnemonic and extension letter."""


def instruction(
    mnemonic: str, *, opcode: int, engine: Engine | None
) -> Callable[[type[InstructionT]], type[InstructionT]]:
    """Make a class an instruction; `engine=None` expands it to one opcode per engine.

    Then `opcode` gives the low five bits, and the expansions are called `mnemonic.engine`.
    """

    def declare(cls: type[InstructionT]) -> type[InstructionT]:
        cls.operands = _layout(cls)
        _check_declaration(mnemonic, cls)
        if engine is not None:
            _register(cls, mnemonic, opcode, engine)
            return cls
        cls.mnemonic = mnemonic
        for each in Engine:
            expansion = type(cls)(
                f"{cls.__name__}{each.name.title()}",
                (cls,),
                {"__doc__": cls.__doc__, "__module__": cls.__module__},
            )
            _register(expansion, f"{mnemonic}.{each.name.lower()}", each << 5 | opcode, each)
        return cls

    return declare


@cache
def greatest(cls: type[Instruction], name: str) -> int:
    """The greatest value that an operand can hold, read as unsigned unless it is signed."""
    spec = next(o for o in cls.operands if o.name == name)
    return spec.bounds(signed=spec.signed)[1]


def _register(cls: type[Instruction], mnemonic: str, opcode: int, engine: Engine) -> None:
    assert mnemonic not in INSTRUCTIONS, f"{mnemonic} is declared twice"
    assert opcode not in OPCODES, f"opcode {opcode:#04x} is declared twice"
    assert opcode >> 5 == engine, f"{mnemonic}: bits 7-5 of the opcode are not its engine"
    cls.mnemonic, cls.opcode, cls.engine = mnemonic, opcode, engine
    INSTRUCTIONS[mnemonic] = cls
    OPCODES[opcode] = cls


def _layout(cls: type[Instruction]) -> tuple[Operand, ...]:
    """The operands in order of declaration, packed from bit 32 upward."""
    found: list[Operand] = []
    offset = HEADER_BITS
    for name, about in descriptions(cls):
        found.append(Operand(name=name, offset=offset, **about))
        offset += about["width"]
    return tuple(found)


def _check_declaration(mnemonic: str, cls: type[Instruction]) -> None:
    names = [o.name for o in cls.operands]
    inherited = any(cls.__doc__ == base.__doc__ for base in cls.__mro__[1:])
    assert cls.__doc__, f"{mnemonic}: the manual text is missing"
    assert not inherited, f"{mnemonic}: the manual text is another's"
    total = sum(o.width for o in cls.operands) + HEADER_BITS
    assert total <= WORD_BITS, f"{mnemonic}: {total} bits do not fit into a word"
    for spec in cls.operands:
        assert spec.doc, f"{mnemonic}: operand {spec.name} has no text"
        assert spec.type_field is None or spec.type_field in names, f"{mnemonic}: {spec.type_field}"
        assert spec.enum is None or spec.enum(spec.low) is not None, f"{mnemonic}: {spec.name}"
    for template in cls.shorthands:
        for name in re.findall(r"\{(\w+)\}", template):
            assert name in names, f"{mnemonic}: the shorthand {template!r} names {name!r}"


def reserve(mnemonic: str, opcode: int, extension: str) -> None:
    """Keep an opcode for an instruction of an extension."""
    assert opcode not in OPCODES
    RESERVED_OPCODES[opcode] = (mnemonic, extension)
