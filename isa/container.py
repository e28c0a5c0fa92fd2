"""The binary format: a program as an ELF file, and the checks of its loader.

Nothing is allocated before the whole file has been found sound: sizes against the target and a
cap on the host, checksums, JSON, instruction words, the interface against the regions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NoReturn

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
from isa.executable import STREAMS, Executable, as_executable
from isa.memory_map import DATA_REGIONS, REGION_SHIFT, SIZED_REGIONS, Region
from isa.pooling import (
    DeviceTable,
    Pools,
    StreamContent,
    joined_bytes,
    pooled,
    required_bytes,
    separated,
)
from isa.program import (
    MAIN_STREAM,
    Abi,
    DebugMap,
    Note,
    Operators,
    Program,
    Symbol,
    text_section,
)
from isa.soundness import HOST_CAP, check_interfaces, check_tables
from isa.spec import WORD_BYTES
from isa.support.diagnostics import BinaryError, Diagnostic, Findings, TargetError
from isa.support.locations import FileLoc
from isa.support.record_json import RecordError, from_json, to_json
from isa.support.records import Frozen, replace
from isa.target import EXTENSIONS, Target, target_from_json
from isa.versions import CONTAINER_VERSION, ISA_VERSION

OWNER: Final = b"X1"
NOTE_TYPE: Final = 0x5831
TEXT_ADDRESS: Final = 16 << REGION_SHIFT
SCRATCHPAD_ADDRESS: Final = 32 << REGION_SHIFT
SCHEME: Final = ".x1.scheme"
TRAINING: Final = ".x1.train"
DEVICES: Final = ".x1.devices"
MOST_TEXT: Final = 1 << 28
"""Bytes of instructions of all devices together: pieces may stand in a file once, and on devices often."""
REQUIRED: Final = (".note.x1", ".x1.target", ".symtab", ".strtab")
TABLES: Final = (".x1.abi", ".x1.map", ".x1.ops")
IMPLEMENTED: Final = ("N", "T")
"""Extensions that this tool executes."""
TEXTS: Final = {text_section(s): n for n, s in enumerate(STREAMS)}
"""The sections of instructions, and their numbers."""
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


def save(what: Program | Executable) -> bytes:
    """The file of a program, or of several; a pure function of what is saved."""
    executable = as_executable(what)
    return assemble_sections(
        executable_sections(executable), executable.programs[0].note, executable.extensions
    )


def executable_sections(what: Program | Executable, texts: Sequence[bytes] | None = None) -> list[Section]:
    """Every section but the note; `texts` are the words of the programs, where they are known."""
    executable = as_executable(what)
    shared = executable.programs[0]
    words = [encode_all(p.instructions) for p in executable.programs] if texts is None else texts
    held = _held(executable, words)
    sections: list[Section] = []
    for stream, content in held.streams.items():
        name = text_section(stream)
        sections.append(
            Section(
                name,
                PROGBITS,
                content.text,
                flags=FLAG_ALLOC | FLAG_EXEC,
                address=TEXT_ADDRESS + (TEXTS[name] << REGION_SHIFT),
                align=64,
                entry_size=WORD_BYTES,
            )
        )
    for region in (r for r in (*DATA_REGIONS, *SIZED_REGIONS) if r in held.sizes):
        stored = region in held.regions
        sections.append(
            Section(
                region.section,
                PROGBITS if stored else NOBITS,
                held.regions.get(region, b""),
                size=0 if stored else held.sizes[region],
                flags=FLAG_ALLOC | (FLAG_WRITE if region.writable else 0),
                address=region.address,
                align=64,
            )
        )
    sections.append(Section(".x1.target", PROGBITS, shared.target.canonical.encode()))
    if executable.device_count > 1:
        sections.append(Section(DEVICES, PROGBITS, to_json(held.table)))
    for stream, content in held.streams.items():
        operators = executable.stream(stream).operators
        for name, record in zip(TABLES, (content.abi, content.debug, operators), strict=True):
            sections.append(Section(table_section(name, stream), PROGBITS, to_json(record)))
    for name, text in ((SCHEME, shared.scheme), (TRAINING, executable.training)):
        if text:
            sections.append(Section(name, PROGBITS, text.encode()))
    index = {s.name: i + 1 for i, s in enumerate(sections)}
    symtab, strtab = write_symbols([_elf_symbol(s, index) for s in held.symbols])
    sections.append(Section(".symtab", SYMTAB, symtab, align=8, link=".strtab", info=1, entry_size=24))
    sections.append(Section(".strtab", STRTAB, strtab))
    return sections


def _held(executable: Executable, texts: Sequence[bytes]) -> Pools:
    """What the sections hold: of one device its own, of several the pools of all."""
    if executable.device_count > 1:
        return pooled(executable.programs, texts)
    shared = executable.programs[0]
    streams = {
        p.stream: StreamContent(text, Abi(p.abi.inputs, p.abi.outputs, p.region_rows()), p.debug)
        for p, text in zip(executable.programs, texts, strict=True)
    }
    sizes = shared.region_sizes()
    return Pools(DeviceTable(()), streams, shared.region_contents(), sizes, executable.symbols)


def table_section(name: str, stream: str) -> str:
    """The section of a stream's table; that of a program alone has no ending."""
    return name if stream == MAIN_STREAM else f"{name}.{stream}"


