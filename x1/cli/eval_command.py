"""`x1 eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from x1 import api, data
from x1.cli.options import parse_shapes, shape_option, with_progress
from x1.cli.result import Result, json_option, reported
from x1.lab.evaluation import evaluate

EPILOG: Final = """\b
Examples:
  x1 eval net.onnx net.x1 --data test.npz
  x1 eval net.net net.x1 --data test.npz --json
"""


@click.command(epilog=EPILOG)
@click.argument("model")
@click.argument("binary")
@click.option("--data", "place", required=True, metavar="D.npz", help="Preprocessed `inputs` and `labels`.")
@shape_option
@json_option
@reported("eval")
def command(model: str, binary: str, place: str, shapes: tuple[str, ...], as_json: bool) -> Result:
    """Classify samples with the float MODEL, its quantized form and BINARY; compare with the labels."""
    del as_json
    network, loaded = api.load_network(model, parse_shapes(shapes)), api.Binary.load(binary)
    path = Path(place)
    members = {name: data.input_member(path, name) for name in network.input_shapes}
    count = data.sample_count(members, network.input_shapes)
    samples = with_progress(data.samples(members, network.input_shapes), "evaluating", count)
    result = evaluate(network, loaded, samples, data.labels(path))
    lines = [
        f"samples    {result.samples}",
        *(
            f"{name:10} {100 * value:.2f} %"
            for name, value in (
                ("float", result.float_top1),
                ("quantized", result.quantized_top1),
                ("binary", result.binary_top1),
                ("agreement", result.agreement),
            )
        ),
    ]
    return Result(result.as_json(), text="\n".join(lines))
