"""Arrays that the user names: inputs, expected outputs, calibration data.

Of an .npz file, the array of an input's name counts, else the one called `inputs`, else the only
one; `labels` is never an input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn, cast

import numpy as np

from compiler.ir.evaluate import Sample
from compiler.ir.types import DType, TensorType
from isa.support.arrays import Array, Member, members
from isa.support.diagnostics import Diagnostic, UsageError, did_you_mean
from isa.support.numerals import whole_number

Samples = str | Path | Array | Sample | Iterable[Sample | Array]
"""Samples as a person may give them: a file, or what `given_samples` takes."""
LABELS: Final = "labels"
INPUTS: Final = "inputs"
SEED: Final = 2024
MAX_RANDOM: Final = 100_000


def input_member(path: Path, name: str) -> Member:
    """The array of a file that belongs to an input of that name.

    Raises:
        UsageError: the file does not say which.
    """
    arrays = {k: v for k, v in members(path).items() if k != LABELS}
    for candidate in (name, INPUTS):
        if candidate in arrays:
            return arrays[candidate]
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    return _fail(
        "data.name",
        f"'{path}' has no array '{name}' or '{INPUTS}'",
        ", ".join(sorted(arrays)) or "one array",
        did_you_mean(name, arrays),
    )


def labels(path: Path, *, real: bool = False) -> Array:
    """The `labels` of an .npz file: classes, or where they may be `real` any numbers.

    Raises:
        UsageError: it has none, or others.
    """
    arrays = members(path)
    if LABELS not in arrays:
        _fail("data.labels", f"'{path}' has no array '{LABELS}'", ", ".join(sorted(arrays)))
    found = arrays[LABELS]
    if found.dtype.kind not in ("iuf" if real else "iu"):
        _fail("data.labels", f"the labels are {found.dtype}", "numbers" if real else "whole numbers")
    return found.read()


def named_files(options: Sequence[str], names: Sequence[str], option: str) -> dict[str, Path]:
    """`[NAME=]@FILE` options as files by name; the name may be left out where there is one.

    An .npz without a name serves every input.
    """
    found: dict[str, Path] = {}
    for text in options:
        name, equals, place = text.rpartition("=@")
        if not equals:
            if not text.startswith("@"):
                _fail(
                    "usage.input",
                    f"{option} {text} is not of the form [NAME=]@FILE",
                    remedy=f"{option} @{text}",
                )
            name, place = "", text[1:]
        if name:
            if name not in names:
                _fail("usage.input", f"there is no '{name}'", ", ".join(names), did_you_mean(name, names))
            if name in found:
                _fail("usage.input", f"{option} for '{name}' is given twice")
            found[name] = Path(place)
        elif len(names) == 1 or place.endswith(".npz"):
            if found:
                _fail("usage.input", f"{option} {text} comes besides another {option}", remedy="name each")
            found |= dict.fromkeys(names, Path(place))
        else:
            _fail("usage.input", f"{option} {text} needs a name", ", ".join(f"{n}=@FILE" for n in names))
    return found


def input_members(options: Sequence[str], names: Sequence[str]) -> dict[str, Member]:
    """The array of every input, from `--input` options.

    Raises:
        UsageError: an input without an array, or an option that names none.
    """
    files = named_files(options, names, "--input")
    if missing := [n for n in names if n not in files]:
        _fail("run.input", f"input '{missing[0]}' is missing", remedy=f"--input {missing[0]}=@FILE")
    return {name: input_member(path, name) for name, path in files.items()}


def sample_count(arrays: Mapping[str, Member], shapes: Mapping[str, Sequence[int]]) -> int:
    """How many runs the arrays give, axis 0 in steps of the model's batch.

    Raises:
        UsageError: an array that is no whole number of batches, or arrays that differ in number.
    """
    return _counted({name: member.shape for name, member in arrays.items()}, shapes)


def _counted(found: Mapping[str, Sequence[int]], shapes: Mapping[str, Sequence[int]]) -> int:
    """How many runs arrays of these shapes give; of numbers each is one."""
    counts: dict[str, int] = {}
    for name, given in found.items():
        batch, *one = shapes[name] or (1,)
        if list(given[1:]) != one or (not given and shapes[name]) or (given and given[0] % batch):
            rest = ", ".join(map(str, ("N", *one)))
            _fail(
                "data.shape",
                f"the array for '{name}' has the shape {list(given)}",
                f"[{rest}] with N a multiple of {batch}",
            )
        counts[name] = given[0] // batch if given else 1
    if len(set(counts.values())) > 1:
        _fail("data.shape", f"the inputs have different numbers of samples: {counts}")
    return next(iter(counts.values()), 1)


def samples(arrays: Mapping[str, Member], shapes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Array]]:
    """Every run's inputs, in order."""
    sample_count(arrays, shapes)
    if not arrays:
        yield {}  # a network that reads nothing
        return
    streams = {name: _blocks(member, shapes[name]) for name, member in arrays.items()}
    while True:
        try:
            yield {name: next(stream) for name, stream in streams.items()}
        except StopIteration:
            return


