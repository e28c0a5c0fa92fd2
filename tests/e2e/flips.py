"""Runs a binary with one bit flipped, or cut short, again and again in one process; prints what happened.

    python tests/e2e/flips.py BINARY INPUT FLIPS CUTS

Each run is `x1 run`, its exit code that of the command. Printed as JSON: how often each exit code, which
flips did not end with "refused", the most CPU seconds of one run, and the most memory of them all.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from isa.elf import PROGBITS, read_elf
from x1.cli.main import main
from x1.cli.result import run_command

REFUSED = 5


def _peak() -> float:
    """The most memory that this process has held, in MiB; what its parent held before does not count."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def spoilt(data: bytes, flips: int, cuts: int) -> Iterator[tuple[str, bytes]]:
    """Seeded flips of single bits, then truncations."""
    random = np.random.default_rng(11)
    places: list[int] = random.integers(0, 8 * len(data), flips).tolist()
    for place in places:
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        yield f"bit {place}", bytes(flipped)
    sizes: list[int] = np.linspace(0, len(data) - 1, cuts).astype(int).tolist()
    for size in sizes:
        yield f"cut {size}", data[:size]


def checksummed(data: bytes) -> list[tuple[int, int]]:
    """Where the sections with a checksum lie."""
    sections = [s.data for s in read_elf(data).sections if s.kind == PROGBITS and s.data]
    starts = [data.index(s) for s in sections]
    return [(start, start + len(s)) for start, s in zip(starts, sections, strict=True)]


def run(binary: Path, arguments: list[str]) -> tuple[int, str]:
    """Exit code and messages of one command."""
    messages = io.StringIO()
    with contextlib.redirect_stdout(messages), contextlib.redirect_stderr(messages):
        code = run_command(main, ["run", str(binary), *arguments])
    return int(code), messages.getvalue()


def report(binary: Path, given: str, flips: int, cuts: int) -> dict[str, object]:
    """Run them all."""
    data = binary.read_bytes()
    place = binary.with_name("spoilt.x1")
    arguments = ["--input", given, "-o", str(binary.with_name("spoilt.npz"))]
    codes: Counter[int] = Counter()
    wrong: list[str] = []
    slowest = 0.0
    spans = checksummed(data)
    for name, content in spoilt(data, flips, cuts):
        place.write_bytes(content)
        start = time.process_time()
        code, messages = run(place, arguments)
        slowest = max(slowest, time.process_time() - start)
        codes[code] += 1
        bit = int(name.split()[1]) if name.startswith("bit") else -1
        must_refuse = any(low <= bit // 8 < high for low, high in spans) or name.startswith("cut")
        if "error" not in messages or (must_refuse and code != REFUSED):
            wrong.append(f"{name}: exit {code}: {messages}")
    most = _peak()
    return {"codes": dict(codes), "wrong": wrong, "seconds": slowest, "mebibytes": most}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(report(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))))