def assemble_sections(sections: list[Section], note: Note, extensions: tuple[str, ...] = ()) -> bytes:
    """The file of these sections, with a note whose digests are right."""
    target = next(s for s in sections if s.name == ".x1.target")
    digests = tuple((s.name, _sha256(s.data)) for s in sections if s.kind == PROGBITS)

    record = NoteRecord(
        ISA_VERSION,
        CONTAINER_VERSION,
        extensions,
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
    """The program of a file that a run executes where no stream is named: see `load_executable`."""
    return load_executable(data, name).main


def load_executable(data: bytes, name: str = "binary") -> Executable:
    """The programs of a file, every check of the loader passed.

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
        return _executable(file, data, note, name)
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
    kind = _FUNC if symbol.section in TEXTS else _OBJECT
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
        if letter not in IMPLEMENTED:
            known = letter in EXTENSIONS
            what = f"needs extension {letter} ({EXTENSIONS[letter]})" if known else "is unknown"
            raise ElfError(f"the extension {letter!r} {what}; this tool has {', '.join(IMPLEMENTED)}")
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


def _executable(file: ElfFile, content: bytes, note: NoteRecord, name: str) -> Executable:
    target = target_from_json(_text(_content(file, ".x1.target"), "target"))
    canonical = target.canonical.encode()
    if canonical != _content(file, ".x1.target") or _sha256(canonical) != note.target_sha256:
        raise ElfError("the target is not in canonical form")
    _check_sizes(file, target.dram.size)
    streams = [s for s in STREAMS if file.find(text_section(s)) is not None]
    if not streams or (MAIN_STREAM in streams and len(streams) > 1):
        raise ElfError(f"the file has the streams {', '.join(streams) or 'none'}")
    for table in (table_section(t, s) for s in streams for t in TABLES):
        if file.find(table) is None:
            raise ElfError(f"the section {table} is missing")
    shared = Program(
        target,
        (),
        weights=_content(file, Region.WEIGHTS.section),
        params=_content(file, Region.PARAMS.section),
        arena_bytes=_size(file, Region.ARENA),
        input_bytes=_size(file, Region.INPUT),
        output_bytes=_size(file, Region.OUTPUT),
        note=Note(note.compiler, note.options, note.calibration),
        scheme=_text(_content(file, SCHEME), "scheme"),
        state=_content(file, Region.STATE.section),
    )
    programs, texts = _programs(file, shared, streams, name)
    for program in programs:
        check_tables(program)
    if programs[0].devices > 1:
        check_interfaces(programs)
    executable = Executable(tuple(programs), _text(_content(file, TRAINING), "record of the training"))
    _require_canonical(file, content, executable, texts)
    return executable


def _programs(
    file: ElfFile, shared: Program, streams: Sequence[str], name: str
) -> tuple[list[Program], list[bytes]]:
    """The programs of all streams and devices, and the words of each."""
    symbols = _symbols(file)
    alone = [_program(file, replace(shared, stream=s), symbols, name) for s in streams]
    words = {s: _content(file, text_section(s)) for s in streams}
    if file.find(DEVICES) is None:
        return alone, list(words.values())
    table = from_json(DeviceTable, _content(file, DEVICES), DEVICES)
    _check_devices(table, shared.target)
    held = Pools(
        table,
        {p.stream: StreamContent(words[p.stream], p.abi, p.debug) for p in alone},
        shared.region_contents(),
        shared.region_sizes(),
        tuple(symbols),
    )
    made = separated(shared, held, {p.stream: p.instructions for p in alone})
    operators = {p.stream: p.operators for p in alone}
    programs = [replace(p, operators=operators[p.stream]) for p, _ in made]
    return programs, [joined_bytes(words[p.stream], ranges) for p, ranges in made]


def _check_devices(table: DeviceTable, target: Target) -> None:
    """There are as many devices as the target can link, and the host has room for their regions."""
    count, linked = len(table.devices), target.net.devices
    if not 2 <= count <= linked:
        raise ElfError(f"the file is for {count} devices; allowed: 2 to {linked}")
    text = sum(max(size, 0) for row in table.devices for s in row.streams for _, size in s.text)
    if text > MOST_TEXT:
        raise ElfError(f"the devices have {text} bytes of instructions; allowed: {MOST_TEXT}")
    needed = required_bytes(table)
    for what, size, most in (("a device", max(needed), target.dram.size), ("all", sum(needed), HOST_CAP)):
        if size > most:
            raise ElfError(f"the regions of {what} need {size} bytes; allowed: {most}")


def _content(file: ElfFile, section: str) -> bytes:
    found = file.find(section)
    return found.data if found else b""


def _size(file: ElfFile, region: Region) -> int:
    found = file.find(region.section)
    return found.length if found else 0


def _program(file: ElfFile, shared: Program, symbols: Sequence[Symbol], name: str) -> Program:
    """The program of a stream: what it shares with others, and its own text and tables."""
    section = text_section(shared.stream)
    text = _content(file, section)
    if len(text) % WORD_BYTES or not text:
        raise ElfError(f"{section} is not whole instruction words")
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
    abi, debug, operators = (table_section(t, shared.stream) for t in TABLES)
    return replace(
        shared,
        instructions=tuple(instructions),
        abi=from_json(Abi, _content(file, abi), abi),
        debug=from_json(DebugMap, _content(file, debug), debug),
        operators=from_json(Operators, _content(file, operators), operators),
        symbols=tuple(s for s in symbols if s.section not in TEXTS or s.section == section),
    )


def _require_canonical(file: ElfFile, data: bytes, executable: Executable, texts: Sequence[bytes]) -> None:
    """Writing the programs again gives the same file; sections of other names stay as they are.

    The texts are not encoded again: words and instructions correspond one to one.
    """
    known = {s.name: s for s in executable_sections(executable, texts)}
    found = [s for s in file.sections if s.name != ".note.x1"]
    sections = [known.get(s.name, s) for s in found]
    in_order = [s.name for s in found if s.name in known] == list(known)
    note = executable.programs[0].note
    if not in_order or assemble_sections(sections, note, executable.extensions) != data:
        raise ElfError("the file is not written canonically")


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ElfError(f"the {what} is not UTF-8") from None


def _check_sizes(file: ElfFile, dram: int) -> None:
    sizes = sum(s.length for s in file.sections if s.flags & FLAG_ALLOC and s.name not in TEXTS)
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
        elif owner in TEXTS or owner in _REGION_SECTIONS:
            found.append(Symbol(name, owner, value, size))
        else:
            raise ElfError(f"the symbol {name!r} is of no section of the program")
    return found
