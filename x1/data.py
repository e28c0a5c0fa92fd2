"""Arrays that the user names: inputs, expected outputs, calibration data.

Of an .npz file, the array of an input's name counts, else the one called `inputs`, else the only
one; `labels` is never an input. Members are read a sample at a time, in constant memory.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from isa.diagnostics import Diagnostic, UsageError, did_you_mean
from isa.paths import is_file

LABELS: Final = "labels"
INPUTS: Final = "inputs"
SEED: Final = 2024
Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Member:
    """An array in a file, of which only the header has been read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    def read(self) -> Array:
        """All of it."""
        return np.concatenate(list(self.blocks(len(self)))) if self.shape else self._whole()

    def blocks(self, size: int) -> Iterator[Array]:
        """`size` entries along axis 0 at a time."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _opened(self.path, self.name) as file:
            _header(file, self.path)
            for start in range(0, len(self), size):
                count = min(size, len(self) - start)
                data = _exactly(file, count * row, self.path)
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def _whole(self) -> Array:
        with _opened(self.path, self.name) as file:
            _header(file, self.path)
            return np.frombuffer(_exactly(file, self.dtype.itemsize, self.path), self.dtype).reshape(())


def members(path: Path) -> dict[str, Member]:
    """The arrays of an .npy or .npz file.

    Raises:
        UsageError: no such file, or not such a file.
    """
    if not is_file(path):
        _fail("file.missing", f"there is no file '{path}'")
    if path.suffix == ".npy":
        names = [""]
    elif path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
        except zipfile.BadZipFile:
            _fail("data.format", f"'{path}' is not an .npz file")
    else:
        _fail("data.format", f"'{path}' is no kind of array file", ".npy, .npz")
    found: dict[str, Member] = {}
    for name in names:
        with _opened(path, name) as file:
            found[name] = Member(path, name, *_header(file, path))
        _require_bytes(found[name])
    return found


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


def labels(path: Path) -> Array:
    """The `labels` of an .npz file."""
    arrays = members(path)
    if LABELS not in arrays:
        _fail("data.labels", f"'{path}' has no array '{LABELS}'", ", ".join(sorted(arrays)))
    return arrays[LABELS].read()


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
            found[name] = Path(place)
        elif len(names) == 1 or place.endswith(".npz"):
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
    counts: dict[str, int] = {}
    for name, member in arrays.items():
        shape = tuple(shapes[name])
        if member.shape[1:] != shape[1:] or not member.shape or member.shape[0] % shape[0]:
            _fail(
                "data.shape",
                f"the array for '{name}' has the shape {list(member.shape)}",
                f"[N, {', '.join(map(str, shape[1:]))}] with N a multiple of {shape[0]}",
            )
        counts[name] = member.shape[0] // shape[0]
    if len(set(counts.values())) > 1:
        _fail("data.shape", f"the inputs have different numbers of samples: {counts}")
    return next(iter(counts.values()), 0)


def samples(arrays: Mapping[str, Member], shapes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Array]]:
    """Every run's inputs, in order."""
    sample_count(arrays, shapes)
    streams = {name: member.blocks(shapes[name][0]) for name, member in arrays.items()}
    while True:
        try:
            yield {name: next(stream) for name, stream in streams.items()}
        except StopIteration:
            return


def calibration(spec: str, shapes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Array]]:
    """Samples from `D.npz`, from a folder of such files, or `random:N`.

    Raises:
        UsageError: not such data.
    """
    if spec.startswith("random:"):
        return _random(spec.removeprefix("random:"), shapes)
    path = Path(spec)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".npy"))
        if not files:
            _fail("calibrate.empty", f"the folder '{spec}' has no .npz or .npy files")
        return (s for file in files for s in _from_file(file, shapes))
    return _from_file(path, shapes)


def _from_file(path: Path, shapes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Array]]:
    arrays = {name: input_member(path, name) for name in shapes}
    for name, member in arrays.items():
        if member.dtype != np.float32:
            _fail(
                "calibrate.dtype",
                f"the calibration data for '{name}' is {member.dtype}",
                "float32",
                "preprocess it as the network expects",
            )
    return samples(arrays, shapes)


def _random(text: str, shapes: Mapping[str, Sequence[int]]) -> Iterator[dict[str, Array]]:
    if not text.isdigit() or not 1 <= int(text) <= 100_000:
        _fail("calibrate.random", f"random:{text} is not allowed", "random:1 to random:100000")
    generator = np.random.default_rng(SEED)
    return (
        {n: generator.standard_normal(tuple(s), np.float32) for n, s in shapes.items()}
        for _ in range(int(text))
    )


def _fail(code: str, message: str, allowed: str = "", remedy: str = "") -> NoReturn:
    raise UsageError(Diagnostic(code, message, allowed=allowed, remedy=remedy))


def _opened(path: Path, name: str) -> IO[bytes]:
    if not name:
        return path.open("rb")
    try:
        return zipfile.ZipFile(path).open(f"{name}.npy")
    except (zipfile.BadZipFile, KeyError, NotImplementedError):
        _fail("data.format", f"'{path}' has no readable array '{name}'")


def _header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, fortran, dtype = read(file)
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):
        _fail("data.format", f"'{path}' is not a numpy array file")
    if fortran and len(shape) > 1:
        _fail("data.format", f"'{path}' is in Fortran order", "C order", "save np.ascontiguousarray(x)")
    if dtype.hasobject or dtype.names is not None:
        _fail("data.format", f"'{path}' holds {dtype}, not numbers")
    return shape, dtype


def _require_bytes(member: Member) -> None:
    """The file must hold what its header declares, before anything is allocated."""
    declared = math.prod(member.shape) * member.dtype.itemsize
    if member.name:
        with zipfile.ZipFile(member.path) as archive:
            held = archive.getinfo(f"{member.name}.npy").file_size
    else:
        held = member.path.stat().st_size
    if any(d < 0 for d in member.shape) or declared > held:
        _fail(
            "data.format", f"'{member.path}' declares the shape {list(member.shape)} and holds {held} bytes"
        )


def _exactly(file: IO[bytes], size: int, path: Path) -> bytes:
    try:
        data = file.read(size)
    except (zipfile.BadZipFile, EOFError, OSError):
        data = b""
    if len(data) != size:
        _fail("data.format", f"'{path}' ends before its array does")
    return data
