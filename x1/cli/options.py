"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

from compiler.ir.evaluate import Sample
from compiler.quantize.methods import DEFAULT_METHOD, DEFAULT_PERCENTILE, METHODS
from isa.executable import TRAINING_STREAMS
from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.numerals import whole_number
from x1.api import Quantization

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")
MAX_DIMENSION: Final = 1 << 40


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    def apply(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


target_options = _together(
    click.option("--target", default="edge32", show_default=True, metavar="NAME|F.toml", help="The machine."),
    click.option(
        "--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a key of the target."
    ),
)

stream_option = click.option(
    "--stream", metavar="|".join(TRAINING_STREAMS), help="Which stream of a training program."
)

shape_option = click.option(
    "--shape", "shapes", multiple=True, metavar="NAME=1,3,224,224", help="Fix an input's open dimensions."
)

scale_option = click.option(
    "--scale", type=click.Choice(["1", "1/255"]), default="1", show_default=True, help="Of the samples."
)

calibration_options = _together(
    click.option("--calibrate", metavar="D.npz|DIR|random:N", help="Samples as the network takes them."),
    click.option(
        "--method",
        default=DEFAULT_METHOD,
        show_default=True,
        metavar="|".join(METHODS),
        help="How ranges become scales.",
    ),
    click.option(
        "--percentile",
        type=float,
        default=DEFAULT_PERCENTILE,
        show_default=True,
        metavar="P",
        help="Percent of the values that each end of a range keeps, with --method percentile.",
    ),
    click.option("--symmetric", is_flag=True, help="Activations with zero point 0."),
    click.option("--per-tensor", is_flag=True, help="Weights with one scale, not one per output channel."),
    click.option("--no-bias-correction", is_flag=True, help="Leave biases as they are."),
    click.option("--equalize", is_flag=True, help="Move scale between neighbouring layers first."),
    click.option(
        "--scheme", metavar="F.toml", help="Scales that a person chose: they go before those calibrated."
    ),
    shape_option,
)

opt_level = click.option(
    "-O",
    "opt_level",
    type=click.Choice(["0", "1", "2", "3"]),
    default="3",
    show_default=True,
    help="How much work to spend on the schedule.",
)


def quantization(given: Mapping[str, Any]) -> Quantization:
    """What `calibration_options` say beyond the samples and the shapes."""
    return Quantization(
        method=given["method"],
        percentile=given["percentile"],
        symmetric=given["symmetric"],
        granularity="tensor" if given["per_tensor"] else "channel",
        bias_correction=not given["no_bias_correction"],
        equalize=given["equalize"],
        scheme=given["scheme"],
        progress=_calibrating,
    )


def _calibrating(samples: Iterable[Sample], count: int | None) -> Iterable[Sample]:
    return with_progress(samples, "calibrating", count)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1,3,224,224` options.

    Raises:
        UsageError: a text of another form.
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, equals, dims = text.rpartition("=")
        parts = [whole_number(p.strip()) or 0 for p in dims.split(",")]
        if not equals or not all(0 < p < MAX_DIMENSION for p in parts):
            raise UsageError(Diagnostic("usage.shape", f"--shape {text} is not of the form NAME=1,3,224,224"))
        found[name] = tuple(parts)
    return found


def with_progress(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """The items, with a progress bar on stderr where that is a terminal."""
    import sys  # noqa: PLC0415

    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import track  # noqa: PLC0415

    yield from track(items, label, total=total, console=Console(stderr=True), transient=True)


def random_warning(calibrate: str | None) -> list[Diagnostic]:
    """What to say of a calibration on noise."""
    if calibrate is None or not calibrate.startswith("random:"):
        return []
    return [
        Diagnostic(
            "calibrate.random",
            "calibrated on random numbers: look at cycles and bits, not at accuracy",
            severity="warning",
            remedy="--calibrate D.npz with real samples",
        )
    ]
