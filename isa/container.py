"""The binary format: a program as an ELF file, and the checks of its loader.

Nothing is allocated before the whole file has been found sound: sizes against the target and a
cap on the host, checksums, JSON, instruction words, the interface against the regions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

import numpy as np

from isa.elf import (
    FLAG_ALLOC,
    FLAG_EXEC,
    FLAG_WRITE,
    NOBITS,
    NOTE,
    PROGBITS,
    SHN_ABS,
    STRTAB,
    SYMTAB,
    ElfError,
    ElfFile,
    Section,
    elf_parts,
    read_elf,
    read_note,
    read_symbols,
    write_elf,
    write_note,
    write_symbols,
)
from isa.encoding import decode_all, encode_all
from isa.memory_map import DATA_REGIONS, REGION_SHIFT, SIZED_REGIONS, Region
from isa.program import (
    HOST_DTYPES,
    Abi,
    Box,
    DebugMap,
    Interface,
    MapRow,
    Note,
    Operators,
    Program,
    Symbol,
    TensorRow,
    box_shape,
    first_overlap,
    stored_access,
    volume,
)
from isa.spec import WORD_BYTES
from isa.support.diagnostics import BinaryError, Diagnostic, Findings, TargetError
from isa.support.locations import FileLoc
from isa.support.record_json import RecordError, from_json, to_json
from isa.support.records import Frozen, replace
from isa.target import EXTENSIONS, target_from_json
from isa.versions import CONTAINER_VERSION, ISA_VERSION

OWNER: Final = b"X1"
NOTE_TYPE: Final = 0x5831
TEXT_ADDRESS: Final = 16 << REGION_SHIFT
SCRATCHPAD_ADDRESS: Final = 32 << REGION_SHIFT
HOST_CAP: Final = 4 << 30
"""The host never allocates more than this for the regions of one program."""
TEXT: Final = ".text.core0"
SCHEME: Final = ".x1.scheme"
REQUIRED: Final = (TEXT, ".note.x1", ".x1.target", ".x1.abi", ".x1.map", ".x1.ops", ".symtab", ".strtab")
DEVICE_DTYPES: Final = ("int8", "uint8", "int32")
DEVICE_RANK: Final = 4
MAX_RANK: Final = 16
MAX_STEPS: Final = 64
ZERO_DIGEST: Final = "0" * 64
_REGION_SECTIONS: Final = tuple(r.section for r in (*DATA_REGIONS, *SIZED_REGIONS))
_OBJECT, _FUNC = 1, 2


class NoteRecord(Frozen):
    """The JSON of the note: versions, digests, provenance."""

    isa: str
    container: str
    extensions: tuple[str, ...]
    compiler: str
    options: tuple[tuple[str, str], ...]
    calibration: str
    target_sha256: str
    file_sha256: str
    sections_sha256: tuple[tuple[str, str], ...]


def save(program: Program) -> bytes:
    """The file of a program; a pure function of the program."""
    return assemble_sections(program_sections(program), program.note)


def program_sections(program: Program, text: bytes | None = None) -> list[Section]:
    """Every section of a program but the note; `text` is that of its instructions, where it is known."""
    sections = [
        Section(
            TEXT,
            PROGBITS,
            encode_all(program.instructions) if text is None else text,
            flags=FLAG_ALLOC | FLAG_EXEC,
            address=TEXT_ADDRESS,
            align=64,
            entry_size=WORD_BYTES,
        )
    ]
    contents, sizes = program.region_contents(), program.region_sizes()
    for region in (r for r in (*DATA_REGIONS, *SIZED_REGIONS) if r in sizes):
        held = region in contents
        sections.append(
            Section(
                region.section,
                PROGBITS if held else NOBITS,
                contents.get(region, b""),
                size=0 if held else sizes[region],
                flags=FLAG_ALLOC | (FLAG_WRITE if region.writable else 0),
                address=region.address,
                align=64,
            )
        )
    abi = Abi(program.abi.inputs, program.abi.outputs, program.region_rows())
    for name, content in (
        (".x1.target", program.target.canonical.encode()),
        (".x1.abi", to_json(abi)),
        (".x1.map", to_json(program.debug)),
        (".x1.ops", to_json(program.operators)),
    ):
        sections.append(Section(name, PROGBITS, content))
    if program.scheme:
        sections.append(Section(SCHEME, PROGBITS, program.scheme.encode()))
    index = {s.name: i + 1 for i, s in enumerate(sections)}
    symtab, strtab = write_symbols([_elf_symbol(s, index) for s in program.symbols])
    sections.append(Section(".symtab", SYMTAB, symtab, align=8, link=".strtab", info=1, entry_size=24))
    sections.append(Section(".strtab", STRTAB, strtab))
    return sections


def assemble_sections(sections: list[Section], note: Note) -> bytes:
    """The file of these sections, with a note whose digests are right."""
    target = next(s for s in sections if s.name == ".x1.target")
    digests = tuple((s.name, _sha256(s.data)) for s in sections if s.kind == PROGBITS)

    record = NoteRecord(
        ISA_VERSION,
        CONTAINER_VERSION,
        (),
        note.compiler,
        note.options,
        note.calibration,
        _sha256(target.data),
        ZERO_DIGEST,
        digests,
    )
    whole = hashlib.sha256()
    for part in elf_parts(_with_note(sections, record)):
        whole.update(part)
    return write_elf(_with_note(sections, replace(record, file_sha256=whole.hexdigest())))


def _with_note(sections: list[Section], record: NoteRecord) -> ElfFile:
    content = write_note(OWNER, NOTE_TYPE, to_json(record))
    return ElfFile(_version_flags(), [*sections, Section(".note.x1", NOTE, content, align=4)])


def load(data: bytes, name: str = "binary") -> Program:
    """The program of a file, every check of the loader passed.

    Raises:
        BinaryError: the bytes are not a sound X1 binary of this version.
    """
    try:
        file = read_elf(data)
        _check_version(file)
        missing = [s for s in REQUIRED if file.find(s) is None]
        if missing:
            raise ElfError(f"the section {missing[0]} is missing")
        note = _check_note(file, data)
        return _program(file, data, note, name)
    except (ElfError, RecordError) as error:
        _refuse(name, "binary.format", str(error))
    except TargetError as error:
        _refuse(name, "binary.target", error.diagnostics[0].message)


def _refuse(name: str, code: str, message: str) -> NoReturn:
    raise BinaryError(
        Diagnostic(code, message, FileLoc(name), remedy="compile the model again with this version")
    ) from None


def _version_flags() -> int:
    major, minor = (int(p) for p in ISA_VERSION.split("."))
    return major << 8 | minor


def _check_version(file: ElfFile) -> None:
    if file.flags != _version_flags():
        found = f"{file.flags >> 8}.{file.flags & 0xFF}"
        raise ElfError(f"the binary is of ISA version {found}; this tool executes {ISA_VERSION}")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _elf_symbol(symbol: Symbol, index: dict[str, int]) -> tuple[str, int, int, int, int]:
    if not symbol.section:
        return symbol.name, _OBJECT, SHN_ABS, SCRATCHPAD_ADDRESS + symbol.value, symbol.size
    kind = _FUNC if symbol.section == TEXT else _OBJECT
    return symbol.name, kind, index[symbol.section], symbol.value, symbol.size


def _check_note(file: ElfFile, data: bytes) -> NoteRecord:
    section = file.find(".note.x1")
    assert section is not None
    record = from_json(NoteRecord, read_note(section.data, OWNER, NOTE_TYPE), "the note")
    if record.isa != ISA_VERSION or record.container != CONTAINER_VERSION:
        raise ElfError(
            f"the note says ISA {record.isa}, container {record.container}; this tool "
            f"knows {ISA_VERSION} and {CONTAINER_VERSION}"
        )
    for letter in record.extensions:
        what = f"needs extension {letter} ({EXTENSIONS[letter]})" if letter in EXTENSIONS else "is unknown"
        raise ElfError(f"the extension {letter!r} {what}; this tool has none")
    digests = tuple((s.name, _sha256(s.data)) for s in file.sections if s.kind == PROGBITS)
    for (name, found), (listed, expected) in zip(digests, record.sections_sha256, strict=False):
        if name != listed or found != expected:
            raise ElfError(f"the checksum of {name} differs")
    if len(digests) != len(record.sections_sha256):
        raise ElfError("the note does not list every section's checksum")
    if data.count(record.file_sha256.encode()) != 1:
        raise ElfError("the checksum of the file differs")
    if _sha256(data.replace(record.file_sha256.encode(), ZERO_DIGEST.encode())) != record.file_sha256:
        raise ElfError("the checksum of the file differs")
    return record


def _program(file: ElfFile, content: bytes, note: NoteRecord, name: str) -> Program:
    def data(section: str) -> bytes:
        found = file.find(section)
        return found.data if found else b""

    def size(section: str) -> int:
        found = file.find(section)
        return found.length if found else 0

    target = target_from_json(_text(data(".x1.target"), "target"))
    if target.canonical.encode() != data(".x1.target") or _sha256(data(".x1.target")) != note.target_sha256:
        raise ElfError("the target is not in canonical form")
    _check_sizes(file, target.dram.size)
    text = data(TEXT)
    if len(text) % WORD_BYTES or not text:
        raise ElfError(f"{TEXT} is not whole instruction words")
    instructions, bad = decode_all(text)
    if bad:
        findings = Findings(BinaryError)
        for word in bad[:10]:
            findings.add(
                f"binary.{word.fault.trap.name.lower()}",
                f"instruction {word.pc}: {word.fault.message}",
                FileLoc(name),
            )
        findings.raise_if_any()
    program = Program(
        target,
        tuple(instructions),
        weights=data(Region.WEIGHTS.section),
        params=data(Region.PARAMS.section),
        state=data(Region.STATE.section),
        arena_bytes=size(Region.ARENA.section),
        input_bytes=size(Region.INPUT.section),
        output_bytes=size(Region.OUTPUT.section),
        abi=from_json(Abi, data(".x1.abi"), ".x1.abi"),
        debug=from_json(DebugMap, data(".x1.map"), ".x1.map"),
        operators=from_json(Operators, data(".x1.ops"), ".x1.ops"),
        symbols=tuple(_symbols(file)),
        note=Note(note.compiler, note.options, note.calibration),
        scheme=_text(data(SCHEME), "scheme"),
    )
    _check_interface(program)
    _check_debug(program)
    _require_canonical(file, content, program)
    return program


def _require_canonical(file: ElfFile, data: bytes, program: Program) -> None:
    """Writing the program again gives the same file; sections of other names stay as they are.

    The text is not encoded again: words and instructions correspond one to one.
    """
    text = file.find(TEXT)
    assert text is not None
    known = {s.name: s for s in program_sections(program, text.data)}
    found = [s for s in file.sections if s.name != ".note.x1"]
    sections = [known.get(s.name, s) for s in found]
    in_order = [s.name for s in found if s.name in known] == list(known)
    if not in_order or assemble_sections(sections, program.note) != data:
        raise ElfError("the file is not written canonically")


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ElfError(f"the {what} is not UTF-8") from None


def _check_sizes(file: ElfFile, dram: int) -> None:
    sizes = sum(s.length for s in file.sections if s.flags & FLAG_ALLOC and s.name != TEXT)
    allowed = min(dram, HOST_CAP)
    if sizes > allowed:
        raise ElfError(f"the regions need {sizes} bytes; allowed: {allowed}")


def _symbols(file: ElfFile) -> list[Symbol]:
    symtab, strtab = file.find(".symtab"), file.find(".strtab")
    assert symtab is not None
    assert strtab is not None
    found: list[Symbol] = []
    for name, _, section, value, size in read_symbols(symtab.data, strtab.data):
        owner = file.sections[section - 1].name if 1 <= section <= len(file.sections) else ""
        if section == SHN_ABS:
            found.append(Symbol(name, "", value - SCRATCHPAD_ADDRESS, size))
        elif owner in (TEXT, *_REGION_SECTIONS):
            found.append(Symbol(name, owner, value, size))
        else:
            raise ElfError(f"the symbol {name!r} is of no section of the program")
    return found


def _check_interface(program: Program) -> None:
    """Every input and output lies inside its region, in a form that the host can convert."""
    if program.abi.regions != program.region_rows():
        raise RecordError("the region table of .x1.abi is not that of the sections")
    sizes = program.region_sizes()
    for tensors, region, writer in (
        (program.abi.inputs, Region.INPUT, "input"),
        (program.abi.outputs, Region.OUTPUT, "output"),
    ):
        for tensor in tensors:
            given = writer == "output" and tensor.region in (Region.WEIGHTS, Region.INPUT)
            allowed = Region(tensor.region) if given else region
            _check_tensor(tensor, allowed, sizes.get(allowed, 0), writer)
            if given and allowed is Region.INPUT and program.abi.returned_input(tensor) is None:
                raise RecordError(f"the output '{tensor.name}' is no input")
    if pair := first_overlap(program.abi.inputs):
        raise RecordError(f"the inputs '{pair[0].name}' and '{pair[1].name}' share bytes")
    _check_interface_names(program.abi)


def _check_interface_names(abi: Abi) -> None:
    """Rows of one input are one tensor of the host; an output has one row."""
    hosts = {t.name: (t.dtype, t.shape) for t in abi.inputs}
    for tensor in abi.inputs:
        if hosts[tensor.name] != (tensor.dtype, tensor.shape):
            raise RecordError(f"two inputs have the name '{tensor.name}'")
    if len({t.name for t in abi.outputs}) != len(abi.outputs):
        raise RecordError("two outputs have the same name")


def _check_tensor(tensor: Interface, region: Region, limit: int, writer: str) -> None:
    what = f"{writer} '{tensor.name}'"
    if tensor.dtype not in HOST_DTYPES:
        raise RecordError(f"{what} has the dtype {tensor.dtype!r}; allowed: {', '.join(HOST_DTYPES)}")
    stored = DEVICE_DTYPES if region is Region.OUTPUT else HOST_DTYPES
    if tensor.device_dtype not in stored:
        raise RecordError(
            f"{what} has the device dtype {tensor.device_dtype!r}; allowed: {', '.join(stored)}"
        )
    _check_layout(tensor, what, 0 if region is Region.WEIGHTS else 1)
    if tensor.region != region or tensor.offset < 0 or tensor.offset + tensor.bytes > limit:
        raise RecordError(f"{what} lies outside its region")
    _check_conversion(tensor, what)


def _check_layout(tensor: Interface, what: str, least: int) -> None:
    """Host and device have the same elements, the device's in pixels that are a stride apart.

    `least` is the least extent of a dimension: a constant may be empty.
    """
    if len(tensor.device_shape) != DEVICE_RANK:
        raise RecordError(f"{what} has a shape that no device tensor has")
    _size(tensor.device_shape, what, least)
    if sorted(tensor.perm) != list(range(len(tensor.perm))) or len(tensor.perm) != len(tensor.shape):
        raise RecordError(f"{what} has a permutation that is none")
    pixels, channels = volume(tensor.device_shape[:3]), tensor.device_shape[3]
    too_narrow = tensor.pixel_stride < channels * tensor.element_bytes
    if _size(tensor.shape, what, least) != pixels * channels or too_narrow:
        raise RecordError(f"{what} has different sizes on host and device")
    if tensor.bytes != pixels * tensor.pixel_stride:
        raise RecordError(f"{what} has a byte count that its shape does not give")


def _check_conversion(tensor: Interface, what: str) -> None:
    """The host can convert the one type to the other, with this scale and zero point."""
    scale = tensor.scale
    if scale is not None and not 0 < float(scale) < float("inf"):
        raise RecordError(f"{what} has a scale that is not finite and positive")
    low, high = (0, 255) if tensor.device_dtype == "uint8" else (-128, 127)
    if not low <= tensor.zero_point <= high:
        raise RecordError(f"{what} has a zero point outside {low}..{high}")
    exact = scale is None and (
        tensor.dtype == tensor.device_dtype or (tensor.dtype, tensor.device_dtype) == ("int64", "int32")
    )
    real = scale is not None and tensor.dtype == "float32" and tensor.device_dtype in ("int8", "uint8")
    if not exact and not real:
        raise RecordError(f"{what} has no conversion from {tensor.dtype} to {tensor.device_dtype}")


def _check_debug(program: Program) -> None:
    """Rows name instructions, operators, tensors and operands that exist."""
    ops = {o.id for o in program.operators.ops}
    tensors = {t.id: t for t in program.operators.tensors}
    if len(ops) != len(program.operators.ops) or len(tensors) != len(program.operators.tensors):
        raise RecordError(".x1.ops has two rows with the same id")
    for tensor in tensors.values():
        _check_row(tensor, tensors)
    end = 0
    for row in program.debug.rows:
        if row.first < end or row.count < 1 or row.first + row.count > len(program.instructions):
            raise RecordError(".x1.map has rows out of order or beyond the program")
        end = row.first + row.count
        if row.core != 0 or row.op not in ops:
            raise RecordError(f".x1.map: the row at {row.first} is of no operator or core")
        if row.tensor is not None:
            _check_stored(program, row, tensors.get(row.tensor))
    for given in (*program.abi.inputs, *program.abi.outputs):
        if given.tensor is not None and (
            given.tensor not in tensors or tensors[given.tensor].shape != given.device_shape
        ):
            raise RecordError(f".x1.abi: '{given.name}' is not the tensor that it names")


def _check_stored(program: Program, row: MapRow, held: TensorRow | None) -> None:
    """A row that stores a box of a device tensor names an operand that holds it."""
    if held is None or held.alias_of is not None or row.box is None or row.operand is None:
        raise RecordError(f".x1.map: the row at {row.first} stores no tensor that is listed")
    if not _lies_in(row.box, held.shape):
        raise RecordError(f".x1.map: the box at {row.first} leaves its tensor")
    last = row.first + row.count - 1
    access = stored_access(program.instructions[last], program.target, row)
    if access is None or access.size() != volume(box_shape(row.box)) * np.dtype(held.dtype).itemsize:
        raise RecordError(f".x1.map: the instruction at {last} holds no such box in '{row.operand}'")


def _check_row(tensor: TensorRow, tensors: Mapping[int, TensorRow]) -> None:
    """A device tensor has a shape of four dimensions; any other is such a one taken through its steps."""
    what = f".x1.ops: tensor '{tensor.name or tensor.id}'"
    if tensor.dtype not in DEVICE_DTYPES:
        raise RecordError(f"{what} has the dtype {tensor.dtype!r}; allowed: {', '.join(DEVICE_DTYPES)}")
    holder = tensors.get(tensor.id if tensor.alias_of is None else tensor.alias_of)
    if holder is None or holder.alias_of is not None or holder.dtype != tensor.dtype:
        raise RecordError(f"{what} is an alias of no tensor with bytes")
    if tensor.alias_of is None and (len(tensor.shape) != DEVICE_RANK or tensor.steps):
        raise RecordError(f"{what} has a shape that no device tensor has")
    if len(tensor.steps) > MAX_STEPS:
        raise RecordError(f"{what} has {len(tensor.steps)} steps; allowed: at most {MAX_STEPS}")
    size = _size(holder.shape, what)
    if tensor.box is not None:
        if tensor.alias_of is None or not _lies_in(tensor.box, holder.shape):
            raise RecordError(f"{what} is no box of the tensor that it is an alias of")
        size = volume(box_shape(tensor.box))
    _check_steps(tensor, size, what)


def _check_steps(tensor: TensorRow, size: int, what: str) -> None:
    """Every step, and the shape at the end, has as many elements as what it begins with."""
    for shape, perm in tensor.steps:
        if sorted(perm) != list(range(len(shape))):
            raise RecordError(f"{what} has a permutation that is none")
        if _size(shape, what) != size:
            raise RecordError(f"{what} has shapes of different sizes")
    if _size(tensor.shape, what) != size:
        raise RecordError(f"{what} has shapes of different sizes")


def _lies_in(box: Box, shape: Sequence[int]) -> bool:
    """Whether a box is not empty and lies within a shape."""
    return len(box) == len(shape) and all(0 <= a < b <= n for (a, b), n in zip(box, shape, strict=True))


def _size(shape: Sequence[int], what: str, least: int = 1) -> int:
    """The number of elements of a shape that may be allocated."""
    if (
        len(shape) > MAX_RANK
        or any(d < least for d in shape)
        or volume([max(d, 1) for d in shape]) > HOST_CAP
    ):
        raise RecordError(
            f"{what} has the shape {list(shape[:MAX_RANK])}; allowed: at most {MAX_RANK} dimensions of at "
            f"least {least}, {HOST_CAP} elements"
        )
    return volume(shape)
