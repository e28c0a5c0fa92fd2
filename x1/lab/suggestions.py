"""Suggest: the layers that quantization hurts most, and what another method or granularity gives them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

from compiler import driver
from compiler.ir.evaluate import Sample
from compiler.ir.graph import Graph
from compiler.passes.calibrate import Observations, observe, scheme_of
from compiler.quantize.methods import METHODS, Recipe
from compiler.quantize.scheme import Scheme
from isa import arithmetic
from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.records import Frozen, replace
from x1 import api
from x1.lab.oracle import ExportOracle
from x1.lab.verification import Noise, real_tensors

SAMPLES: Final = 8
"""Alternatives are compared on so many samples at most."""
LAYERS: Final = 5
ALIKE: Final = 0.5
"""dB below which an alternative is not worth a word."""


class Suggestion(Frozen):
    """A tensor, its signal to quantization noise in dB, and that under every alternative."""

    name: str
    is_output: bool
    sqnr_db: float
    alternatives: Mapping[str, float]

    @property
    def best(self) -> str | None:
        """The alternative that is worth most, if one is."""
        option = max(self.alternatives, key=lambda o: self.alternatives[o], default=None)
        if option is None or self.alternatives[option] < self.sqnr_db + ALIKE:
            return None
        return option

    def as_json(self) -> dict[str, object]:
        """An entry of `suggestions` in `x1 verify --json`."""
        return {
            "name": self.name,
            "is_output": self.is_output,
            "sqnr_db": _finite(self.sqnr_db),
            "alternatives": {option: _finite(v) for option, v in self.alternatives.items()},
            "best": self.best,
        }


def alternatives(recipe: Recipe) -> dict[str, Recipe]:
    """Other recipes by the option of the command line that asks for them; each differs in one thing."""
    found = {f"--method {m}": replace(recipe, method=m) for m in METHODS if m != recipe.method}
    if recipe.granularity == "channel":
        found["--per-tensor"] = replace(recipe, granularity="tensor")
    else:
        found["without --per-tensor"] = replace(recipe, granularity="channel")
    for name, without in (("symmetric", recipe.symmetric), ("equalize", recipe.equalize)):
        option = f"without --{name}" if without else f"--{name}"
        found[option] = replace(recipe, **{name: not without})
    return found


def suggest(
    model: api.Model,
    calibrate: api.Calibration,
    recipe: Recipe,
    samples: Iterable[Sample],
    scheme: Scheme | None = None,
) -> list[Suggestion]:
    """The network's outputs and the layers with the least SQNR, each under every alternative recipe.

    Args:
        model: a float network.
        calibrate: what the recipes are calibrated on.
        recipe: how the network is quantized now.
        samples: where the noise is measured; the first 8 count.
        scheme: what goes before calibration now; the alternatives do without it.

    Raises:
        UsageError: the network is prequantized, or ONNX Runtime is not installed.
    """
    if model.float_graph is None:
        raise UsageError(
            Diagnostic("usage.suggest", f"'{model.name}' is quantized already", allowed="a float network")
        )
    data = list(islice(samples, SAMPLES))
    if scheme is not None:
        recipe = replace(recipe, equalize=recipe.equalize or scheme.equalize)
        scheme = replace(scheme, equalize=recipe.equalize)
    graphs = {equalized: _graph(model.float_graph, equalized=equalized) for equalized in (False, True)}
    seen = {equalized: _observed(graph, calibrate) for equalized, graph in graphs.items()}

    def noise(how: Recipe, given: Scheme | None = None) -> dict[str, float]:
        graph = graphs[how.equalize]
        return _noise(graph, scheme_of(graph, seen[how.equalize], how, given), data)

    now = noise(recipe, scheme)
    others = {option: noise(how) for option, how in alternatives(recipe).items()}
    return [
        Suggestion(
            name, is_output, now[name], {o: found[name] for o, found in others.items() if name in found}
        )
        for name, is_output in _chosen(model.float_graph, now)
    ]


def _graph(graph: Graph, *, equalized: bool) -> Graph:
    return driver.equalize(graph) if equalized else graph


def _observed(graph: Graph, calibrate: api.Calibration) -> Observations:
    inputs = {n.name: n.type for n in graph.inputs}
    return observe(graph, api.calibration_samples(calibrate, inputs)[0])


def _noise(graph: Graph, scheme: Scheme, data: Sequence[Sample]) -> dict[str, float]:
    """The SQNR of every tensor of a network under a scheme, the quantized one in ONNX Runtime."""
    quantized = driver.quantize(graph, scheme)
    oracle, found = ExportOracle(quantized), defaultdict[str, Noise](Noise)
    quants = {v.name: n.quant for n in quantized.nodes() for v in n.views if n.op.name.startswith("q.")}
    for sample in data:
        codes, real = oracle.run(sample), real_tensors(graph, sample)
        for name, quant in quants.items():
            if name in real and name in codes:
                got = arithmetic.dequantize(codes[name], quant.scale, quant.zero_point)
                found[name].add(real[name], got)
    return {name: db for name, noise in found.items() if (db := noise.decibels) is not None}


def _chosen(graph: Graph, now: Mapping[str, float]) -> Iterator[tuple[str, bool]]:
    """The outputs, then the layers with the least SQNR."""
    outputs = {v.name for n in graph.outputs for v in n.views} | {n.name for n in graph.outputs}
    inputs = {n.name for n in graph.inputs}
    yield from ((name, True) for name in now if name in outputs)
    inner = [name for name in now if name not in outputs | inputs]
    yield from ((name, False) for name in sorted(inner, key=lambda name: now[name])[:LAYERS])


def _finite(value: float) -> float | None:
    return round(value, 2) if math.isfinite(value) else None
