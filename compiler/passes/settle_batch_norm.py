"""Make a batch normalization by statistics that are known a product and a sum.

%1 = nn.batch_norm %0, %scale, %offset, %mean, %variance  ->  %1 = nn.affine %0, %gain, %rest
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from compiler.ir.graph import Graph
from compiler.ops.activation import Clamp
from compiler.ops.affine import Affine
from compiler.ops.batch_norm import BatchNorm, gain_and_offset
from compiler.passes.base import Pass


class SettleBatchNorm(Pass):
    """gain = scale / sqrt(variance + epsilon), rest = offset - mean * gain."""

    name: ClassVar[str] = "settle-batch-norm"

    def run(self, graph: Graph) -> Graph:
        for norm, operation in graph.of(BatchNorm):
            x, *rows = norm.inputs
            if operation.groups or not all(r.is_constant for r in rows):
                continue
            made = gain_and_offset([r.constant.astype(np.float32) for r in rows], operation.epsilon)
            names = (f"{norm.name}/gain", f"{norm.name}/offset")
            constants = [graph.const(value, name, norm.loc) for value, name in zip(made, names, strict=True)]
            bare = operation.clamp is None
            name = norm.name if bare else f"{norm.name}/affine"
            affine = graph.add(Affine(operation.axis), (x, *constants), name=name, loc=norm.loc)
            if operation.clamp is not None:
                affine = graph.add(Clamp(*operation.clamp), (affine,), name=norm.name, loc=norm.loc)
            affine.views = norm.views
            graph.replace(norm, affine)
        graph.erase_dead()
        return graph
