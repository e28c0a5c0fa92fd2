"""Profiles for other tools: CSV, and the trace format that Perfetto and chrome://tracing open."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, Final

from isa.assembly.text import format_instruction
from isa.program import Program
from isa.spec import Engine
from isa.support.diagnostics import one_line
from isa.support.records import asdict, names_of
from isa.timing.profile import LayerProfile, Profile

UNIT: Final = "1 us = 1 cycle"
PROCESS: Final = 0
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


def as_trace(program: Program, profile: Profile) -> str:
    """A track per engine, a slice per instruction; a microsecond stands for a cycle."""
    names = {o.id: o.name for o in program.operators.ops}
    events: list[dict[str, Any]] = [_named("process_name", f"X1 {profile.target} ({UNIT})", 0)]
    events += [_named("thread_name", e.name, int(e)) for e in Engine]
    time = profile.timeline
    for pc, (instr, row) in enumerate(zip(program.instructions, program.row_of_each(), strict=True)):
        layer = "" if row is None else names.get(row.op, "")
        events.append(
            {
                "ph": "X",
                "pid": PROCESS,
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
        )
    held = {
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": {"unit": UNIT, "target": profile.target, "cycles": str(profile.cycles)},
    }
    return json.dumps(held, separators=(",", ":")) + "\n"


def _named(kind: str, name: str, track: int) -> dict[str, Any]:
    return {"ph": "M", "pid": PROCESS, "tid": track, "name": kind, "args": {"name": name}}
