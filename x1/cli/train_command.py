"""`x1 train`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from isa.support.diagnostics import Diagnostic, UsageError
from isa.timing.model import simulate
from x1.cli.options import parse_shapes, scale_option, shape_option
from x1.cli.result import Result, json_option, reported, say
from x1.files import BINARY, require_another
from x1.keras.callbacks import Writer
from x1.keras.fitting import STATISTICS
from x1.keras.trainable import Trainable
from x1.trainer import state_sha256
from x1.training import INITIAL, begin, continued, model_of, samples_of

EPILOG: Final = """\b
Examples:
  x1 train net.net --data digits.npz --init glorot --epochs 10 -o net.x1
  x1 train net.onnx --data samples.npz --lr 1e-4 --validation-split 0.1 -o tuned.x1
  x1 train net.x1 --data digits.npz --epochs 20 --checkpoint-every 1 -o net.x1
  x1 train net.onnx --data samples.npz --bn-group 8 -o tuned.x1 --json
"""


class Lines(Writer):
    """A line on stderr for every epoch, and a checkpoint now and then."""

    def __init__(self, epochs: int, every: int, output: str, *, quiet: bool) -> None:
        self.epochs, self.every, self.output, self.quiet = epochs, every, output, quiet

    def write(self, epoch: int, logs: dict[str, float]) -> None:
        """Say what the epoch was like."""
        if not self.quiet:
            numbers = " - ".join(f"{name}: {value:.4f}" for name, value in logs.items())
            say(f"epoch {epoch + 1}/{self.epochs} - {numbers}")
        if self.every and (epoch + 1) % self.every == 0:
            self.model.save(self.output)


@click.command(epilog=EPILOG)
@click.argument("model")
@click.option(
    "--data", "place", required=True, metavar="D.npz", help="`inputs` and `labels`, or `x_train`, ..."
)
@click.option("--epochs", type=click.IntRange(0), default=10, show_default=True, help="In all.")
@click.option("--batch", type=click.IntRange(1), help="Samples of a step.  [default: 32]")
@click.option("--optimizer", help="adam, adamw, rmsprop or sgd.  [default: adam]")
@click.option("--lr", type=float, help="The learning rate.  [default: the optimizer's]")
@click.option("--loss", help="Keras's name of a loss.  [default: sparse_categorical_crossentropy]")
@click.option("--validation-split", type=float, help="The part of the samples to keep back.  [default: 0]")
@click.option("--seed", type=click.IntRange(0), help="Of the order and of new weights.  [default: 0]")
@click.option(
    "--shuffle/--no-shuffle", default=None, help="Another order in every epoch.  [default: shuffle]"
)
@click.option(
    "--init", type=click.Choice(INITIAL), default="keep", show_default=True, help="Where weights come from."
)
@click.option("--target", metavar="NAME|F.toml", help="The machine.  [default: edge32]")
@click.option(
    "--checkpoint-every", type=click.IntRange(0), default=0, metavar="E", help="Epochs between files."
)
@scale_option
@click.option(
    "--bn-group", type=click.IntRange(0), help="Samples that are normalized together.  [default: a batch]"
)
@click.option(
    "--bn-statistics",
    type=click.Choice(STATISTICS),
    help="Running statistics after an epoch.  [default: exact]",
)
@click.option("-o", "--output", required=True, metavar="NET.x1", help="The file to write.")
@shape_option
@json_option
@reported("train")
def command(
    model: str,
    place: str,
    epochs: int,
    init: str,
    checkpoint_every: int,
    output: str,
    shapes: tuple[str, ...],
    as_json: bool,
    **options: Any,
) -> Result:
    """Train MODEL, or train a binary of such a training on, on the simulated device."""
    require_another(output, place, None if model.endswith(BINARY) else model)
    with _alone(output):
        network = model_of(model, init=init, seed=options["seed"] or 0, shapes=parse_shapes(shapes))
        begin(network, options["optimizer"], options["loss"])
        if options["lr"] is not None:
            network.optimizer.learning_rate = options["lr"]
        x, y = samples_of(place, network, options["scale"])
        lines = Lines(epochs, checkpoint_every, output, quiet=as_json)
        _fit(network, x, y, epochs, options, lines)
        network.save(output)
    return Result(_body(network, output), text="" if as_json else f"{output}: {network.epochs} epochs")


def _fit(
    network: Trainable, x: NDArray[Any], y: NDArray[Any], epochs: int, options: dict[str, Any], lines: Lines
) -> None:
    """Train with what the options say, or with what the file has."""
    network.fit(
        x,
        y,
        epochs=epochs,
        initial_epoch=network.epochs,
        seed=options["seed"],
        callbacks=[lines],
        verbose=0,
        bn_group=options["bn_group"],
        bn_statistics=options["bn_statistics"],
        **continued(network, {**options, "batch_size": options["batch"]}),
    )


def _body(network: Trainable, output: str) -> dict[str, object]:
    """The body of `x1 train --json`."""
    trainer = network.runner()
    cycles = simulate(trainer.executable.stream("train")).cycles
    clock = trainer.target.clock_mhz * 1_000_000
    return {
        "output": output,
        "history": {} if network.history is None else network.history.history,
        "epochs": network.epochs,
        "steps": trainer.step_number,
        "images_per_second": trainer.batches.train * clock / cycles,
        "step_cycles": cycles,
        "device_seconds_at_clock": trainer.step_number * cycles / clock,
        "state_sha256": state_sha256(trainer.state),
        "parameters": int(sum(np.size(v) for v in network.parameters().values())),
        "micro_batch": 1,
    }


@contextmanager  # pyright: ignore[reportDeprecated]
def _alone(output: str) -> Iterator[None]:
    """Let no other process write the same file meanwhile: a lock beside it, which goes away with us.

    A file of that name that has something in it is somebody's: it is locked, and left as it is.

    Raises:
        UsageError: one does, or the place cannot be written.
    """
    lock = Path(f"{output}.lock")
    if sys.platform == "win32":  # pragma: no cover
        yield
        return
    import fcntl  # noqa: PLC0415

    try:
        handle = lock.open("a+b")
    except OSError as error:
        text = f"cannot write '{output}': {error.strerror}"
        raise UsageError(
            Diagnostic("file.write", text, remedy="choose a folder that exists and can be written")
        ) from None
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not lock.exists() or os.fstat(handle.fileno()).st_ino != lock.stat().st_ino:
                raise BlockingIOError  # its owner has just removed it: that it was free is no news
        except OSError:
            text = f"another process writes '{output}'"
            raise UsageError(
                Diagnostic("file.write", text, remedy="wait for it, or choose another -o")
            ) from None
        ours = not os.fstat(handle.fileno()).st_size
        try:
            yield
        finally:
            if ours:
                lock.unlink(missing_ok=True)
