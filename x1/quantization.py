"""Quantize a network: recipes, schemes and calibration data of the user, the scales that follow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypedDict, Unpack

from compiler import driver
from compiler.ir.evaluate import Sample
from compiler.ir.graph import Graph
from compiler.ir.types import TensorType
from compiler.passes.base import PassLog
from compiler.passes.calibrate import completed, made_up, observe
from compiler.passes.fuse_qdq import open_results
from compiler.quantize.methods import METHODS, Recipe, chosen
from compiler.quantize.scheme import GRANULARITIES, Scheme
from isa.support.diagnostics import Diagnostic, UsageError, not_among, require_keywords
from isa.support.progress import untracked
from isa.support.records import names_of, replace
from x1 import data
from x1.model import Loadable, Model, Shapes, as_model

Calibration = data.Samples
Progress = Callable[[Iterable[Sample], int | None], Iterable[Sample]]
LEAST_PERCENTILE: Final = 50.0


class Quantization(TypedDict, total=False):
    """How a float network is quantized, beyond the samples; every key may be left out.

    * `method`: how ranges become scales: minmax, percentile, entropy or mse (the default).
    * `percentile`: the share of values, in percent, that each end of a range keeps.
    * `symmetric`: all zero points are 0.
    * `granularity`: weights have one scale per output "channel", or one per "tensor".
    * `bias_correction`: correct biases for the mean error that rounding the weights makes (the default).
    * `equalize`: move scale between neighbouring layers first.
    * `scheme`: a scheme, or its file; it goes before what calibration finds, and does without it if whole.
    * `progress`: called with the samples and their number, if that is known; gives the samples back.
    """

    method: str
    percentile: float
    symmetric: bool
    granularity: str
    bias_correction: bool
    equalize: bool
    scheme: str | Path | Scheme | None
    progress: Progress


def require_known(options: Mapping[str, object], further: Iterable[str] = ()) -> None:
    """Every keyword is an option of quantization, or one of the function's own.

    Raises:
        UsageError: some are not.
    """
    require_keywords(options, Quantization.__annotations__, further)


def quantize(
    model: Loadable | Model,
    calibrate: Calibration | None = None,
    *,
    shapes: Shapes | None = None,
    log: PassLog | None = None,
    **options: Unpack[Quantization],
) -> Model:
    """A quantized network: int8 activations and weights, int32 biases.

    Args:
        model: a file, an ONNX model in memory, or a network that `load_network` gave.
        calibrate: `D.npz`, a folder, `random:N`; an array, or arrays by name, axis 0 counting samples; or an
            iterable of these.
        shapes: fixed shapes for inputs with open dimensions.
        log: an observer of the passes.
        options: see `Quantization`.

    Raises:
        UsageError: options, a scheme or calibration data that do not fit the network.
        CompileError: the network is not valid or not supported.
    """
    require_known(options, ("shapes", "log"))
    network = as_model(model, shapes, log)
    recipe = recipe_of(options)
    graph = network.float_graph
    if network.partial is not None:
        return _completed(network, network.partial, calibrate, options, log)
    if graph is None:
        raise UsageError(
            Diagnostic(
                "usage.calibrate",
                f"'{network.name}' is quantized already",
                remedy="compile it without --calibrate and --scheme",
            )
        )
    given = scheme_given(options)
    equalized = recipe.equalize or (given is not None and given.equalize)
    if equalized:
        graph = driver.equalize(graph, log)
    if given is not None:
        given.require_names(graph)
        given = replace(given, equalize=equalized)
    scheme = _scheme(network, graph, calibrate, options, given)
    return _quantized(network, graph, scheme, log)


def _scheme(
    network: Model, graph: Graph, calibrate: Calibration | None, options: Quantization, given: Scheme | None
) -> Scheme:
    """The scheme that samples and a given scheme make together, or the latter alone where it is whole.

    Raises:
        UsageError: there is neither.
    """
    if calibrate is None:
        if given is None:
            raise network.not_quantized()
        return completed(graph, given, None)
    recipe = recipe_of(options)
    samples, described = _tracked(network, calibrate, options)
    made = driver.calibrate(graph, samples, recipe, given)
    return replace(made, calibration=f"{recipe} on {described}") if described else made


def _tracked(network: Model, calibrate: Calibration, options: Quantization) -> tuple[Iterable[Sample], str]:
    """The samples, shown as they pass, and how a binary describes them if not by number."""
    samples, count, described = calibration_samples(calibrate, network.input_types)
    return options.get("progress", untracked)(samples, count), described


def recipe_of(options: Quantization) -> Recipe:
    """The recipe of options.

    Raises:
        UsageError: they have no meaning.
    """
    recipe = Recipe(**{k: v for k, v in options.items() if k in names_of(Recipe)})  # pyright: ignore[reportArgumentType]
    for option, value, known in (
        ("method", recipe.method, tuple(METHODS)),
        ("granularity", recipe.granularity, GRANULARITIES),
    ):
        if value not in known:
            message = f"there is no {option} '{value}'"
            raise UsageError(not_among(f"usage.{option}", message, value, known))
    if not LEAST_PERCENTILE <= recipe.percentile <= 100:
        raise UsageError(
            Diagnostic(
                "usage.percentile",
                f"the percentile {recipe.percentile:g} is not allowed",
                allowed=f"{LEAST_PERCENTILE} to 100",
            )
        )
    return recipe


def scheme_given(options: Quantization) -> Scheme | None:
    """The scheme of options, read if it is a file.

    Raises:
        UsageError: no such file, or no scheme.
    """
    scheme = options.get("scheme")
    if scheme is None or isinstance(scheme, Scheme):
        return scheme
    return Scheme.load(scheme)


def _completed(
    network: Model, graph: Graph, calibrate: Calibration | None, options: Quantization, log: PassLog | None
) -> Model:
    """A prequantized network, the scales that it leaves open calibrated or given."""
    recipe = recipe_of(options)
    if recipe.equalize or recipe.granularity != GRANULARITIES[0]:
        raise UsageError(
            Diagnostic(
                "usage.weights",
                f"the weights of '{network.name}' are quantized already",
                remedy="leave --equalize and --per-tensor out",
            )
        )
    left_open = open_results(graph)
    given = scheme_given(options) or Scheme()
    given.require_names(graph)
    tensors = {name: quant for name, quant in given.tensors.items() if name in left_open}
    if calibrate is not None:
        samples, _ = _tracked(network, calibrate, options)
        seen = observe(graph, samples, ranges_alone=recipe.method == "minmax")
        tensors = {n: chosen(seen.tensors[n], recipe) for n in left_open if n in seen.tensors} | tensors
    if not tensors:
        return network
    scheme = Scheme(tensors, network=network.name, calibration="scales of the model")
    integers = driver.fuse_prequantized(graph.copy(), scheme, log)
    return Model(network.name, None, integers, scheme, network.source, remarks=network.remarks)


def with_made_up_ranges(network: Model) -> Model:
    """The network quantized with ranges that come from nowhere, to see what the compiler makes of it."""
    if network.partial is not None:
        integers = driver.fuse_prequantized(network.partial.copy(), made_up(network.partial))
        return Model(network.name, None, integers, source=network.source, remarks=network.remarks)
    assert network.float_graph is not None
    scheme = replace(made_up(network.float_graph), calibration="made-up ranges")
    return _quantized(network, network.float_graph, scheme, None)


def _quantized(network: Model, graph: Graph, scheme: Scheme, log: PassLog | None) -> Model:
    """The network quantized by a scheme."""
    integers = driver.quantize(graph, scheme, log)
    return Model(network.name, graph, integers, scheme, network.source, remarks=network.remarks)


def calibration_samples(
    calibrate: Calibration, inputs: Mapping[str, TensorType]
) -> tuple[Iterable[Sample], int | None, str]:
    """The samples, how many they are if that is known, and how a binary describes them if not by number.

    A binary says nothing of files: what they are called must not change its bytes.
    """
    if isinstance(calibrate, (str, Path)):
        text = str(calibrate)
        samples, count = data.calibration(text, inputs)
        return samples, count, text if text.startswith("random:") else ""
    return data.given_samples(calibrate, inputs), None, ""
