"""`x1 verify`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

import click
import numpy as np

from isa.support.diagnostics import Diagnostic, ExitCode, UsageError, one_line
from isa.target import load_target
from x1 import api, data
from x1.cli.options import (
    calibration_options,
    parse_shapes,
    quantization,
    random_warning,
    target_options,
    with_progress,
)
from x1.cli.result import Result, json_option, reported
from x1.files import BINARY
from x1.lab import suggestions
from x1.lab.suggestions import Suggestion
from x1.lab.verification import Verification, compare

EPILOG: Final = """\b
Examples:
  x1 verify net.onnx --calibrate samples.npz --input @samples.npz
  x1 verify net.net --calibrate samples.npz --input @digit.npy --target tiny8
  x1 verify net.onnx --calibrate samples.npz --input @samples.npz --suggest
  x1 verify trained.x1 --input @samples.npz
"""


@click.command(epilog=EPILOG)
@click.argument("model")
@target_options
@calibration_options
@click.option(
    "--input",
    "inputs",
    multiple=True,
    required=True,
    metavar="[NAME=]@X.npy|@D.npz",
    help="Samples; axis 0 is looped in steps of the model's batch.",
)
@click.option(
    "--suggest",
    is_flag=True,
    help="Show the layers with the least SQNR, and what another method or granularity gives.",
)
@json_option
@reported("verify")
def command(
    model: str,
    target: str,
    overrides: tuple[str, ...],
    calibrate: str | None,
    shapes: tuple[str, ...],
    inputs: tuple[str, ...],
    suggest: bool,
    as_json: bool,
    **options: Any,
) -> Result:
    """Compile MODEL, run it, and compare every tensor of the binary with ONNX Runtime, bit for bit.

    A binary of `x1 train` is run as it is, by its stream eval.
    """
    del as_json
    if model.endswith(BINARY):
        return _trained(model, inputs, {"--calibrate": calibrate, "--suggest": suggest})
    machine = load_target(target, overrides)
    if suggest and calibrate is None:
        raise UsageError(
            Diagnostic("usage.suggest", "--suggest compares calibrations", remedy="--calibrate D.npz")
        )
    network = loaded = api.load_network(model, parse_shapes(shapes))
    how = quantization(options)
    if calibrate is not None or options["scheme"] is not None:
        network = api.quantize(network, calibrate, **how)
    network.integers()
    members = data.input_members(inputs, list(network.input_shapes))
    count = data.sample_count(members, network.input_shapes)
    binary = api.compile(network, machine)
    samples = with_progress(data.samples(members, network.input_shapes), "verifying", count)
    result = compare(network, binary, samples)
    body, text = result.as_json(), comparison_table(result)
    if suggest and calibrate is not None:
        recipe, given = api.recipe_of(how), api.scheme_given(how)
        found = suggestions.suggest(
            loaded, calibrate, recipe, data.samples(members, network.input_shapes), given
        )
        body |= {"suggestions": [s.as_json() for s in found]}
        text += "\n\n" + suggestion_table(found)
    code = ExitCode.OK if result.succeeded else ExitCode.MISMATCH
    return Result(body, code, text, [*random_warning(calibrate), *network.remarks, *oracle_warnings(result)])


def _trained(binary: str, inputs: Sequence[str], others: Mapping[str, object]) -> Result:
    """A trained binary against ONNX Runtime.

    Raises:
        UsageError: options that mean nothing here, or inputs of another shape.
        BinaryError: a binary without training.
    """
    useless = [name for name, value in others.items() if value]
    if useless:
        text = f"{useless[0]} is for models: a trained binary has its scales"
        raise UsageError(Diagnostic("usage.option", text, remedy=f"leave {useless[0]} out"))
    from x1.lab.trained import compare_trained  # noqa: PLC0415  (and with it all that trains)
    from x1.training import model_of  # noqa: PLC0415

    network = model_of(binary)
    name, shape = network.network().source.name, (1, *network.input_shape)
    members = data.input_members(inputs, [name])
    data.sample_count(members, {name: shape})  # refuses other shapes
    result = compare_trained(network, members[name].read().astype(np.float32))
    code = ExitCode.OK if result.succeeded else ExitCode.MISMATCH
    return Result(result.as_json(), code, comparison_table(result), oracle_warnings(result))


def oracle_warnings(result: Verification) -> list[Diagnostic]:
    """What ONNX Runtime refused or died of; what follows from it is not compared."""
    failures = result.oracle["failures"]
    assert isinstance(failures, list)
    found = [str(f) for f in cast("list[object]", failures)] + (
        result.imported.failures if result.imported is not None else []
    )
    return [
        Diagnostic("oracle.failed", f"ONNX Runtime gave no values: {failure}", severity="warning")
        for failure in dict.fromkeys(found)
    ]


def suggestion_table(found: Sequence[Suggestion]) -> str:
    """A block per tensor: its SQNR, and that under every alternative, the best marked."""
    lines = ["SQNR in dB, and what it would be with:"]
    for row in found:
        lines.append(f"{one_line(row.name)}{'  (output)' if row.is_output else ''}: {row.sqnr_db:.1f}")
        lines += [
            f"  {option:22}{value:6.1f}{'  <- best' if option == row.best else ''}"
            for option, value in row.alternatives.items()
        ]
    return "\n".join(lines)


def comparison_table(result: Verification) -> str:
    """One line per tensor, and what they add up to."""
    width = max(len(t.name) for t in result.tensors)
    lines = [
        f"{'tensor':{width}}  {'elements':>12}  {'differ':>8}  {'max LSB':>7}  {'SQNR dB':>7}  operation"
    ]
    for row in result.tensors:
        note = "" if row.comparable else "  (not comparable here)"
        sqnr = "-" if row.sqnr_db is None else "exact" if math.isinf(row.sqnr_db) else f"{row.sqnr_db:.1f}"
        lines.append(
            f"{one_line(row.name):{width}}  {row.elements:>12,}  {row.mismatches:>8}  {row.max_lsb:>7}  "
            f"{sqnr:>7}  {row.op}{note}"
        )
    oracle = result.oracle
    lines.append(f"ONNX Runtime {oracle['version']}, {oracle['mode']}, {oracle['cpu']}")
    lines.append(_import_line(result))
    if not any(t.differs for t in result.tensors):
        comparable = sum(t.comparable for t in result.tensors)
        which = "tensor" if comparable == len(result.tensors) else "comparable tensor"
        of = "" if which == "tensor" else f" ({comparable} of {len(result.tensors)})"
        lines.append(f"0 mismatches in every {which}{of} of {result.samples} samples")
        return "\n".join(lines)
    first = next(t.name for t in result.tensors if t.differs)
    if result.mismatches:
        lines.append(f"{result.mismatches} mismatches, the first in '{one_line(first)}'")
    if result.evaluator_mismatches:
        lines.append(
            f"{result.evaluator_mismatches} differences from the evaluator, the first in '{one_line(first)}'"
        )
    return "\n".join(lines)


def _import_line(result: Verification) -> str:
    """How the imported graph compares with the file."""
    found = result.imported
    if found is None:
        return "import not judged: the network is no float ONNX file"
    if not found.differences:
        return f"import: {found.compared} of {found.tensors} float tensors agree with the file"
    first = found.differences[0]
    return (
        f"import: {len(found.differences)} of {found.tensors} float tensors differ from the file, the first "
        f"in '{one_line(first.name)}' of node '{one_line(first.node)}' ({one_line(first.op)}): "
        f"{first.max_abs:.3g} of {first.largest:.3g}"
    )
