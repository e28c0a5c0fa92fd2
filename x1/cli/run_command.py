"""`x1 run`."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from isa.program import Interface
from isa.support.diagnostics import Diagnostic, ExitCode, UsageError, one_line
from isa.support.numerals import whole_number
from isa.target import load_target
from runtime.executors.executor import Executor
from runtime.executors.interleaved import InterleavedExecutor
from runtime.executors.reference import ReferenceExecutor
from runtime.host import require_form
from x1 import data
from x1.api import Binary
from x1.cli.options import with_progress
from x1.cli.result import Result, json_option, reported, say
from x1.files import require_another, write_arrays, write_tensors
from x1.session import Session

EPILOG: Final = """\b
Examples:
  x1 run net.x1 --input @digit.npy -o out.npz
  x1 run net.x1 --input image=@digits.npz --samples -o out.npz
  x1 run net.x1 --input @digit.npy --expected @golden.npy --rtol 0 --atol 0
  x1 run net.x1 --input @digit.npy --dump-tensors tensors
  x1 run net.x1 --input @digit.npy --schedule random:7
"""
MAX_REAL: Final = sys.float_info.max
Arrays = dict[str, NDArray[Any]]


@click.command(epilog=EPILOG)
@click.argument("binary")
@click.option(
    "--input", "inputs", multiple=True, required=True, metavar="[NAME=]@X.npy|@D.npz", help="An input."
)
@click.option("--samples", is_flag=True, help="Loop over axis 0 in steps of the model's batch.")
@click.option("-o", "--output", metavar="OUT.npz", help="The file for the outputs.")
@click.option("--expected", multiple=True, metavar="[NAME=]@G.npy", help="Compare an output with this array.")
@click.option("--rtol", type=float, default=0.0, show_default=True, help="Relative tolerance of --expected.")
@click.option("--atol", type=float, default=0.0, show_default=True, help="Absolute tolerance of --expected.")
@click.option(
    "--dump-tensors",
    metavar="DIR",
    help="Write every tensor of the source model, quantized, as .npy, and manifest.json.",
)
@click.option(
    "--target", metavar="NAME|F.toml", help="Run on another machine than the one that the binary carries."
)
@click.option(
    "--schedule",
    metavar="random:SEED",
    help="Run the engines in an interleaving that the seed chooses, not in program order.",
)
@click.option("--poison", is_flag=True, help="Trap on reads of bytes that nothing has written.")
@json_option
@reported("run")
def command(
    binary: str,
    inputs: tuple[str, ...],
    samples: bool,
    output: str | None,
    expected: tuple[str, ...],
    rtol: float,
    atol: float,
    dump_tensors: str | None,
    target: str | None,
    schedule: str | None,
    poison: bool,
    as_json: bool,
) -> Result:
    """Run BINARY on inputs from files."""
    named = [text.rpartition("@")[2] for text in (*inputs, *expected)]
    sources = (binary, target, *named)
    require_another(output, *sources)
    _require_tolerances(rtol, atol)
    executor = _executor(schedule)
    machine = load_target(target) if target else None
    loaded = Binary.load(binary)
    session = Session(loaded, target=machine, poison=poison)
    start = time.perf_counter()
    folder = Path(dump_tensors) if dump_tensors else None
    ran = _run(session, inputs, folder, executor, sources, samples=samples)
    seconds = time.perf_counter() - start
    outputs = {name: np.concatenate([c[name] for c in ran.outputs]) for name in ran.outputs[0]}
    if output is not None:
        write_arrays(output, outputs)
    comparisons = _compare(outputs, expected, rtol, atol)
    wrong = any(c["mismatches"] for c in comparisons)
    macs = loaded.macs * len(ran.outputs)
    if not as_json:
        _report(outputs, comparisons, ran.instructions, macs, seconds)
    body: dict[str, object] = {
        "outputs": [_described(n, a) for n, a in outputs.items()],
        "instructions": ran.instructions,
        "macs": macs,
        "seconds": round(seconds, 6),
        "trap": None,
        "expected": comparisons,
    }
    return Result(body, ExitCode.MISMATCH if wrong else ExitCode.OK)


@dataclass
class Ran:
    """What the runs gave: the outputs of each, and the instructions of all."""

    outputs: list[Arrays] = field(default_factory=list[Arrays])
    instructions: int = 0


def _run(
    session: Session,
    inputs: Sequence[str],
    folder: Path | None,
    executor: Executor,
    sources: Sequence[str | None],
    *,
    samples: bool,
) -> Ran:
    """The binary run once, or once for each sample, with a progress bar; tensors overwrite no source."""
    interface = session.program.abi.host_inputs
    members = data.input_members(inputs, [t.name for t in interface])
    runs = _runs(members, interface, samples=samples)
    ran = Ran()
    for given in with_progress(runs, "running", len(next(iter(members.values()))) if samples else 1):
        result = session.execute(given, tensors=folder is not None, executor=executor)
        if folder is not None:
            place = folder / f"{len(ran.outputs):05d}" if samples else folder
            write_tensors(place, result.tensors, *sources)
        ran.outputs.append(result.outputs)
        ran.instructions += result.instructions
    return ran


def _require_tolerances(*values: float) -> None:
    """Tolerances are finite and not negative."""
    if any(not 0 <= v <= MAX_REAL for v in values):
        raise UsageError(
            Diagnostic(
                "usage.tolerance", "a tolerance is not allowed", allowed="finite numbers of at least 0"
            )
        )


def _executor(schedule: str | None) -> Executor:
    """What executes in program order, or as `random:SEED` says."""
    if schedule is None:
        return ReferenceExecutor()
    word, _, number = schedule.partition(":")
    seed = whole_number(number)
    if word != "random" or seed is None:
        raise UsageError(
            Diagnostic("usage.schedule", f"--schedule {schedule} is not allowed", allowed="random:SEED")
        )
    return InterleavedExecutor(seed)


def _runs(
    members: Mapping[str, data.Member], interface: Sequence[Interface], *, samples: bool
) -> list[Arrays] | Any:
    shapes = {t.name: t.shape for t in interface}
    if samples:
        if data.sample_count(members, shapes) == 0:
            raise UsageError(Diagnostic("data.shape", "there are no samples"))
        return data.samples(members, shapes)
    for tensor in interface:
        require_form(tensor, members[tensor.name].dtype, members[tensor.name].shape)
    return [{name: member.read() for name, member in members.items()}]


def _described(name: str, values: NDArray[Any]) -> dict[str, object]:
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return {"name": name, "dtype": values.dtype.name, "shape": list(values.shape), "sha256": digest}


def _compare(outputs: Arrays, expected: tuple[str, ...], rtol: float, atol: float) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, path in data.named_files(expected, list(outputs), "--expected").items():
        member, got = data.input_member(path, name), outputs[name]
        if member.shape != got.shape:
            raise UsageError(
                Diagnostic(
                    "run.expected",
                    f"the expected '{name}' has the shape {list(member.shape)}",
                    allowed=str(list(got.shape)),
                )
            )
        wanted = member.read()
        difference = np.abs(got.astype(np.float64) - wanted.astype(np.float64))
        outside = ~(difference <= atol + rtol * np.abs(wanted.astype(np.float64)))
        rows.append(
            {
                "name": name,
                "elements": int(got.size),
                "mismatches": int(outside.sum()),
                "max_abs": float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0).clip(0, MAX_REAL)),
            }
        )
    return rows


def _report(
    outputs: Arrays, comparisons: list[dict[str, Any]], instructions: int, macs: int, seconds: float
) -> None:
    for name, values in outputs.items():
        flat = ", ".join(f"{v:.6g}" for v in values.ravel()[:10].tolist())
        more = ", ..." if values.size > 10 else ""
        click.echo(f"{one_line(name)} {values.dtype}{list(values.shape)}: {flat}{more}")
    for row in comparisons:
        counted = f"{row['mismatches']} of {row['elements']} differ, at most by {row['max_abs']:.6g}"
        say(f"{one_line(row['name'])}: {counted}")
    say(f"{instructions:,} instructions, {macs:,} MACs in {seconds:.3f} s")
