"""A schedule as text: layers, tiles, buffers with their addresses, in order of issue."""

from __future__ import annotations

from compiler import driver
from compiler.passes.base import PassLog
from compiler.schedule.options import Techniques
from compiler.schedule.tile_graph import TileOp
from compiler.search import choose
from isa.assembly.text import format_instruction
from isa.program import Note
from isa.target import Target
from x1.api import Model


def schedule_text(
    network: Model,
    target: Target,
    allowed: Techniques,
    search: int | None = None,
    log: PassLog | None = None,
) -> str:
    """The plan of a quantized network on a target, addresses included, tokens not."""
    graph = network.integers()
    device = driver.lower(graph, log) if graph.stage == "q" else graph
    scheduled = choose(device, target, allowed, Note(), search).schedule
    names = {layer.id: layer.name for layer in scheduled.plan.tiles.layers}
    lines = [f"// schedule of {network.name} on {target.name}"]
    current = -1
    for op in scheduled.order:
        if op.layer != current:
            current = op.layer
            lines.append(f'layer {current} "{names[current]}"')
        lines.append(f"  {op.phase:8}{list(op.tile)!s:18}{format_instruction(op.resolved())}")
        lines += [f"{'':28}; {_bindings(op)}"]
    used = ", ".join(f"{memory.value} {size}" for memory, size in scheduled.allocation.used.items())
    return "\n".join([*lines, f"// used: {used}"]) + "\n"


def _bindings(op: TileOp) -> str:
    return ", ".join(f"{operand} -> {ref.buffer.name}+{ref.offset}" for operand, ref in op.bind.items())
