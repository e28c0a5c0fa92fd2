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
from x1.cli.options import stream_option
from x1.cli.result import Result, json_option, reported, say
from x1.files import require_another, require_apart, write_atomic

INFERENCES: Final = "inferences"
RUNS: Final = {"train": "steps", "tail": "steps", "stats": "batches"}
"""What executions of a stream are called, where they are no inferences."""
SHORT: Final = (
    "cycles",
    "mac_utilization",
    "dram_read_bytes",
    "dram_write_bytes",
    "bound_cycles",
    "bound_by",
    "bound_ratio",
)
BAR: Final = 10
NAME: Final = 32
TYPE: Final = 14
HEAD: Final = (
    *("layer", "type", "cycles", "begin", "end", "bound", "by"),
    *("MX", "VX", "DRAM", "array", "lanes", "share", "why below the bound"),
)
TO_THE_LEFT: Final = ("layer", "type", "share", "mode", "why below the bound")
EPILOG: Final = """\b
Examples:
  x1 profile net.x1
  x1 profile net.x1 --json
  x1 profile net.x1 --csv layers.csv --trace trace.json
  x1 profile trained.x1 --stream train
Open a trace at https://ui.perfetto.dev: a track per engine, one microsecond for a cycle.
"""


@click.command(epilog=EPILOG)
@click.argument("binary")
@click.option("--csv", "csv_file", metavar="F.csv", help="Write the table of layers.")
@click.option("--trace", metavar="F.json", help="Write a trace for Perfetto: when each instruction executes.")
@stream_option
@json_option
@reported("profile")
def command(
    binary: str, csv_file: str | None, trace: str | None, stream: str | None, as_json: bool
) -> Result:
    """Count the cycles of BINARY: where they go, and the least that any schedule needs."""
    require_another(csv_file, binary)
    require_another(trace, binary, csv_file)
    require_apart(trace, csv_file, "the table and the trace")
    loaded = api.Binary.load(binary)
    found = api.profile(loaded, stream=stream)
    if csv_file is not None:
        write_atomic(csv_file, as_csv(found))
    if trace is not None:
        write_atomic(trace, as_trace(loaded.executable.devices(stream), found))
    if as_json:
        return Result(as_body(found))
    for path in (csv_file, trace):
        if path is not None:
            say(f"wrote {path}")
    return Result(text=f"{table(found)}\n{summary(found, RUNS.get(stream or '', INFERENCES))}")


def as_body(found: Profile) -> dict[str, object]:
    """The profile as JSON."""
    body = {k: v for k, v in asdict(found).items() if k not in ("timelines", "per_layer")}
    return {**body, "per_layer": [asdict(layer) for layer in found.per_layer]}


def short(found: Profile) -> dict[str, object]:
    """The figures that `x1 compile` ends with."""
    return {key: getattr(found, key) for key in SHORT}


def summary(found: Profile, runs: str = INFERENCES) -> str:
    """What a person wants to know first; `runs` is what executions of the stream are called."""
    engines = ", ".join(
        f"{name} {percent(busy, found.cycles * found.devices)}"
        for name, busy in (
            ("MX", found.mx_busy_cycles),
            ("VX", found.vx_busy_cycles),
            ("DRAM", found.dram_busy_cycles),
        )
    )
    busy = percent(found.mac_utilization, 1)
    speed = f"{found.milliseconds:g} ms, {found.inferences_per_second:,.1f} {runs} a second"
    machine = machines(found.target, found.devices)
    if found.devices > 1:
        machine += f", {found.cycles_per_image:,} a run of a stream"
    lines = [
        f"{found.cycles:,} cycles on {machine}, {speed}; {found.macs:,} MACs, the array {busy} busy",
        f"busy: {engines}; DRAM read {found.dram_read_bytes:,} bytes, written {found.dram_write_bytes:,}",
    ]
    if found.bound_cycles:
        lines.append(
            f"no schedule needs fewer than {found.bound_cycles:,} cycles ({found.bound_by}): this one takes "
            f"{found.bound_ratio:.2f} times that; layer by layer {found.layer_bound_cycles:,}"
        )
    whole = found.cycles * found.devices
    waits = [
        f"{engine} {percent(cycles, whole)} for {cause}"
        for engine, causes in found.stall_cycles.items()
        for cause, cycles in sorted(causes.items(), key=lambda c: (-c[1], c[0]))
        if engine in ("MX", "VX", "LD") and cycles * 50 > whole
    ]
    if waits:
        lines.append(f"waits: {', '.join(waits)}")
    return "\n".join(lines)


def machines(target: str, devices: int) -> str:
    """The target, and how many of it."""
    return target if devices == 1 else f"{devices} devices of {target}"


def table(found: Profile) -> str:
    """One line per layer, and one for all of them; of several devices with how each is divided."""
    most = max([layer.cycles for layer in found.per_layer], default=0)
    rows = [HEAD, *(_row(layer, most) for layer in found.per_layer), _total(found)]
    if found.devices > 1:
        modes = ("mode", *(layer.mode for layer in found.per_layer), "")
        rows = [(*row[:2], mode, *row[2:]) for row, mode in zip(rows, modes, strict=True)]
    head = rows[0]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join(
        " ".join(
            f"{text:{width}}" if title in TO_THE_LEFT else f"{text:>{width}}"
            for title, text, width in zip(head, row, widths, strict=False)
        ).rstrip()
        for row in rows
    )


def _row(layer: LayerProfile, most: int) -> tuple[str, ...]:
    """The cells of a layer."""
    numbers = (layer.cycles, layer.begin, layer.end, layer.bound_cycles)
    busy = (layer.mx_busy_cycles, layer.vx_busy_cycles, layer.dram_busy_cycles)
    rates = (layer.mac_utilization, layer.vx_utilization)
    return (
        _fitting(layer.name, NAME),
        _fitting(" ".join(dict.fromkeys(layer.op_types)), TYPE),
        *(f"{n:,}" for n in numbers),
        layer.bound_by,
        *(f"{n:,}" for n in busy),
        *(percent(rate, 1) if rate else "-" for rate in rates),
        "█" * round(BAR * layer.cycles / most) if most else "",
        why_below(layer),
    )


def _total(found: Profile) -> tuple[str, ...]:
    numbers = (found.cycles, 0, found.cycles, found.layer_bound_cycles)
    busy = (found.mx_busy_cycles, found.vx_busy_cycles, found.dram_busy_cycles)
    rates = (percent(found.mac_utilization, 1), "", "", "")
    return ("total", "", *(f"{n:,}" for n in numbers), "", *(f"{n:,}" for n in busy), *rates)


def why_below(layer: LayerProfile) -> str:
    """Why a layer has fewer cycles of its own than it needs; empty where it has not."""
    if layer.cycles >= layer.bound_cycles:
        return ""
    if not layer.instructions:
        return "in place: no instructions"
    if layer.cycles + layer.hidden < layer.bound_cycles:
        return "what it needs is loaded by others"
    return f"{layer.hidden:,} hidden under {_fitting(layer.hidden_under, NAME)}"


def _fitting(name: str, width: int) -> str:
    """A name in so many characters; the tail of a long one tells more."""
    shown = one_line(name)
    return shown if len(shown) <= width else f"…{shown[len(shown) - width + 1 :]}"


def percent(part: float, whole: float) -> str:
    """A share, for people."""
    return f"{math.floor(1000 * part / whole + 0.5) / 10:.1f} %" if whole else "-"
