"""The binary format: inverse reading and writing, outside readers, and files that are not sound."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from isa.assembly.assembler import assemble
from isa.assembly.disassembler import binary_of, disassemble
from isa.checker import check
from isa.container import assemble_sections, executable_sections, load, save
from isa.program import OpRow
from isa.support.diagnostics import BinaryError
from isa.support.record_json import RecordError, from_json, parse_json, to_json
from isa.support.records import asdict, replace
from tests.networks import compiled_and_verified, random_graph


@cache
def binary(seed: int = 3) -> bytes:
    return compiled_and_verified(random_graph(seed), "tiny8", samples=1)[0].data


@pytest.mark.parametrize("seed", range(5))
def test_writing_undoes_reading(seed: int) -> None:
    assert save(load(binary(seed))) == binary(seed)


@pytest.mark.parametrize("seed", range(5))
def test_assembling_the_disassembly_gives_the_file_back(seed: int, tmp_path: Path) -> None:
    parts = disassemble(load(binary(seed)), with_sections=True)
    for name, content in parts.files.items():
        (tmp_path / name).write_bytes(content)
    assert binary_of(assemble(parts.text, "program.x1s", tmp_path)) == binary(seed)


def test_pyelftools_reads_sections_notes_and_symbols() -> None:
    from elftools.elf.elffile import ELFFile  # pyright: ignore[reportMissingTypeStubs]

    program = load(binary())
    elf: Any = ELFFile(io.BytesIO(binary()))
    assert (elf["e_type"], elf["e_machine"], elf["e_flags"]) == ("ET_EXEC", 0xE71D, 2)
    assert elf.get_section_by_name(".weights").data() == program.weights
    assert elf.get_section_by_name(".text.core0")["sh_addr"] == 16 << 40
    assert elf.get_section_by_name(".output")["sh_type"] == "SHT_NOBITS"
    (note,) = elf.get_section_by_name(".note.x1").iter_notes()
    assert note["n_name"] == "X1"
    record = json.loads(note["n_descdata"])
    assert record["isa"] == "0.2"
    names = {s.name for s in elf.get_section_by_name(".symtab").iter_symbols()}
    assert {t.name for t in program.symbols} <= names


@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_readelf_finds_nothing_to_complain_about(tmp_path: Path) -> None:
    path = tmp_path / "a.x1"
    path.write_bytes(binary())
    done = subprocess.run(["readelf", "-hSs", str(path)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert ".note.x1" in done.stdout


def test_truncations_are_refused() -> None:
    data = binary()
    for size in np.linspace(0, len(data) - 1, 60).astype(int).tolist():
        with pytest.raises(BinaryError):
            load(data[:size])


def test_single_bit_flips_are_refused() -> None:
    data = binary()
    generator = np.random.default_rng(1)
    for place in generator.integers(0, 8 * len(data), 400).tolist():
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        with pytest.raises(BinaryError):
            load(bytes(flipped))


HOSTILE = ["not an ELF file", "another machine", "another major version", "a tail", "a changed weight",
           "a changed instruction"]  # fmt: skip


def spoilt(data: bytes, how: str) -> bytes:
    """The file with one thing wrong."""
    match how:
        case "not an ELF file":
            return b"X1" * 100
        case "another machine":
            return data[:18] + b"\x3e\x00" + data[20:]
        case "another major version":
            return data[:48] + (7 << 8).to_bytes(4, "little") + data[52:]
        case "a tail":
            return data + bytes(64)
        case "a changed weight":
            return _changed(data, ".weights")
        case _:
            return _changed(data, ".text.core0")


def _changed(data: bytes, section: str) -> bytes:
    from isa.elf import read_elf

    found = read_elf(data).find(section)
    assert found is not None
    place = data.index(found.data) + len(found.data) // 2
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_are_not_sound_are_refused_with_a_reason(
    name: str, golden: Callable[[str, str], None]
) -> None:
    with pytest.raises(BinaryError) as refused:
        load(spoilt(binary(), name), "bad.x1")
    golden(f"errors/binary/{name.replace(' ', '_')}.txt", str(refused.value) + "\n")


@pytest.mark.parametrize("text", ["{", '{"a":1,"a":2}', "NaN", "[" * 100_000, "\xff", '{"a":Infinity}'])
def test_json_that_is_not_plain_is_refused(text: str) -> None:
    with pytest.raises(RecordError, match=r"^it is"):
        parse_json(text.encode("latin-1"), "it")


ODD_VALUES: Sequence[object] = (
    None,
    True,
    -1,
    0,
    1 << 70,
    "",
    "int7",
    "\N{PILE OF POO}",
    [],
    [[0]],
    {},
    "x" * 300,
)


def places_of(tree: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of the values in a tree of JSON; of long lists the first two elements."""
    yield path
    if isinstance(tree, dict):
        for key, child in cast("dict[str, object]", tree).items():
            yield from places_of(child, (*path, key))
    elif isinstance(tree, list):
        for index, child in enumerate(cast("list[object]", tree)[:2]):
            yield from places_of(child, (*path, index))


def with_value(tree: Any, path: tuple[str | int, ...], value: object) -> object:
    """A copy with another value at a place."""
    if not path:
        return value
    copy = tree.copy()
    copy[path[0]] = with_value(tree[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.nightly)])
def test_no_value_in_a_table_makes_the_loader_fail(every: int) -> None:
    """Every field of every table replaced by odd values, one of so many, the checksums made right."""
    program = load(binary())
    sections = executable_sections(program)
    tables = [s for s in sections if s.data.startswith(b"{")]
    assert {s.name for s in tables} == {".x1.target", ".x1.abi", ".x1.map", ".x1.ops"}
    tried = refused = number = 0
    for table in tables:
        tree = json.loads(table.data)
        for path in places_of(tree):
            for value in ODD_VALUES:
                number += 1
                if number % every:
                    continue
                text = json.dumps(with_value(tree, path, value), separators=(",", ":"), ensure_ascii=False)
                changed = [replace(s, data=text.encode()) if s is table else s for s in sections]
                tried += 1
                try:
                    check(load(assemble_sections(changed, program.note)))
                except BinaryError:
                    refused += 1
    assert tried > 1500 // every
    assert refused > 0.9 * tried


@given(st.text(), st.lists(st.text(max_size=5)), st.integers(-(1 << 62), 1 << 62))
@example('"\\/\0\x1f\x7f\x80\u2028\ufeff\U0001f600', [], 0)
def test_json_is_that_of_the_standard_library_in_ascii(name: str, nodes: list[str], number: int) -> None:
    row = OpRow(number, name, tuple(nodes), (), (), ())
    text = json.dumps(asdict(row), sort_keys=True, separators=(",", ":"))
    assert to_json(row) == text.encode()
    assert from_json(OpRow, to_json(row), "it") == row
