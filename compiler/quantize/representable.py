"""Constants that the machine can compute with: finite weights, finite multipliers.

Both checks name every node at once; without them a network would compile and then trap.
"""

from __future__ import annotations

import numpy as np

from compiler.errors import CompileError
from compiler.ir.graph import Graph
from compiler.quantize.masks import is_mask
from isa.support.diagnostics import Findings


def require_finite_constants(graph: Graph) -> None:
    """Check the constants that a float graph computes with.

    Raises:
        CompileError: some hold NaN or infinity.
    """
    findings = Findings(CompileError)
    for node in graph.nodes():
        if not node.is_constant or not graph.users(node) or is_mask(node):
            continue
        if not np.isfinite(node.constant).all():
            count = int(np.count_nonzero(~np.isfinite(node.constant)))
            findings.add(
                "model.values",
                f"{count} of {node.constant.size} elements of the constant '{node.name}' are NaN or infinite",
                node.loc,
                allowed="finite numbers",
            )
    findings.raise_if_any()


def require_finite_scales(graph: Graph) -> None:
    """Check what the scales of an integer graph make the device compute with.

    Raises:
        CompileError: some multipliers are NaN or infinite in float32.
    """
    findings = Findings(CompileError)
    for node in graph.nodes():
        with np.errstate(all="ignore"):
            constants = node.op.constants([i.type for i in node.inputs], node.type)
        if not np.isfinite(constants).all():
            scales = [f"{s:g}" for i in (*node.inputs, node) if i.type.quant for s in i.type.quant.scales[:1]]
            findings.add(
                "model.scale",
                f"the scales {', '.join(scales)} of '{node.name}' and its operands give a multiplier that is "
                "infinite in float32",
                node.loc,
                remedy="scale the network's values so that neighbouring layers differ less",
            )
    findings.raise_if_any()
