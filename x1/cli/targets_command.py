"""`x1 targets`."""

from __future__ import annotations

import json
from typing import Final

import click

from isa.target import load_target, shipped_targets
from x1.cli.result import Result, json_option, reported

EPILOG: Final = """\b
Examples:
  x1 targets
  x1 targets --json
"""
COLUMNS: Final = (
    ("array", ("mx.rows", "mx.cols")),
    ("lanes", ("vx.lanes",)),
    ("spm", ("spm.bytes",)),
    ("acc rows", ("acc.rows",)),
    ("prm", ("prm.bytes",)),
    ("DRAM B/cycle", ("dram.bytes_per_cycle",)),
)


@click.command(epilog=EPILOG)
@json_option
@reported("targets")
def command(as_json: bool) -> Result:
    """List the machines that ship with x1; `--target F.toml` takes one of your own."""
    del as_json
    machines = [load_target(name) for name in shipped_targets()]
    rows = [["target", *(title for title, _ in COLUMNS)]]
    rows += [[m.name, *("x".join(str(m.flat()[k]) for k in keys) for _, keys in COLUMNS)] for m in machines]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return Result({"targets": [json.loads(m.canonical) for m in machines]}, text="\n".join(lines))