def all_samples(given: Samples, inputs: Mapping[str, TensorType]) -> Iterator[dict[str, Array]]:
    """Every run's inputs, of a file or of what `given_samples` takes.

    Raises:
        UsageError: an array is missing, or has another type or shape.
        TypeError: what is given is no samples.
    """
    if not isinstance(given, (str, Path)):
        return given_samples(given, inputs)
    members = input_members([f"@{given}"], list(inputs))
    return samples(members, {name: kind.shape for name, kind in inputs.items()})


def given_samples(given: object, inputs: Mapping[str, TensorType]) -> Iterator[dict[str, Array]]:
    """Every run's inputs, of an array for the only input, of arrays by name, or of an iterable of these.

    Axis 0 counts samples, in steps of the network's batch; arrays of other names are left out.

    Raises:
        UsageError: an array is missing, or has another type or shape.
        TypeError: what is given is none of these.
    """
    if isinstance(given, np.ndarray):
        if len(inputs) != 1:
            raise TypeError(f"an array is given for {len(inputs)} inputs: give a dict of {', '.join(inputs)}")
        yield from _runs({next(iter(inputs)): cast("object", given)}, inputs)
    elif isinstance(given, Mapping):
        yield from _runs(cast("Mapping[str, object]", given), inputs)
    elif isinstance(given, Iterable) and not isinstance(given, (str, bytes)):
        for item in cast("Iterable[object]", given):
            if not isinstance(item, (np.ndarray, Mapping)):
                raise TypeError(f"a sample is an array or a dict of arrays, not {type(item).__name__}")
            yield from given_samples(cast("object", item), inputs)
    else:
        raise TypeError(f"samples are a file, arrays or an iterable of these, not {type(given).__name__}")


def _runs(given: Mapping[str, object], inputs: Mapping[str, TensorType]) -> Iterator[dict[str, Array]]:
    """The runs that arrays by name make."""
    arrays: dict[str, Array] = {}
    for name, kind in inputs.items():
        if name not in given:
            _fail(
                "data.name",
                f"there is no array for the input '{name}'",
                remedy=did_you_mean(name, map(str, given)),
            )
        array = np.asarray(given[name])
        if array.dtype != kind.dtype.numpy:
            _fail("data.dtype", f"the array for '{name}' is {array.dtype}", kind.dtype.host_name)
        arrays[name] = array
    shapes = {name: kind.shape for name, kind in inputs.items()}
    for i in range(_counted({name: a.shape for name, a in arrays.items()}, shapes)):
        yield {name: _run_of(a, shapes[name], i) for name, a in arrays.items()}


def _run_of(array: Array, shape: Sequence[int], index: int) -> Array:
    """The part of an array that is one run's."""
    if not shape:
        return np.asarray(array.ravel()[index])
    return array[index * shape[0] : (index + 1) * shape[0]]


def _blocks(member: Member, shape: Sequence[int]) -> Iterator[Array]:
    """The array of every run."""
    if not shape:
        return (np.asarray(value) for value in member.read().ravel())
    return iter(member.blocks(shape[0]))


def calibration(spec: str, inputs: Mapping[str, TensorType]) -> tuple[Iterator[dict[str, Array]], int]:
    """Samples from `D.npz`, from a folder of such files, or `random:N`, and their number.

    Raises:
        UsageError: not such data.
    """
    if spec.startswith("random:"):
        return _random(spec.removeprefix("random:"), inputs)
    path = Path(spec)
    files = [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
        if not files:
            _fail("calibrate.empty", f"the folder '{spec}' has no .npz or .npy files")
    shapes = {name: kind.shape for name, kind in inputs.items()}
    arrays = [_calibration_arrays(file, inputs) for file in files]
    count = sum(sample_count(a, shapes) for a in arrays)
    return (s for a in arrays for s in samples(a, shapes)), count


def _calibration_arrays(path: Path, inputs: Mapping[str, TensorType]) -> dict[str, Member]:
    arrays = {name: input_member(path, name) for name in inputs}
    for name, member in arrays.items():
        if member.dtype != inputs[name].dtype.numpy:
            _fail(
                "calibrate.dtype",
                f"the calibration data for '{name}' is {member.dtype}",
                inputs[name].dtype.host_name,
                "preprocess it as the network expects",
            )
    return arrays


def _random(text: str, inputs: Mapping[str, TensorType]) -> tuple[Iterator[dict[str, Array]], int]:
    count = whole_number(text)
    if count is None or not 1 <= count <= MAX_RANDOM:
        _fail("calibrate.random", f"random:{text} is not allowed", f"random:1 to random:{MAX_RANDOM}")
    generator = np.random.default_rng(SEED)
    return ({n: _drawn(generator, kind) for n, kind in inputs.items()} for _ in range(count)), count


def _drawn(generator: np.random.Generator, kind: TensorType) -> Array:
    """Normal numbers, or codes that are equally likely."""
    if kind.dtype is DType.F32:
        return generator.standard_normal(kind.shape, np.float32)
    low, high = kind.dtype.bounds
    return generator.integers(low, high, kind.shape, kind.dtype.numpy.type, endpoint=True)


def _fail(code: str, message: str, allowed: str = "", remedy: str = "") -> NoReturn:
    raise UsageError(Diagnostic(code, message, allowed=allowed, remedy=remedy))
