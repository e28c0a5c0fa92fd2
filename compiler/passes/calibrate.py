"""From samples to a scheme: what they show of every tensor, and what a recipe makes of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compiler.ir.evaluate import Sample, walk
from compiler.ir.graph import Graph, Input, Node
from compiler.ir.op import Product
from compiler.ir.types import DType
from compiler.ops.activation import ABSOLUTE, QTable
from compiler.ops.conv2d import QConv2d
from compiler.ops.gemm import QGemm
from compiler.ops.slices import Pad
from compiler.passes.quantize import to_integers
from compiler.quantize.histogram import Histogram
from compiler.quantize.masks import masked_values, without_left_out
from compiler.quantize.methods import Observed, Recipe, chosen, parameters
from compiler.quantize.scheme import Scheme
from isa import arithmetic
from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.records import Frozen, replace

Integers = tuple[Graph, set[str]]
"""An integer graph, and the tensors whose scale was asked for."""
ROUNDS: Final = 16
LARGER: Final = 1 + 2.0**-10
LEAST_SCALE: Final = 64 * ABSOLUTE
"""Of a function that is approximated: its error is a small part of a step then."""
GRID: Final = 8
"""Corrections of a bias are multiples of this part of the result's scale: BLAS noise does not reach them."""


class Observations(Frozen):
    """What samples showed of every activation of a float graph, by name."""

    tensors: Mapping[str, Observed]
    samples: int


def observe(graph: Graph, samples: Iterable[Sample], *, ranges_alone: bool = False) -> Observations:
    """Look at every activation on every sample, in memory that does not grow with their number.

    Args:
        graph: a prepared float graph.
        samples: inputs by name.
        ranges_alone: leave histograms out, which min-max does not need.

    Raises:
        UsageError: there is no sample, or a tensor was not finite.
    """
    activations = {n.id for n in graph.nodes() if _is_activation(n)}
    masked = masked_values(graph)
    averaged = {n.inputs[0].id for n in graph.nodes() if isinstance(n.op, Product)}
    seen: dict[str, Observed] = {}
    count = 0
    for sample in samples:
        count += 1
        for node, value in walk(graph, sample):
            if node.id in activations and not _is_endless(node):
                if node.name not in seen:
                    seen[node.name] = Observed(histogram=None if ranges_alone else Histogram())
                values = without_left_out(value) if node.id in masked else value
                seen[node.name].include(values, sums=node.id in averaged)
    if count == 0:
        raise UsageError(Diagnostic("calibrate.empty", "there are no calibration samples"))
    for name, found in seen.items():
        if not found.is_finite:
            raise UsageError(
                Diagnostic(
                    "calibrate.range",
                    f"the tensor '{name}' is not finite on the calibration data",
                    allowed="finite values",
                    remedy="check the preprocessing of the samples",
                )
            )
    return Observations(seen, count)


def scheme_of(graph: Graph, seen: Observations, recipe: Recipe, given: Scheme | None = None) -> Scheme:
    """The scheme that a recipe makes of what was seen; what a given one says goes before."""
    base = given or Scheme(equalize=recipe.equalize)
    recipe = replace(recipe, granularity=base.granularity or recipe.granularity, equalize=base.equalize)
    tensors = {name: chosen(found, recipe) for name, found in seen.tensors.items()} | dict(base.tensors)
    calibration = f"{recipe} on {seen.samples} samples"
    scheme = replace(
        base,
        tensors=tensors,
        granularity=recipe.granularity,
        network=graph.name,
        calibration=calibration,
    )
    scheme, integers = _without_ties(graph, scheme, set(base.tensors))
    return completed(graph, scheme, seen if recipe.bias_correction else None, integers)


def _without_ties(graph: Graph, scheme: Scheme, fixed: set[str]) -> tuple[Scheme, Integers]:
    """The scheme, with slightly larger scales where a table has an entry next to a tie, and what it makes.

    There the last bits of a float32 approximation decide, and other implementations of the function, ONNX
    Runtime's among them, may give another code. A scale below the error of such an approximation is raised
    to where a code is more than that.
    """
    integers = to_integers(graph, scheme)
    for _ in range(ROUNDS):
        tied = {
            n.name: n.quant
            for n in integers[0].nodes()
            if isinstance(n.op, QTable)
            and n.name in scheme.tensors
            and n.name not in fixed
            and n.op.is_near_a_tie(n.inputs[0].quant, n.quant)
        }
        if not tied:
            break
        larger = {
            name: replace(q, scales=(float(np.float32(max(q.scale * LARGER, LEAST_SCALE))),))
            for name, q in tied.items()
        }
        scheme = replace(scheme, tensors={**scheme.tensors, **larger})
        integers = to_integers(graph, scheme)
    return scheme, integers


def completed(
    graph: Graph, scheme: Scheme, seen: Observations | None, integers: Integers | None = None
) -> Scheme:
    """The scheme without scales that no operation asks for, its biases corrected by what was seen.

    `integers` is what the scheme makes of the graph, where that is known.
    """
    quantized, asked = integers or to_integers(graph, scheme)
    tensors = {name: q for name, q in scheme.tensors.items() if name in asked}
    found = {} if seen is None else _corrections(graph, quantized, seen)
    return replace(scheme, tensors=tensors, corrections={**found, **scheme.corrections})


def made_up(graph: Graph) -> Scheme:
    """A scheme that no sample has been looked at for: enough to see what the compiler makes of a network."""
    return Scheme({n.name: parameters(-4.0, 4.0) for n in graph.nodes() if _is_activation(n)})


def _is_endless(node: Node) -> bool:
    """Whether a value holds infinities on purpose: padding that a maximum never takes."""
    return isinstance(node.op, Pad) and math.isinf(node.op.value)


def _is_activation(node: Node) -> bool:
    """Whether the device holds a value; what is given and nothing reads goes back as it is."""
    is_read = not isinstance(node.op, Input) or bool(node.graph.users(node))
    return node.type.dtype is DType.F32 and not node.is_constant and is_read


def _corrections(graph: Graph, quantized: Graph, seen: Observations) -> dict[str, tuple[float, ...]]:
    """What to add to biases so that rounding the weights leaves the mean of every output channel as it was.

    A product is linear: the mean of its error is the product of the mean input with the error of the
    weights (Nagel et al., Data-Free Quantization Through Weight Equalization and Bias Correction, 2019).
    """
    made = {n.name: n for n in quantized.nodes() if isinstance(n.op, (QConv2d, QGemm))}
    found: dict[str, tuple[float, ...]] = {}
    for node in graph.nodes():
        if not isinstance(node.op, Product) or node.inputs[0].name not in seen.tensors:
            continue
        counterpart, (x, w, b) = made[node.name], node.inputs
        mean, error = seen.tensors[x.name].mean, _dequantized(counterpart.inputs[1]) - w.constant
        shift = node.op.linear().evaluate(
            [mean, error, np.zeros(b.shape, np.float32)], [i.type for i in node.inputs], node.type
        )
        others = tuple(i for i in range(shift.ndim) if i != node.op.channel_axis)
        step = counterpart.quant.scale / GRID
        steps = np.rint(-shift.mean(axis=others, dtype=np.float64) / step)
        found[node.name] = tuple(float(v) for v in (steps * step).astype(np.float32) + 0.0)
    return found


def _dequantized(weights: Node) -> NDArray[np.float32]:
    quant = weights.type.quant
    assert quant is not None
    return arithmetic.dequantize(weights.constant, quant.along(weights.constant.ndim), quant.zero_point)
