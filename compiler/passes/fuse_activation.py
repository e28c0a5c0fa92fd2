"""Fuse a clamp into the operation that feeds it.

%1 = nn.conv2d %x, %w, %b {clamp=none}        %1 = nn.conv2d %x, %w, %b {clamp=[0.0, inf]}
%2 = nn.clamp %1 {low=0.0, high=inf}       ->
"""

from __future__ import annotations

from typing import ClassVar

from compiler.ir.graph import Graph
from compiler.ops.activation import Clamp
from compiler.ops.add import Add
from compiler.ops.batch_norm import BatchNorm
from compiler.ops.conv2d import Conv2d
from compiler.ops.gemm import Gemm
from compiler.passes.base import Pass, fuse_two
from isa.support.records import replace


class FuseActivation(Pass):
    """Where the clamp is the only user; clamps in a row become one."""

    name: ClassVar[str] = "fuse-activation"

    def run(self, graph: Graph) -> Graph:
        for clamp, bounds in graph.of(Clamp):
            (producer,) = clamp.inputs
            operation = producer.op
            if (
                not isinstance(operation, (Conv2d, Gemm, Add, BatchNorm))
                or graph.sole_user(producer) is not clamp
            ):
                continue
            low, high = operation.clamp or (float("-inf"), float("inf"))
            both = (min(max(low, bounds.low), bounds.high), min(max(high, bounds.low), bounds.high))
            fuse_two(graph, producer, clamp, replace(operation, clamp=both), producer.inputs)
        graph.erase_dead()
        return graph
