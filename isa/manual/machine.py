"""The chapter on the machine: its text stands in machine.md, its tables come from the declarations."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from typing import Final

import numpy as np

from isa.memory_map import (
    DATA_REGIONS,
    GRANULE_BYTES,
    Q_GRANULES,
    QUANT_RECORD,
    REQUANT_RECORD,
    SIZED_REGIONS,
    SREGS,
    TABLE_BYTES,
    Region,
    Space,
)
from isa.spec import Engine, Trap

ENGINES: Final = {
    Engine.CTL: "control, executed at dispatch: scalar registers, barriers, the end",
    Engine.LD: "copies from DRAM to the chip",
    Engine.ST: "copies from the chip to DRAM",
    Engine.MX: "the array: products into the accumulators, a pass of `mx.rows` x `mx.cols` weights at a time",
    Engine.VX: "the vector engine: requantization and everything element by element, `vx.lanes` at a time",
    Engine.TX: "sends to other devices",
    Engine.RX: "receives from other devices",
}
MEMORIES: Final = {
    Space.SPM: ("scratchpad: activations and weights", "byte", "`spm.bytes`"),
    Space.ACC: ("accumulators: int32 sums of the array", "row of `mx.cols` int32", "`acc.rows` rows"),
    Space.PRM: ("parameter memory: records and tables", f"granule of {GRANULE_BYTES} bytes", "`prm.bytes`"),
    Space.DRAM: ("regions of a program", "byte of a region", "`dram.size` in all"),
    Space.SREG: ("scalar registers; s0 reads 0", "int32", f"{SREGS} registers"),
}
REGIONS: Final = {
    Region.WEIGHTS: "weights, as the binary holds them",
    Region.ARENA: "tensors that do not fit on the chip",
    Region.INPUT: "graph inputs, written by the host",
    Region.OUTPUT: "graph outputs, read by the host",
    Region.STATE: "kept for what stays from run to run",
    Region.PARAMS: "records and tables, as the binary holds them",
    Region.TRACE: "kept for traces",
    Region.PEER: "kept for the memory of other devices",
}


def chapter() -> str:
    """The page in Markdown."""
    text = (resources.files("isa.manual") / "machine.md").read_text(encoding="utf-8")
    return text.format(
        engines=_table(("engine", "number", "what it does"), ((e.name, e, d) for e, d in ENGINES.items())),
        memories=_table(
            ("memory", "holds", "an address counts", "size"), ((s.name, *row) for s, row in MEMORIES.items())
        ),
        regions=_table(
            ("region", "name", "holds", "writable", "in a binary"),
            ((f"R{r.value}", r.name.lower(), d, _yes(r.writable), _kept(r)) for r, d in REGIONS.items()),
        ),
        granule=GRANULE_BYTES,
        requant=_record(REQUANT_RECORD),
        q_granules=Q_GRANULES,
        quant=_record(QUANT_RECORD),
        table=TABLE_BYTES,
        traps=_table(("trap", "cause"), ((t.name, t.value) for t in Trap)),
    )


def _kept(region: Region) -> str:
    if region in DATA_REGIONS:
        return "its bytes"
    return "its size" if region in SIZED_REGIONS else "no"


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _record(record: np.dtype[np.void]) -> str:
    assert record.fields is not None
    rows = ((offset, f"`{name}`", _type(kind)) for name, (kind, offset, *_) in record.fields.items())
    return _table(("byte", "field", "type"), rows)


def _type(kind: np.dtype[np.generic]) -> str:
    return f"{kind.base.name}" + "".join(f"[{n}]" for n in kind.shape)


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [" | ".join(map(str, row)) for row in (head, *rows)]
    count = lines[0].count(" | ") + 1
    return "\n".join(f"| {line} |" for line in lines).replace("|\n", f"|\n|{'---|' * count}\n", 1)
