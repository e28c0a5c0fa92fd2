"""`x1 demo`."""

from __future__ import annotations

import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from isa.support.diagnostics import Diagnostic, ExitCode, UsageError
from isa.target import load_target
from x1 import api, data
from x1.cli.result import Result, json_option, reported
from x1.cli.verify_command import comparison_table
from x1.lab.evaluation import evaluate
from x1.lab.verification import verify
from x1.samples import sample_folder
from x1.session import Session

EPILOG: Final = """\b
Examples:
  x1 demo
  x1 demo --target tiny8 --json
"""
SHADES: Final = " .:-=+*#%@"
SHOWN: Final = 5
VERIFIED: Final = 100


@click.command(epilog=EPILOG)
@click.option("--target", default="edge32", show_default=True, metavar="NAME|F.toml", help="The machine.")
@json_option
@reported("demo")
def command(target: str, as_json: bool) -> Result:
    """Quantize, compile and run the sample network; compare every tensor with ONNX Runtime."""
    start = time.perf_counter()
    echo = _Echo(quiet=as_json)
    machine = load_target(target)
    folder = sample_folder("mnist")
    echo((folder / "mnist.net").read_text(encoding="utf-8"))
    network = api.quantize(folder / "mnist.net", folder / "calibration.npz")
    binary = api.compile(network, machine)
    with tempfile.TemporaryDirectory() as place:
        binary.save(Path(place) / "mnist.x1")
        session = Session(Path(place) / "mnist.x1")
    echo(
        f"compiled for {target}: {len(binary.program.instructions)} instructions, {binary.macs:,} MACs; "
        "checked: no race, no deadlock\n"
    )
    digits = data.input_member(folder / "digits.npz", "image")
    labels = data.labels(folder / "digits.npz")
    shapes = network.input_shapes
    predictions = _show(session, islice(data.samples({"image": digits}, shapes), SHOWN), labels, echo)
    result = evaluate(network, binary, data.samples({"image": digits}, shapes), labels)
    echo(
        f"accuracy on {result.samples} test digits: float {100 * result.float_top1:.2f} %, "
        f"binary {100 * result.binary_top1:.2f} %\n"
    )
    body: dict[str, Any] = {"target": target, "predictions": predictions, **result.as_json(), "verify": None}
    try:
        verification = verify(network, binary, islice(data.samples({"image": digits}, shapes), VERIFIED))
    except UsageError as error:
        echo(f"{error.diagnostics[0].message}: the comparison is left out ({error.diagnostics[0].remedy})")
        return Result(
            body, diagnostics=[Diagnostic("oracle.missing", error.diagnostics[0].message, severity="warning")]
        )
    body["verify"] = verification.as_json()
    echo(comparison_table(verification))
    echo(f"{time.perf_counter() - start:.1f} s")
    return Result(body, ExitCode.OK if verification.succeeded else ExitCode.MISMATCH)


class _Echo:
    """Prints, unless stdout is for JSON."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet

    def __call__(self, text: str) -> None:
        if not self.quiet:
            click.echo(text)


def _show(session: Session, samples: Any, labels: NDArray[Any], echo: _Echo) -> list[dict[str, object]]:
    """A few digits side by side, and what the machine says of each."""
    shown: list[dict[str, object]] = []
    pictures: list[list[str]] = []
    for index, sample in enumerate(samples):
        (probabilities,) = session.run(None, sample)
        digit = int(probabilities.argmax())
        shown.append({"digit": digit, "probability": float(probabilities.max()), "label": int(labels[index])})
        pictures.append(_drawn(sample["image"][0, :, :, 0]))
    echo("\n".join("  ".join(rows) for rows in zip(*pictures, strict=True)))
    echo(
        "  ".join(f"{s['digit']} ({100 * float(str(s['probability'])):.0f} %)".center(14) for s in shown)
        + "\n"
    )
    return shown


def _drawn(image: NDArray[Any]) -> list[str]:
    """A 28 x 28 picture as 14 lines of 14 characters."""
    coarse = image.reshape(14, 2, 14, 2).mean(axis=(1, 3))
    levels = np.minimum((coarse * len(SHADES)).astype(int), len(SHADES) - 1)
    return ["".join(SHADES[v] for v in row) for row in levels]
