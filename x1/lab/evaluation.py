"""Evaluate: top-1 of the float network, of its quantized form, and of a binary."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.errors import CompileError
from compiler.ir.evaluate import Sample, outputs
from compiler.quantize.scheme import Scheme
from isa.program import Interface, Program
from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.records import Frozen
from x1 import data
from x1.api import Binary, Model, quantize
from x1.binary import as_binary
from x1.model import Loadable, as_model
from x1.session import Session


class Evaluation(Frozen):
    """How many samples each form classifies as labelled, and how often binary and float agree."""

    samples: int
    float_top1: float
    quantized_top1: float
    binary_top1: float
    agreement: float

    def as_json(self) -> dict[str, object]:
        """The body of `x1 eval --json`; all but `samples` are fractions of 1."""
        return {
            "samples": self.samples,
            "float_top1": self.float_top1,
            "quantized_top1": self.quantized_top1,
            "binary_top1": self.binary_top1,
            "agreement": self.agreement,
        }


def evaluate(
    model: Loadable | Model,
    binary: str | Path | bytes | Binary,
    samples: data.Samples,
    labels: Sequence[int] | NDArray[Any] | None = None,
) -> Evaluation:
    """Top-1 over labelled samples; the quantized form takes its scales from the binary.

    A trained binary has no model beside it: `x1.keras.load(path).evaluate(x, y)` is for those.

    Args:
        model: the float network.
        binary: what was compiled from it.
        samples: a file, or arrays as `verify` takes them.
        labels: a class for every sample; those of the file, where there is one and none are given.

    Raises:
        UsageError: the binary is not of this network, or labels and samples differ in number.
    """
    network = as_model(model)
    if isinstance(samples, (str, Path)):
        labels = data.labels(Path(samples)) if labels is None else labels
    if labels is None:
        raise TypeError("evaluate() needs labels, one for every sample")
    return _evaluated(network, as_binary(binary), data.all_samples(samples, network.input_types), labels)


def _evaluated(
    model: Model, binary: Binary, samples: Iterable[Sample], labels: Sequence[int] | NDArray[Any]
) -> Evaluation:
    float_graph = model.float_graph
    if float_graph is None:
        raise UsageError(
            Diagnostic("eval.model", "the model is quantized already", allowed="the float network")
        )
    integers = quantized_as(model, binary.program).integers()
    session = Session(binary)
    name = float_graph.output_names[0]
    classes: list[tuple[int, ...]] = []
    for sample in samples:
        results = (
            outputs(float_graph, sample)[name],
            outputs(integers, sample)[name],
            session.execute(sample).outputs[name],
        )
        tops = [_classes(r) for r in results]
        classes += list(zip(*(t.tolist() for t in tops), strict=True))
    expected = np.asarray(labels).reshape(-1)
    _require_labels(expected, len(classes), session.program.abi.outputs[0])
    found = np.array(classes)
    right: list[float] = (found == expected[:, None]).mean(axis=0).tolist()
    agreement = float((found[:, 0] == found[:, 2]).mean())
    return Evaluation(len(classes), right[0], right[1], right[2], agreement)


def _require_labels(labels: NDArray[Any], samples: int, output: Interface) -> None:
    """As many labels as samples, each a class of the network.

    Raises:
        UsageError: they are not.
    """
    if samples != labels.size or not samples:
        raise UsageError(
            Diagnostic(
                "eval.labels",
                f"there are {labels.size} labels for {samples} samples",
                allowed="as many as samples, at least one",
            )
        )
    count = math.inf if output.dtype == "int64" else math.prod(output.shape[1:])
    if int(labels.min()) < 0 or int(labels.max()) >= count:
        raise UsageError(
            Diagnostic(
                "eval.labels",
                f"the labels run from {labels.min()} to {labels.max()}",
                allowed=f"0 to {count - 1}",
            )
        )


def _classes(result: NDArray[Any]) -> NDArray[Any]:
    """The class of every sample: where the greatest value lies, or what ArgMax at the end says."""
    rows = result.reshape(result.shape[0], -1)
    return rows[:, 0] if rows.shape[1] == 1 and rows.dtype.kind == "i" else rows.argmax(axis=1)


def quantized_as(model: Model, program: Program) -> Model:
    """The network quantized as a binary of it says.

    Raises:
        UsageError: the binary does not say, or is of another network.
    """
    if not program.scheme:
        raise UsageError(
            Diagnostic(
                "eval.binary",
                "the binary has no scheme: it was compiled from a network that was quantized before",
                allowed="a binary of this model",
            )
        )
    try:
        return quantize(model, scheme=Scheme.parse(program.scheme, "scheme of the binary"))
    except (UsageError, CompileError) as error:
        raise UsageError(
            Diagnostic(
                "eval.binary",
                f"the binary was compiled from another network: {error.diagnostics[0].message}",
                allowed="a binary of this model",
            )
        ) from None
