"""Compiled programs as the API hands them around: the program, its file, and how it came to be."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from isa.container import load, load_executable
from isa.executable import Executable
from isa.program import MAIN_STREAM, Program
from isa.spec import WORD_BYTES
from isa.support.diagnostics import Diagnostic
from isa.support.paths import read_file
from isa.support.records import Frozen, field
from isa.support.tables import html_table
from x1.files import write_atomic


class Binary(Frozen, dict=True):
    """A compiled program and its file."""

    program: Program
    data: bytes
    opt_level: int = 3
    stage_seconds: Mapping[str, float] = field(default_factory=dict[str, float])
    spm_peak_bytes: int = 0
    tried: int = 1
    """Schedules that the cycle model compared."""
    remarks: tuple[Diagnostic, ...] = ()
    """What was left out of the network, as warnings."""

    @staticmethod
    def load(path: str | Path) -> Binary:
        """The binary of a file.

        Raises:
            UsageError: no such file.
            BinaryError: the file is no sound X1 binary.
        """
        content = read_file(path)
        return Binary(load(content, str(path)), content)

    def __repr__(self) -> str:
        count, size = self.executable.instruction_count, len(self.data)
        devices = self.program.devices
        several = f" on {devices} devices" if devices > 1 else ""
        return f"<Binary for {self.program.target.name}{several}: {count} instructions, {size:,} bytes>"

    def _repr_html_(self) -> str:
        """The summary as a table, for notebooks."""
        rows = [(k, v) for k, v in self.summary().items() if not isinstance(v, dict)]
        return html_table(repr(self).strip("<>"), ("", ""), rows)

    @cached_property
    def executable(self) -> Executable:
        """All streams of the file."""
        alone = self.program.stream == MAIN_STREAM and self.program.devices == 1
        return Executable((self.program,)) if alone else load_executable(self.data)

    def stream(self, name: str | None) -> Program:
        """The program of a stream; that which a run executes where none is named.

        Raises:
            UsageError: the file has no such stream.
        """
        return self.program if name is None else self.executable.stream(name)

    @cached_property
    def sha256(self) -> str:
        """The digest of the file."""
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulate operations of one run."""
        programs = self.executable.devices(self.program.stream)
        return sum(i.macs() for p in programs for i in p.instructions)

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        write_atomic(path, self.data)

    def summary(self) -> dict[str, object]:
        """The figures that `x1 compile --json` gives."""
        programs = self.executable.devices(self.program.stream)
        count = sum(len(p.instructions) for p in programs)
        return {
            "sha256": self.sha256,
            "target": self.program.target.name,
            "devices": self.program.devices,
            "opt_level": self.opt_level,
            "instructions": count,
            "macs": self.macs,
            "text_bytes": WORD_BYTES * count,
            "weight_bytes": sum(len(p.weights) + len(p.params) for p in programs),
            "arena_bytes": sum(p.arena_bytes for p in programs),
            "spm_peak_bytes": self.spm_peak_bytes,
            "stage_seconds": {k: round(v, 6) for k, v in self.stage_seconds.items()},
        }


def as_binary(binary: str | Path | bytes | Binary) -> Binary:
    """The binary itself, or that of a file or its bytes.

    Raises:
        BinaryError: the file is no sound X1 binary.
        TypeError: what is given is no binary.
    """
    return binary if isinstance(binary, Binary) else _loaded(binary)


def _loaded(given: object) -> Binary:
    if isinstance(given, bytes):
        return Binary(load(given), given)
    if isinstance(given, (str, Path)):
        return Binary.load(given)
    raise TypeError(f"a binary is a path, its bytes or an x1.Binary, not {type(given).__name__}")
