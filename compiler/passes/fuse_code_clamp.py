"""Fuse a clamp of codes into the operation that feeds it.

%1 = q.conv2d %x, %w, %b {bounds=[-128,127]}        %1 = q.conv2d %x, %w, %b {bounds=[-12,127]}
%2 = clamp_codes %1 {bounds=[-12,127]}           ->
"""

from __future__ import annotations

from typing import Any, ClassVar

from compiler.ir.graph import Graph
from compiler.ops.activation import ClampCodes
from compiler.passes.base import Pass, fuse_two
from isa.support.records import replace


class FuseCodeClamp(Pass):
    """Where the clamp is the only user of an operation that clamps its result anyway."""

    name: ClassVar[str] = "fuse-code-clamp"

    def run(self, graph: Graph) -> Graph:
        for clamp, narrow in graph.of(ClampCodes):
            (producer,) = clamp.inputs
            operation: Any = producer.op
            if not hasattr(operation, "bounds") or graph.sole_user(producer) is not clamp:
                continue
            low, high = operation.bounds
            both = tuple(min(max(bound, narrow.bounds[0]), narrow.bounds[1]) for bound in (low, high))
            fuse_two(graph, producer, clamp, replace(operation, bounds=both), producer.inputs)
        graph.erase_dead()
        return graph
