"""`x1 profile`."""

from __future__ import annotations

import math
from typing import Final

import click

from isa.support.diagnostics import one_line
from isa.support.records import asdict
from isa.timing.profile import LayerProfile, Profile
from runtime.trace import as_csv, as_trace
from x1 import api
from x1.cli.result import Result, json_option, reported, say
from x1.files import require_another, write_atomic

SHORT: Final = (
    "cycles",
    "mac_utilization",
    "dram_read_bytes",
    "dram_write_bytes",
    "bound_cycles",
    "bound_by",
    "bound_ratio",
)
BAR: Final = 20
EPILOG: Final = """\b
Examples:
  x1 profile net.x1
  x1 profile net.x1 --json
  x1 profile net.x1 --csv layers.csv --trace trace.json
Open a trace at https://ui.perfetto.dev: a track per engine, one microsecond for a cycle.
"""


@click.command(epilog=EPILOG)
@click.argument("binary")
@click.option("--csv", "csv_file", metavar="F.csv", help="Write the table of layers.")
@click.option("--trace", metavar="F.json", help="Write a trace for Perfetto: when each instruction executes.")
@json_option
@reported("profile")
def command(binary: str, csv_file: str | None, trace: str | None, as_json: bool) -> Result:
    """Count the cycles of BINARY: where they go, and the least that any schedule needs."""
    require_another(csv_file, binary)
    require_another(trace, binary, csv_file)
    loaded = api.Binary.load(binary)
    found = api.profile(loaded)
    if csv_file is not None:
        write_atomic(csv_file, as_csv(found))
    if trace is not None:
        write_atomic(trace, as_trace(loaded.program, found))
    if as_json:
        return Result(as_body(found))
    for path in (csv_file, trace):
        if path is not None:
            say(f"wrote {path}")
    return Result(text=f"{table(found)}\n{summary(found)}")


def as_body(found: Profile) -> dict[str, object]:
    """The profile as JSON."""
    body = {k: v for k, v in asdict(found).items() if k not in ("timeline", "per_layer")}
    return {**body, "per_layer": [asdict(layer) for layer in found.per_layer]}


def short(found: Profile) -> dict[str, object]:
    """The figures that `x1 compile` ends with."""
    return {key: getattr(found, key) for key in SHORT}


def summary(found: Profile) -> str:
    """What a person wants to know first."""
    engines = ", ".join(
        f"{name} {percent(busy, found.cycles)}"
        for name, busy in (
            ("MX", found.mx_busy_cycles),
            ("VX", found.vx_busy_cycles),
            ("DRAM", found.dram_busy_cycles),
        )
    )
    busy = percent(found.mac_utilization, 1)
    lines = [
        f"{found.cycles:,} cycles on {found.target}; {found.macs:,} MACs keep the array {busy} busy",
        f"busy: {engines}; DRAM read {found.dram_read_bytes:,} bytes, written {found.dram_write_bytes:,}",
    ]
    if found.bound_cycles:
        lines.append(
            f"no schedule needs fewer than {found.bound_cycles:,} cycles ({found.bound_by}): this one takes "
            f"{found.bound_ratio:.2f} times that; layer by layer {found.layer_bound_cycles:,}"
        )
    waits = [
        f"{engine} {percent(cycles, found.cycles)} for {cause}"
        for engine, causes in found.stall_cycles.items()
        for cause, cycles in sorted(causes.items(), key=lambda c: (-c[1], c[0]))
        if engine in ("MX", "VX", "LD") and cycles * 50 > found.cycles
    ]
    if waits:
        lines.append(f"waits: {', '.join(waits)}")
    return "\n".join(lines)


def table(found: Profile) -> str:
    """One line per layer."""
    width = min(max([len(layer.name) for layer in found.per_layer], default=5), 40)
    head = (
        f"{'layer':{width}} {'cycles':>11} {'bound':>11} {'by':>4} {'MX':>11} {'VX':>11} {'DRAM':>11} "
        f"{'read':>11} {'written':>11} {'MACs':>7}"
    )
    most = max([layer.cycles for layer in found.per_layer], default=0)
    return "\n".join([head, *(_row(layer, width, most) for layer in found.per_layer)])


def _row(layer: LayerProfile, width: int, most: int) -> str:
    name = one_line(layer.name)
    name = name if len(name) <= width else name[: width - 1] + "…"
    bar = "█" * round(BAR * layer.cycles / most) if most else ""
    figures = (layer.mx_busy_cycles, layer.vx_busy_cycles, layer.dram_busy_cycles)
    moved = f"{layer.dram_read_bytes:11,} {layer.dram_write_bytes:11,}"
    busy = " ".join(f"{n:11,}" for n in figures)
    return (
        f"{name:{width}} {layer.cycles:11,} {layer.bound_cycles:11,} {layer.bound_by:>4} {busy} {moved} "
        f"{percent(layer.mac_utilization, 1):>7} {bar}"
    ).rstrip()


def percent(part: float, whole: float) -> str:
    """A share, for people."""
    return f"{math.floor(1000 * part / whole + 0.5) / 10:.1f} %" if whole else "-"
