"""`x1 eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from isa.support.diagnostics import Diagnostic, UsageError
from x1 import api, data
from x1.cli.options import parse_shapes, scale_option, shape_option, with_progress
from x1.cli.result import Result, json_option, reported
from x1.files import BINARY
from x1.lab.evaluation import evaluate

EPILOG: Final = """\b
Examples:
  x1 eval net.onnx net.x1 --data test.npz
  x1 eval net.net net.x1 --data test.npz --json
  x1 eval trained.x1 --data test.npz
"""


@click.command(epilog=EPILOG)
@click.argument("model")
@click.argument("binary", required=False)
@click.option("--data", "place", required=True, metavar="D.npz", help="Preprocessed `inputs` and `labels`.")
@scale_option
@shape_option
@json_option
@reported("eval")
def command(
    model: str, binary: str | None, place: str, scale: str, shapes: tuple[str, ...], as_json: bool
) -> Result:
    """Classify samples with the float MODEL, its quantized form and BINARY; compare with the labels.

    A binary of `x1 train` stands alone: its stream eval gives loss and metrics of the samples.
    """
    del as_json
    if binary is None:
        return _trained(model, place, scale)
    if scale != "1":
        raise UsageError(Diagnostic("usage.option", "--scale is for binaries of `x1 train`", allowed="1"))
    network, loaded = api.load_network(model, parse_shapes(shapes)), api.Binary.load(binary)
    path = Path(place)
    members = {name: data.input_member(path, name) for name in network.input_shapes}
    count = data.sample_count(members, network.input_shapes)
    samples = with_progress(data.samples(members, network.input_shapes), "evaluating", count)
    result = evaluate(network, loaded, samples, data.labels(path))
    shares = {
        "float": result.float_top1,
        "quantized": result.quantized_top1,
        "binary": result.binary_top1,
        "agreement": result.agreement,
    }
    lines = [f"samples    {result.samples}", *(f"{n:10} {100 * v:.2f} %" for n, v in shares.items())]
    return Result(result.as_json(), text="\n".join(lines))


def _trained(binary: str, place: str, scale: str) -> Result:
    """A trained network on samples with labels: on the simulated device, by the stream eval.

    Raises:
        UsageError: a file that is no binary.
        BinaryError: a binary without training.
    """
    if not binary.endswith(BINARY):
        text = f"'{binary}' stands alone"
        remedy = "name the binary that was compiled from it: x1 eval MODEL BINARY --data D.npz"
        raise UsageError(Diagnostic("eval.binary", text, allowed="a binary of x1 train", remedy=remedy))
    from x1.training import model_of, samples_of  # noqa: PLC0415  (and with it all that trains)

    network = model_of(binary)
    x, y = samples_of(place, network, scale, test=True)
    found: dict[str, float] = network.evaluate(x, y, return_dict=True)
    lines = [f"samples    {len(x)}", f"loss       {found['loss']:.4f}"]
    lines += [f"{name:10} {100 * value:.2f} %" for name, value in found.items() if name != "loss"]
    return Result({"samples": len(x), **found}, text="\n".join(lines))
