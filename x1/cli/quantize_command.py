"""`x1 quantize`."""

from __future__ import annotations

from typing import Final

import click

from x1 import api
from x1.cli.options import parse_shapes, random_warning, shape_option
from x1.cli.outcome import Outcome, json_option, reported, say
from x1.files import require_another

EPILOG: Final = """\b
Examples:
  x1 quantize net.onnx --calibrate samples.npz -o net.int8.onnx
  x1 quantize net.net --calibrate random:4 -o net.int8.onnx --json
"""


@click.command(epilog=EPILOG)
@click.argument("model")
@click.option(
    "--calibrate", required=True, metavar="D.npz|DIR|random:N", help="Samples as the network takes them."
)
@click.option("--method", default="minmax", show_default=True, help="How ranges become scales.")
@shape_option
@click.option(
    "--format", "form", default="qoperator", show_default=True, help="The form of the ONNX file: qoperator."
)
@click.option("-o", "--output", required=True, metavar="Q.onnx", help="The file to write.")
@json_option
@reported("quantize")
def command(
    model: str, calibrate: str, method: str, shapes: tuple[str, ...], form: str, output: str, as_json: bool
) -> Outcome:
    """Quantize MODEL to int8 and write it as ONNX, for ONNX Runtime to compute the same bits."""
    require_another(output, model, calibrate)
    network = api.quantize(model, calibrate, method=method, shapes=parse_shapes(shapes))
    network.save_onnx(output, form)
    tensors = sum(len(n.views) for n in network.integers().nodes())
    if not as_json:
        say(f"{output}: {tensors} tensors quantized, {network.calibration}")
    return Outcome(
        {"output": output, "format": form, "tensors": tensors, "calibration": network.calibration},
        diagnostics=random_warning(calibrate),
    )
