"""ELF64 little-endian files as lists of sections, written canonically and read with suspicion.

Only what the X1 container uses: no program headers, sections in file order, string tables built
here. A file that this writer would not have written the same way is refused, so that reading and
writing are inverse.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable
from typing import Final

from isa.support.records import Frozen, field

MACHINE: Final = 0xE71D
MAX_SECTIONS: Final = 64
MAX_FILE: Final = 1 << 32

NULL, PROGBITS, SYMTAB, STRTAB, NOTE, NOBITS = 0, 1, 2, 3, 7, 8
FLAG_WRITE, FLAG_ALLOC, FLAG_EXEC = 1, 2, 4

_EHDR: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR: Final = struct.Struct("<IIQQQQIIQQ")
_SYM: Final = struct.Struct("<IBBHQQ")
_NOTE: Final = struct.Struct("<III")
SHN_ABS: Final = 0xFFF1
_IDENT: Final = b"\x7fELF\x02\x01\x01" + bytes(9)


class ElfError(Exception):
    """Bytes that are not such a file; the message says why."""


class Section(Frozen):
    """A named section; `size` counts for NOBITS, where there is no data."""

    name: str
    kind: int
    data: bytes = b""
    size: int = 0
    flags: int = 0
    address: int = 0
    align: int = 1
    link: str = ""
    info: int = 0
    entry_size: int = 0

    @property
    def length(self) -> int:
        """Bytes in memory."""
        return self.size if self.kind == NOBITS else len(self.data)


class ElfFile(Frozen):
    """The sections of a file and the version flags of its header."""

    flags: int
    sections: list[Section] = field(default_factory=list[Section])

    def find(self, name: str) -> Section | None:
        """The section of that name."""
        return next((s for s in self.sections if s.name == name), None)


def write_elf(file: ElfFile) -> bytes:
    """The bytes of a file."""
    return b"".join(elf_parts(file))


def elf_parts(file: ElfFile) -> list[bytes]:
    """The pieces of a file: header, sections in order, section names, section headers."""
    names = [".shstrtab", *(s.name for s in file.sections)]
    strings, offsets = string_table(names)
    body: list[bytes] = [b""]
    length = _EHDR.size
    headers = [_SHDR.pack(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)]
    index = {s.name: i + 1 for i, s in enumerate(file.sections)}
    for section in [*file.sections, Section(".shstrtab", STRTAB, strings)]:
        padding = -length % section.align
        body += [bytes(padding), section.data]
        length += padding
        headers.append(
            _SHDR.pack(
                offsets[section.name],
                section.kind,
                section.flags,
                section.address,
                length,
                section.length,
                index.get(section.link, 0),
                section.info,
                section.align,
                section.entry_size,
            )
        )
        length += len(section.data)
    body.append(bytes(-length % 8))
    body[0] = _EHDR.pack(
        _IDENT,
        2,
        MACHINE,
        1,
        0,
        0,
        length + len(body[-1]),
        file.flags,
        _EHDR.size,
        0,
        0,
        _SHDR.size,
        len(headers),
        len(headers) - 1,
    )
    return [*body, *headers]


def read_elf(data: bytes) -> ElfFile:
    """The sections of a file.

    Raises:
        ElfError: not such a file, or not written canonically.
    """
    if len(data) < _EHDR.size or data[:4] != _IDENT[:4]:
        raise ElfError("the file does not begin with an ELF header")
    (
        ident,
        kind,
        machine,
        version,
        entry,
        phoff,
        shoff,
        flags,
        ehsize,
        phentsize,
        phnum,
        shentsize,
        shnum,
        shstrndx,
    ) = _EHDR.unpack_from(data)
    if machine != MACHINE:
        raise ElfError(f"the ELF machine is {machine:#06x}, not X1's {MACHINE:#06x}")
    header = (ident, kind, version, entry, phoff, ehsize, phentsize, phnum, shentsize)
    if header != (_IDENT, 2, 1, 0, 0, _EHDR.size, 0, 0, _SHDR.size):
        raise ElfError("the ELF header is not the one of an X1 binary")
    if not 2 <= shnum <= MAX_SECTIONS or shstrndx != shnum - 1:
        raise ElfError(f"the file has {shnum} sections; allowed: 2 to {MAX_SECTIONS}, names last")
    if shoff + shnum * _SHDR.size != len(data):
        raise ElfError("the section headers are not the end of the file: it is truncated or has a tail")
    headers = [_SHDR.unpack_from(data, shoff + i * _SHDR.size) for i in range(shnum)]
    _check_places(headers, shoff)
    names = data[headers[-1][4] : headers[-1][4] + headers[-1][5]]
    sections = [_section(h, data, headers, names) for h in headers[1:-1]]
    file = ElfFile(flags, sections)
    if len({s.name for s in sections} | {".shstrtab"}) != len(sections) + 1:
        raise ElfError("two sections have the same name")
    if write_elf(file) != data:
        raise ElfError("the file is not laid out canonically")
    return file


def string_table(names: Iterable[str]) -> tuple[bytes, dict[str, int]]:
    """A string table of the names, in sorted order, and the offset of each."""
    table = bytearray(1)
    offsets: dict[str, int] = {"": 0}
    for name in sorted(set(names) - {""}):
        offsets[name] = len(table)
        table += name.encode() + b"\0"
    return bytes(table), offsets


def write_note(owner: bytes, kind: int, description: bytes) -> bytes:
    """A note section with one note."""
    name = owner + b"\0"
    out = bytearray(_NOTE.pack(len(name), len(description), kind) + name)
    _pad(out, 4)
    out += description
    _pad(out, 4)
    return bytes(out)


def read_note(data: bytes, owner: bytes, kind: int) -> bytes:
    """The description of the only note.

    Raises:
        ElfError: another owner or type, or more than one note.
    """
    if len(data) < _NOTE.size:
        raise ElfError("the note is truncated")
    name_size, size, found = _NOTE.unpack_from(data)
    name = owner + b"\0"
    start = _NOTE.size + -(-len(name) // 4) * 4
    if name_size != len(name) or data[_NOTE.size : _NOTE.size + len(name)] != name or found != kind:
        raise ElfError("the note is not one of X1's")
    if start + -(-size // 4) * 4 != len(data):
        raise ElfError("the note section holds more or less than one note")
    return data[start : start + size]


def write_symbols(symbols: list[tuple[str, int, int, int, int]]) -> tuple[bytes, bytes]:
    """Symbol and string table of (name, type, section index, value, size)."""
    strings, offsets = string_table(s[0] for s in symbols)
    entries = [_SYM.pack(0, 0, 0, 0, 0, 0)]
    entries += [
        _SYM.pack(offsets[name], 1 << 4 | kind, 0, section, value, size)
        for name, kind, section, value, size in symbols
    ]
    return b"".join(entries), strings


def read_symbols(symtab: bytes, strings: bytes) -> list[tuple[str, int, int, int, int]]:
    """(name, type, section index, value, size) of every symbol.

    Raises:
        ElfError: the table is not whole, or a name lies outside the string table.
    """
    if len(symtab) % _SYM.size or not symtab:
        raise ElfError("the symbol table is not whole")
    names: dict[int, str] = {}
    found: list[tuple[str, int, int, int, int]] = []
    for name, info, _, section, value, size in _SYM.iter_unpack(symtab[_SYM.size :]):
        if name not in names:
            if name and strings[name - 1 : name] != b"\0":  # suffixes of one long name would fill the host
                raise ElfError("a symbol's name begins inside another")
            names[name] = _string(strings, name)
        found.append((names[name], info & 15, section, value, size))
    return found


def _check_places(headers: list[tuple[int, ...]], table: int) -> None:
    """Every section lies inside the file, and no two share bytes."""
    if headers[0] != (0,) * 10:
        raise ElfError("the first section header is not empty")
    places: list[tuple[int, int]] = []
    for header in headers[1:]:
        kind, flags, offset, size, align = header[1], header[2], header[4], header[5], header[8]
        if kind not in (PROGBITS, SYMTAB, STRTAB, NOTE, NOBITS):
            raise ElfError(f"a section has the type {kind}, which an X1 binary does not use")
        if flags & ~7:
            raise ElfError("a section is compressed or has other flags that are not allowed")
        if align not in (1, 4, 8, 64):
            raise ElfError(f"a section is aligned to {align}; allowed: 1, 4, 8, 64")
        if kind != NOBITS:
            if offset < _EHDR.size or offset + size > table:
                raise ElfError("a section lies outside the file")
            places.append((offset, offset + size))
    places.sort()
    if any(stop > start for (_, stop), (start, _) in itertools.pairwise(places)):
        raise ElfError("two sections overlap")


def _section(header: tuple[int, ...], data: bytes, headers: list[tuple[int, ...]], names: bytes) -> Section:
    name, kind, flags, address, offset, size, link, info, align, entry = header
    if link >= len(headers):
        raise ElfError("a section links to one that does not exist")
    content = b"" if kind == NOBITS else data[offset : offset + size]
    return Section(
        _string(names, name),
        kind,
        content,
        size if kind == NOBITS else 0,
        flags,
        address,
        align,
        _string(names, headers[link][0]) if link else "",
        info,
        entry,
    )


def _string(table: bytes, offset: int) -> str:
    end = table.find(b"\0", offset)
    if offset >= max(len(table), 1) or end < 0:
        raise ElfError("a name lies outside its string table")
    try:
        return table[offset:end].decode()
    except UnicodeDecodeError:
        raise ElfError("a name is not UTF-8") from None


def _pad(body: bytearray, align: int) -> None:
    body += bytes(-len(body) % align)
