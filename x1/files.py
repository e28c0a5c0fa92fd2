"""Files in and out: nothing half-written is ever left behind."""

from __future__ import annotations

import json
import os
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.support.diagnostics import Diagnostic, Findings, UsageError
from isa.support.paths import is_file, read_file, resolved

BINARY: Final = ".x1"
"""The ending of a binary's name."""
MAX_TENSOR_FILE: Final = 64
"""Bytes of the name of a tensor's file."""
WEIGHTS: Final = re.compile(r'^\s*weights\s+"([^"\n]+)"', re.MULTILINE)
"""How a network of the layer language names its weights."""


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a file by way of a temporary one beside it.

    Raises:
        UsageError: the folder does not exist or cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    write_with(path, lambda file: file.write(data))


def write_with(path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file, then give it its name; a link is followed, a device written to.

    Raises:
        UsageError: the place cannot be written.
    """
    if not str(path):
        raise UsageError(Diagnostic("file.write", "the name of the file to write is empty"))
    target = resolved(Path(path)) or Path(path)
    if _exists(target) and not target.is_file() and not target.is_dir():
        _write_into(target, path, write)
        return
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".x1-")  # names may be as long as can be
    except (OSError, ValueError) as error:
        raise _unwritable(path, error, remedy="choose a folder that exists and can be written") from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise _unwritable(path, error) from None
    finally:
        temporary.unlink(missing_ok=True)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _unwritable(path: str | Path, error: OSError | ValueError, remedy: str = "") -> UsageError:
    return UsageError(Diagnostic("file.write", f"cannot write '{path}': {_reason(error)}", remedy=remedy))


def _write_into(target: Path, path: str | Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write to what is no plain file, such as /dev/stdout, and cannot be replaced."""
    try:
        with target.open("wb") as file:
            write(file)
    except (OSError, ValueError) as error:
        raise _unwritable(path, error) from None


def require_another(output: str | Path | None, *inputs: str | Path | None) -> None:
    """An output must not be one of the files that it is made from: nor the data beside a model, nor samples.

    Raises:
        UsageError: it is.
    """
    if output is None:
        return
    place = resolved(Path(output))
    if place is None or not is_file(place):
        return  # nothing can be lost
    for given in inputs:
        if given is None:
            continue
        path = Path(given)
        if place == resolved(path):
            what = "is the input itself"
        elif place in {resolved(part) for part in parts_of(path, place)}:
            what = f"is part of '{given}'"
        else:
            continue
        raise UsageError(Diagnostic("file.same", f"'{output}' {what}", remedy="give another name with -o"))


def require_apart(first: str | Path | None, second: str | Path | None, what: str) -> None:
    """Two outputs must not be one file; `what` says what the two are.

    Raises:
        UsageError: they are.
    """
    if first and second and resolved(Path(first)) == resolved(Path(second)):
        raise UsageError(Diagnostic("file.same", f"'{first}' is to be {what}"))


def parts_of(path: Path, place: Path) -> Iterator[Path]:
    """Files that an input is made of besides itself, those that `place` may be among them.

    The samples of a folder, the weights that a network names, the external data of an ONNX model.
    """
    if path.is_dir():
        yield path / place.name
    elif is_file(path) and path.suffix == ".net":
        yield from (path.parent / name for name in WEIGHTS.findall(read_file(path).decode(errors="replace")))
    elif (
        is_file(path)
        and path.suffix == ".onnx"
        and place.is_relative_to(resolved(path.parent) or path.parent)
    ):
        from compiler.frontend.onnx_file import external_files  # noqa: PLC0415  (few commands ask)

        yield from (path.parent / name for name in external_files(path))


def require_unchanged(files: Mapping[Path, bytes]) -> None:
    """None of the files is there already with another content.

    Raises:
        UsageError: those that are.
    """
    found = Findings(UsageError)
    for path, content in files.items():
        if is_file(path) and (path.stat().st_size != len(content) or read_file(path) != content):
            text = f"'{path}' exists and holds something else"
            found.add("file.exists", text, remedy="choose another folder, or give --force")
    found.raise_if_any()


def write_arrays(path: str | Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz file; any name is allowed, and the same arrays give the same bytes."""

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, values in arrays.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)

    write_with(path, write)


def write_tensors(folder: Path, tensors: Mapping[str, NDArray[Any]], *sources: str | Path | None) -> None:
    """Write a folder of arrays, NNNN-name.npy, and manifest.json, which has the whole names.

    Args:
        folder: made where there is none.
        tensors: by name.
        sources: files that must not be overwritten.

    Raises:
        UsageError: a file would be one of the sources, or cannot be written.
    """
    make_folder(folder)
    rows: list[dict[str, object]] = []
    for number, (name, values) in enumerate(tensors.items()):
        file = folder / tensor_file(number, name)
        require_another(file, *sources)
        write_with(file, lambda f, values=values: np.save(f, values))
        rows.append({"name": name, "file": file.name, "dtype": values.dtype.name, "shape": values.shape})
    manifest = folder / "manifest.json"
    require_another(manifest, *sources)
    write_atomic(manifest, json.dumps({"tensors": rows}, indent=1) + "\n")


def tensor_file(number: int, name: str) -> str:
    """A file's name for a tensor of any name: the number makes it one of a kind."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("._-")
    head, tail = f"{number:04d}-", ".npy"
    return f"{head}{plain[-(MAX_TENSOR_FILE - len(head) - len(tail)) :] or 'tensor'}{tail}"


def make_folder(path: Path) -> None:
    """Make a folder where there is none.

    Raises:
        UsageError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise UsageError(
            Diagnostic("file.write", f"cannot make the folder '{path}': {_reason(error)}")
        ) from None
