"""What a pass is, and how a list of them is run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import ClassVar

from compiler.ir.graph import Graph, Node
from compiler.ir.op import Op
from compiler.ir.verify import verify
from isa.support.locations import fuse
from isa.support.records import Frozen, Struct, field


class Pass(Frozen):
    """A change of a graph; its fields are its options.

    A pass keeps what the graph computes, except where `changes_values` says otherwise.
    """

    name: ClassVar[str]
    changes_values: ClassVar[bool] = False

    def run(self, graph: Graph) -> Graph:
        """The changed graph: the same object, or a new one."""
        raise NotImplementedError


def fuse_two(graph: Graph, first: Node, second: Node, operation: Op, operands: Sequence[Node]) -> None:
    """Put one operation in place of the second of two, which it computes from what the first takes."""
    made = graph.add(
        operation,
        operands,
        name=second.name,
        loc=fuse(first.loc, second.loc),
        quant=second.type.quant,
        views=second.views,
    )
    graph.replace(second, made)


Observer = Callable[[str, Graph], None]


class StopHere(Exception):
    """Raised after the pass at which the user wants to stop; carries the graph."""

    def __init__(self, graph: Graph) -> None:
        super().__init__("stopped after a pass")
        self.graph = graph


class PassLog(Struct):
    """What happened, and what to do after each pass."""

    after: Observer | None = None
    stop_after: str | None = None
    seconds: dict[str, float] = field(default_factory=dict[str, float])


def run_passes(graph: Graph, passes: Sequence[Pass], log: PassLog | None = None) -> Graph:
    """Run passes in order, the graph verified before the first, after each that changes it, and at the end.

    Raises:
        StopHere: the log asks to stop after a pass.
    """
    log = log or PassLog()
    verify(graph)
    for each in passes:
        start = time.perf_counter()
        before = (graph, graph.stage, graph.revision)
        graph = each.run(graph)
        if each is passes[-1] or before[0] is not graph or before[1:] != (graph.stage, graph.revision):
            verify(graph)
        log.seconds[each.name] = time.perf_counter() - start
        if log.after is not None:
            log.after(each.name, graph)
        if log.stop_after == each.name:
            raise StopHere(graph)
    return graph
