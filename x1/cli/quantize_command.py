"""`x1 quantize`."""

from __future__ import annotations

from typing import Any, Final

import click

from isa.support.diagnostics import Diagnostic, UsageError
from x1 import api
from x1.cli.options import calibration_options, parse_shapes, quantization, random_warning
from x1.cli.result import Result, json_option, reported, say
from x1.files import require_another, require_apart, write_atomic

EPILOG: Final = """\b
Examples:
  x1 quantize net.onnx --calibrate samples.npz -o net.int8.onnx
  x1 quantize net.net --calibrate samples.npz --format qdq -o net.qdq.onnx --json
  x1 quantize net.onnx --calibrate samples.npz --method entropy --save-scheme net.toml
  x1 quantize net.onnx --scheme net.toml -o net.int8.onnx
"""


@click.command(epilog=EPILOG)
@click.argument("model")
@calibration_options
@click.option(
    "--format",
    "form",
    type=click.Choice(api.ONNX_FORMS),
    default="qoperator",
    show_default=True,
    help="The form of the ONNX file.",
)
@click.option("-o", "--output", metavar="Q.onnx", help="The file to write.")
@click.option(
    "--save-scheme", metavar="F.toml", help="Write the scales of every tensor, to edit and give back."
)
@json_option
@reported("quantize")
def command(
    model: str,
    calibrate: str | None,
    shapes: tuple[str, ...],
    form: str,
    output: str | None,
    save_scheme: str | None,
    as_json: bool,
    **options: Any,
) -> Result:
    """Quantize MODEL to int8 and write it as ONNX, for ONNX Runtime to compute the same bits."""
    if output is None and save_scheme is None:
        raise UsageError(
            Diagnostic("usage.output", "there is nothing to write", allowed="-o Q.onnx, --save-scheme F.toml")
        )
    require_apart(output, save_scheme, "the model and the scheme")
    require_another(output, model, calibrate, options["scheme"])
    require_another(save_scheme, model, calibrate, output, options["scheme"])
    network = api.quantize(model, calibrate, shapes=parse_shapes(shapes), **quantization(options))
    tensors = sum(len(n.views) for n in network.integers().nodes())
    if output is not None:
        network.save_onnx(output, form)
    if save_scheme is not None:
        assert network.scheme is not None
        write_atomic(save_scheme, network.scheme.text())
    if not as_json:
        say(f"{output or save_scheme}: {tensors} tensors quantized, {network.calibration}")
    body = {"output": output, "scheme": save_scheme, "format": form, "tensors": tensors}
    warnings = [*random_warning(calibrate), *network.remarks]
    return Result({**body, "calibration": network.calibration}, diagnostics=warnings)
