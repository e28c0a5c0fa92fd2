"""Binaries for several devices that are not sound: refused, whatever their tables say."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from isa.assembly.assembler import assemble
from isa.container import DEVICES, assemble_sections, executable_sections, load_executable
from isa.executable import Executable
from isa.program import Note
from isa.support.diagnostics import BinaryError
from isa.support.records import replace
from tests.runtime.device_texts import all_reduce

EXECUTABLE = assemble(all_reduce(3)).executable


def spoilt(executable: Executable, change: Callable[[Any], object]) -> bytes:
    """The file, its table of devices changed, every checksum right."""
    sections = executable_sections(executable)
    number = next(i for i, s in enumerate(sections) if s.name == DEVICES)
    table = json.loads(sections[number].data)
    change(table)
    sections[number] = replace(sections[number], data=json.dumps(table, separators=(",", ":")).encode())
    return assemble_sections(sections, Note("x1 asm"), executable.extensions)


Change = Callable[[Any], object]
CHANGES: dict[str, Change] = {
    "no devices": lambda t: t["devices"].clear(),
    "one device": lambda t: t["devices"].__delitem__(slice(1, None)),
    "2,000 devices": lambda t: t["devices"].extend([t["devices"][0]] * 2000),
    "another order": lambda t: t["devices"].reverse(),
    "no streams": lambda t: t["devices"][1]["streams"].clear(),
    "another stream": lambda t: t["devices"][1]["streams"][0].update(stream="train"),
    "text before the section": lambda t: t["devices"][0]["streams"][0].update(text=[[-32, 64]]),
    "text behind the section": lambda t: t["devices"][0]["streams"][0].update(text=[[0, 1 << 40]]),
    "half a word": lambda t: t["devices"][0]["streams"][0].update(text=[[16, 32]]),
    "no text": lambda t: t["devices"][0]["streams"][0].update(text=[]),
    "the same text for ever": lambda t: t["devices"][0]["streams"][0].update(text=[[0, 32]] * 100_000),
    "more text than memory": lambda t: t["devices"][0]["streams"][0].update(text=[[0, 320]] * 1_000_000),
    "weights that are not there": lambda t: t["devices"][0].update(weights=[[0, 64]]),
    "weights without end": lambda t: t["devices"][0].update(weights=[[0, 1 << 61]] * 9),
    "an arena without end": lambda t: t["devices"][2].update(arena=1 << 60),
    "a negative arena": lambda t: t["devices"][2].update(arena=-1),
    "a smaller input": lambda t: t["devices"][2].update(input=8),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_table_of_devices_that_cannot_be_is_refused(what: str) -> None:
    load_executable(spoilt(EXECUTABLE, lambda _: None))
    with pytest.raises(BinaryError):
        load_executable(spoilt(EXECUTABLE, CHANGES[what]))


def test_random_changes_of_the_table_are_refused_or_change_nothing() -> None:
    random = np.random.default_rng(0)
    sections = executable_sections(EXECUTABLE)
    number = next(i for i, s in enumerate(sections) if s.name == DEVICES)
    good = sections[number].data
    refused = 0
    for _ in range(300):
        data = bytearray(good)
        for place in random.integers(len(data), size=2):
            data[place] = random.choice(list(b'0123456789,[]{}":-'))
        made = [*sections[:number], replace(sections[number], data=bytes(data)), *sections[number + 1 :]]
        try:
            load_executable(assemble_sections(made, Note("x1 asm"), EXECUTABLE.extensions))
        except BinaryError:
            refused += 1
        else:
            assert bytes(data) == good
    assert refused > 250
