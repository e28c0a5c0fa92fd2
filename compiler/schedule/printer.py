"""A schedule as text: layers, tiles, buffers with their addresses, in order of issue."""

from __future__ import annotations

from compiler.schedule.scheduler import Schedule
from compiler.schedule.tile_graph import TileOp
from isa.assembly.text import format_instruction


def print_schedule(schedule: Schedule, network: str, target: str) -> str:
    """The plan of a network on a target, both by name: addresses included, tokens not."""
    names = {layer.id: layer.name for layer in schedule.plan.tiles.layers}
    lines = [f"// schedule of {network} on {target}"]
    current = -1
    for op in schedule.order:
        if op.layer != current:
            current = op.layer
            lines.append(f'layer {current} "{names[current]}"')
        lines.append(f"  {op.phase:8}{list(op.tile)!s:18}{format_instruction(op.resolved())}")
        lines += [f"{'':28}; {_bindings(op)}"]
    used = ", ".join(f"{memory.value} {size}" for memory, size in schedule.used.items() if size)
    return "\n".join([*lines, f"// used: {used}"]) + "\n"


def _bindings(op: TileOp) -> str:
    return ", ".join(f"{operand} -> {ref.buffer.name}+{ref.offset}" for operand, ref in op.bind.items())
