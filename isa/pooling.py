"""The sections of a binary for several devices: what devices have in common stands there once.

A section of such a binary is a pool of pieces. A device's text, or its part of a region, is a list of pieces
of it, one after another. Texts and regions are cut where a symbol begins or ends; pieces with equal bytes,
symbols and rows of the debug map are one. So the shared layers of devices, and all of devices that do the
same, are held once. The tables say where pieces lie in the pool.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from isa.memory_map import DATA_REGIONS, SIZED_REGIONS, Region
from isa.program import Abi, DebugMap, MapRow, Program, Symbol, text_section
from isa.spec import WORD_BYTES
from isa.support.record_json import RecordError
from isa.support.records import Frozen, Struct, field, replace

Ranges = tuple[tuple[int, int], ...]
"""Pieces of a section: (offset, bytes), in their order on the device."""
MOST_BYTES: Final = 1 << 62


class StreamRow(Frozen):
    """The text of a stream on a device."""

    stream: str
    text: Ranges


class DeviceRow(Frozen):
    """What one device has of every section."""

    streams: tuple[StreamRow, ...]
    weights: Ranges
    params: Ranges
    state: Ranges
    arena: int
    input: int
    output: int


class DeviceTable(Frozen):
    """The rows of `.x1.devices`, by device."""

    devices: tuple[DeviceRow, ...]


class StreamContent(Frozen):
    """What the sections of a stream hold; offsets and instructions are counted in the pool."""

    text: bytes
    abi: Abi
    debug: DebugMap


class Pools(Frozen):
    """What the sections of a binary for several devices hold."""

    table: DeviceTable
    streams: Mapping[str, StreamContent]
    regions: Mapping[Region, bytes]
    sizes: Mapping[Region, int]
    """Of every region the bytes of the pool, or, where a binary holds none, the most that a device needs."""
    symbols: tuple[Symbol, ...]


class _Pool(Struct):
    """A section that grows by pieces."""

    name: str
    content: bytearray = field(default_factory=bytearray)
    offsets: dict[object, int] = field(default_factory=dict[object, int])
    symbols: dict[Symbol, None] = field(default_factory=dict[Symbol, None])
    rows: list[MapRow] = field(default_factory=list[MapRow])

    def add(self, content: bytes, symbols: Sequence[Symbol], rows: Sequence[MapRow] = ()) -> Ranges:
        """Where the pieces of a device's text or region lie."""
        mine = sorted((s for s in symbols if s.section == self.name), key=lambda s: (s.value, s.name))
        found: list[tuple[int, int]] = []
        for start, stop in itertools.pairwise(_cuts(len(content), mine, rows)):
            piece = content[start:stop]
            inside = tuple(replace(s, value=s.value - start) for s in mine if start <= s.value < stop)
            lines = tuple(
                replace(r, first=r.first - start // WORD_BYTES)
                for r in _between(rows, start // WORD_BYTES, stop // WORD_BYTES)
            )
            key = piece, inside, lines
            if key not in self.offsets:
                self._append(key, piece, inside, lines)
            offset = self.offsets[key]
            if found and sum(found[-1]) == offset:
                found[-1] = found[-1][0], found[-1][1] + len(piece)
            else:
                found.append((offset, len(piece)))
        return tuple(found)

    def _append(self, key: object, piece: bytes, symbols: Iterable[Symbol], rows: Iterable[MapRow]) -> None:
        at = self.offsets[key] = len(self.content)
        self.content += piece
        self.symbols |= dict.fromkeys(replace(s, value=s.value + at) for s in symbols)
        self.rows += [replace(r, first=r.first + at // WORD_BYTES) for r in rows]


def pooled(programs: Sequence[Program], texts: Sequence[bytes]) -> Pools:
    """The pools of all programs of a binary, whose texts are given as words."""
    data = {region: _Pool(region.section) for region in DATA_REGIONS}
    pools = {p.stream: _Pool(text_section(p.stream)) for p in programs}
    rows: list[DeviceRow] = []
    for device in range(programs[0].devices):
        mine = [(p, t) for p, t in zip(programs, texts, strict=True) if p.device == device]
        shared = mine[0][0]
        contents, sizes = shared.region_contents(), shared.region_sizes()
        held = {r: data[r].add(contents[r], shared.symbols) for r in DATA_REGIONS}
        streams = tuple(
            StreamRow(p.stream, pools[p.stream].add(text, p.symbols, p.debug.rows)) for p, text in mine
        )
        needed = (sizes.get(region, 0) for region in SIZED_REGIONS)
        rows.append(
            DeviceRow(streams, held[Region.WEIGHTS], held[Region.PARAMS], held[Region.STATE], *needed)
        )
    streams = {
        name: StreamContent(
            bytes(pool.content),
            _joined([p for p in programs if p.stream == name]),
            DebugMap(tuple(pool.rows)),
        )
        for name, pool in pools.items()
    }
    sizes = {r: len(data[r].content) for r in DATA_REGIONS}
    sizes |= {r: max(p.region_sizes().get(r, 0) for p in programs) for r in SIZED_REGIONS}
    symbols = itertools.chain.from_iterable(pool.symbols for pool in (*data.values(), *pools.values()))
    return Pools(
        DeviceTable(tuple(rows)),
        streams,
        {region: bytes(pool.content) for region, pool in data.items()},
        {region: size for region, size in sizes.items() if size},
        tuple(symbols),
    )


def separated(
    shared: Program, pools: Pools, instructions: Mapping[str, Sequence[object]]
) -> list[tuple[Program, Ranges]]:
    """The programs of all devices, in the order of the streams, and where the text of each lies.

    `instructions` are those of every pool.

    Raises:
        RecordError: a row names bytes that its section does not have.
    """
    made: list[tuple[Program, Ranges]] = []
    rows = pools.table.devices
    symbols: dict[str, list[Symbol]] = {}
    for symbol in sorted(pools.symbols, key=_value):
        symbols.setdefault(symbol.section, []).append(symbol)
    regions = [_regions(pools, row, device) for device, row in enumerate(rows)]
    for stream, content in pools.streams.items():
        section = text_section(stream)
        for device, row in enumerate(rows):
            ranges = next((s.text for s in row.streams if s.stream == stream), None)
            if ranges is None:
                raise RecordError(f"device {device} has no stream {stream}")
            _require_inside(ranges, len(content.text), section)
            program = replace(
                shared,
                **regions[device],
                instructions=tuple(_words(instructions[stream], ranges)),
                abi=_of_device(content.abi, device),
                debug=DebugMap(tuple(_moved_rows(content.debug.rows, ranges))),
                symbols=tuple(_moved_symbols(symbols, row, section, ranges)),
                stream=stream,
                device=device,
                devices=len(rows),
            )
            made.append((program, ranges))
    return made


def required_bytes(table: DeviceTable) -> list[int]:
    """Bytes of all regions of every device; more than any machine has where a row holds negative numbers."""
    return [
        sum(_size(n) for n in (*(size for ranges in _data(row).values() for _, size in ranges),
                               row.arena, row.input, row.output))
        for row in table.devices
    ]  # fmt: skip


def joined_bytes(content: bytes, ranges: Ranges) -> bytes:
    """The pieces of a section, one after another."""
    return b"".join(content[offset : offset + size] for offset, size in ranges)


def _size(number: int) -> int:
    return number if number >= 0 else MOST_BYTES


def _data(row: DeviceRow) -> dict[Region, Ranges]:
    return {Region.WEIGHTS: row.weights, Region.PARAMS: row.params, Region.STATE: row.state}


def _regions(pools: Pools, row: DeviceRow, device: int) -> dict[str, object]:
    """The regions of a device, as fields of its program."""
    found: dict[str, object] = {}
    for region, ranges in _data(row).items():
        content = pools.regions.get(region, b"")
        _require_inside(ranges, len(content), region.section)
        found[region.name.lower()] = joined_bytes(content, ranges)
    for region, size in zip(SIZED_REGIONS, (row.arena, row.input, row.output), strict=True):
        if not 0 <= size <= pools.sizes.get(region, 0):
            raise RecordError(f"device {device} needs {size} bytes of {region.section}, which has fewer")
        found[f"{region.name.lower()}_bytes"] = size
    return found


def _require_inside(ranges: Ranges, size: int, section: str) -> None:
    for offset, count in ranges:
        if offset < 0 or count < 1 or offset + count > size:
            raise RecordError(f"a device has bytes {offset}..{offset + count - 1} of {section}: {size}")
        if section.startswith(".text") and (offset % WORD_BYTES or count % WORD_BYTES):
            raise RecordError(f"a device has bytes {offset}..{offset + count - 1} of {section}: no words")


def _words(instructions: Sequence[object], ranges: Ranges) -> Iterator[object]:
    for offset, size in ranges:
        yield from instructions[offset // WORD_BYTES : (offset + size) // WORD_BYTES]


def _moved_rows(rows: Sequence[MapRow], ranges: Ranges) -> Iterator[MapRow]:
    """Rows of the pool that lie in pieces, as rows of the device."""
    at = 0
    for offset, size in ranges:
        first, count = offset // WORD_BYTES, size // WORD_BYTES
        for row in _between(rows, first, first + count):
            yield replace(row, first=row.first - first + at)
        at += count


def _moved_symbols(
    symbols: Mapping[str, Sequence[Symbol]], row: DeviceRow, section: str, text: Ranges
) -> Iterator[Symbol]:
    """Symbols of the pools that lie in the pieces of a device."""
    mine = {region.section: ranges for region, ranges in _data(row).items()} | {section: text}
    for name, ranges in mine.items():
        all_of, at = symbols.get(name, ()), 0
        for offset, size in ranges:
            low, high = (bisect.bisect_left(all_of, n, key=_value) for n in (offset, offset + size))
            for symbol in all_of[low:high]:
                yield replace(symbol, value=symbol.value - offset + at)
            at += size


def _cuts(size: int, symbols: Sequence[Symbol], rows: Sequence[MapRow]) -> list[int]:
    """Where a text or a region is cut: where symbols begin or end, never within a row of the map."""
    places = {0, size} | {n for s in symbols for n in (s.value, s.value + s.size) if 0 < n < size}
    inner = [(r.first * WORD_BYTES, (r.first + r.count) * WORD_BYTES) for r in rows]
    starts = [start for start, _ in inner]
    return sorted(p for p in places if not _within(p, inner, starts))


def _within(place: int, inner: Sequence[tuple[int, int]], starts: Sequence[int]) -> bool:
    before = bisect.bisect_left(starts, place) - 1
    return before >= 0 and place < inner[before][1]


def _between(rows: Sequence[MapRow], first: int, stop: int) -> Sequence[MapRow]:
    """The rows, which are in order, that begin within first..stop."""
    low = bisect.bisect_left(rows, first, key=_first)
    return rows[low : bisect.bisect_left(rows, stop, key=_first)]


def _value(symbol: Symbol) -> int:
    return symbol.value


def _first(row: MapRow) -> int:
    return row.first


def _joined(programs: Sequence[Program]) -> Abi:
    """The interface of all devices: each has its rows."""
    return Abi(
        tuple(replace(t, device=p.device) for p in programs for t in p.abi.inputs),
        tuple(replace(t, device=p.device) for p in programs for t in p.abi.outputs),
        tuple(row for p in programs for row in p.region_rows()),
    )


def _of_device(abi: Abi, device: int) -> Abi:
    return Abi(
        tuple(t for t in abi.inputs if t.device == device),
        tuple(t for t in abi.outputs if t.device == device),
        tuple(r for r in abi.regions if r.device == device),
    )
