"""Profiles for other tools: CSV, and the trace format that Perfetto and chrome://tracing open."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from isa.assembly.text import format_instruction
from isa.program import Program
from isa.spec import Engine
from isa.support.diagnostics import one_line
from isa.support.records import asdict, names_of
from isa.timing.core import Timeline
from isa.timing.profile import LayerProfile, Profile

UNIT: Final = "1 us = 1 cycle"
FORMULA: Final = ("=", "+", "-", "@", "\t")
"""What a formula of a spreadsheet begins with."""


def as_csv(profile: Profile) -> str:
    """One row per layer, named as in JSON."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names_of(LayerProfile))
    for layer in profile.per_layer:
        values = asdict(layer)
        values["op_types"] = " ".join(layer.op_types)
        writer.writerow([cell(v) for v in values.values()])
    return out.getvalue()


def cell(value: object) -> object:
    """A value as a cell: of a name no control character, and none that a spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    return f"'{one_line(value)}" if value.startswith(FORMULA) else one_line(value)


def as_trace(programs: Sequence[Program], profile: Profile) -> str:
    """A process per device, a track per engine, a slice per instruction, an arrow per transfer.

    A microsecond stands for a cycle.
    """
    events: list[dict[str, Any]] = []
    for program, time in zip(programs, profile.timelines, strict=True):
        device = "" if len(programs) == 1 else f" device {program.device}"
        events.append(_named("process_name", f"X1 {profile.target}{device} ({UNIT})", program.device, 0))
        events += [_named("thread_name", e.name, program.device, int(e)) for e in Engine]
        events += _slices(program, time)
    events += _arrows(programs, profile.timelines)
    held = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"unit": UNIT, "target": profile.target, "cycles": str(profile.cycles)},
    }
    return json.dumps(held, separators=(",", ":")) + "\n"


def _slices(program: Program, time: Timeline) -> Iterator[dict[str, Any]]:
    names = {o.id: o.name for o in program.operators.ops}
    for pc, (instr, row) in enumerate(zip(program.instructions, program.row_of_each(), strict=True)):
        layer = "" if row is None else names.get(row.op, "")
        yield {
            "ph": "X",
            "pid": program.device,
            "tid": int(instr.engine),
            "ts": time.start[pc],
            "dur": time.end[pc] - time.start[pc],
            "name": layer or instr.mnemonic,
            "cat": instr.mnemonic,
            "args": {
                "layer": layer,
                "tile": [] if row is None else list(row.tile),
                "phase": "" if row is None else row.phase,
                "pc": pc,
                "instruction": format_instruction(instr),
                "lost_to_banks": time.waited[pc],
            },
        }


def _arrows(programs: Sequence[Program], times: Sequence[Timeline]) -> Iterator[dict[str, Any]]:
    """From every send to its receive: the k-th of two devices on a channel."""
    counts: dict[tuple[int, int, int, bool], int] = {}
    for program, time in zip(programs, times, strict=True):
        for pc, transfer in enumerate(time.costs.transfer):
            if transfer is None:
                continue
            other = transfer.other(program.device, len(programs))
            ends = (program.device, other) if transfer.sends else (other, program.device)
            key = (*ends, transfer.channel, transfer.sends)
            number = counts[key] = counts.get(key, 0) + 1
            yield {
                "ph": "s" if transfer.sends else "f",
                **({} if transfer.sends else {"bp": "e"}),
                "id": f"{ends[0]}-{ends[1]}-{transfer.channel}-{number}",
                "pid": program.device,
                "tid": int(program.instructions[pc].engine),
                "ts": time.start[pc],
                "name": "transfer",
                "cat": "transfer",
            }


def _named(kind: str, name: str, device: int, track: int) -> dict[str, Any]:
    return {"ph": "M", "pid": device, "tid": track, "name": kind, "args": {"name": name}}
