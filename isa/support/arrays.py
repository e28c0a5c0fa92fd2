"""Arrays in .npy and .npz files, read with suspicion: sizes are checked before anything is allocated.

Of an array only the header is read at first; its values come a few entries at a time, in constant
memory.
"""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, NoReturn

import numpy as np
from numpy.typing import NDArray

from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.paths import require_file
from isa.support.records import Frozen

MAX_BYTES: Final = 1 << 32
"""An array that is read as a whole has at most so many bytes."""
MAX_MEMBERS: Final = 1 << 16
MAX_RANK: Final = 32
_UNREADABLE: Final = (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile and zlib raise on files that are damaged, encrypted or compressed in other ways."""
_UNPARSABLE: Final = (TypeError, SyntaxError, MemoryError, RecursionError, tokenize.TokenError)
"""What numpy's parser of headers, which is Python's own, raises besides."""
Array = NDArray[Any]


class Member(Frozen):
    """An array in a file, of which only the header has been read; `name` is empty in an .npy file."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __len__(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def size(self) -> int:
        """Bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self) -> Array:
        """All of it.

        Raises:
            UsageError: it is damaged, or larger than 4 GiB.
        """
        if self.size > MAX_BYTES:
            _fail("data.size", f"an array of '{self.path}' has {self.size} bytes", f"at most {MAX_BYTES}")
        with _opened(self.path, self.name) as file:
            _header(file, self.path)
            return np.frombuffer(_exactly(file, self.size, self.path), self.dtype).reshape(self.shape)

    def blocks(self, size: int) -> Iterator[Array]:
        """`size` entries along axis 0 at a time."""
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        with _opened(self.path, self.name) as file:
            _header(file, self.path)
            for start in range(0, len(self), size):
                count = min(size, len(self) - start)
                data = _exactly(file, count * row, self.path)
                yield np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])


def members(path: Path) -> dict[str, Member]:
    """The arrays of an .npy or .npz file.

    Raises:
        UsageError: no such file, or not such a file.
    """
    require_file(path)
    if path.suffix == ".npy":
        names = [""]
    elif path.suffix == ".npz":
        try:
            with zipfile.ZipFile(path) as archive:
                names = [n.removesuffix(".npy") for n in archive.namelist() if n[1:].endswith(".npy")]
        except _UNREADABLE:
            _fail("data.format", f"'{path}' is not an .npz file")
        if len(names) > MAX_MEMBERS or len(set(names)) != len(names):
            _fail("data.format", f"'{path}' holds two arrays of one name, or more than {MAX_MEMBERS}")
    else:
        _fail("data.format", f"'{path}' is no kind of array file", ".npy, .npz")
    found: dict[str, Member] = {}
    for name in names:
        with _opened(path, name) as file:
            found[name] = Member(path, name, *_header(file, path))
        _require_bytes(found[name])
    return found


def _fail(code: str, message: str, allowed: str = "", remedy: str = "") -> NoReturn:
    raise UsageError(Diagnostic(code, message, allowed=allowed, remedy=remedy)) from None


def _opened(path: Path, name: str) -> IO[bytes]:
    try:
        return zipfile.ZipFile(path).open(f"{name}.npy") if name else path.open("rb")
    except _UNREADABLE:
        _fail("data.format", f"'{path}' has no readable array '{name}'")


def _header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[
            version
        ]
        shape, fortran, dtype = read(file)
    except (*_UNREADABLE, *_UNPARSABLE):
        _fail("data.format", f"'{path}' is not a numpy array file")
    if fortran and len(shape) > 1:
        _fail("data.format", f"'{path}' is in Fortran order", "C order", "save np.ascontiguousarray(x)")
    if dtype.hasobject or dtype.names is not None or dtype.itemsize == 0 or len(shape) > MAX_RANK:
        _fail("data.format", f"'{path}' holds {dtype}, not numbers")
    return shape, dtype


def _require_bytes(member: Member) -> None:
    """The file must hold what its header declares, before anything is allocated."""
    if member.name:
        with zipfile.ZipFile(member.path) as archive:
            held = archive.getinfo(f"{member.name}.npy").file_size
    else:
        held = member.path.stat().st_size
    if any(d < 0 for d in member.shape) or member.size > held:
        _fail(
            "data.format", f"'{member.path}' declares the shape {list(member.shape)} and holds {held} bytes"
        )


def _exactly(file: IO[bytes], size: int, path: Path) -> bytes:
    try:
        data = file.read(size)
    except _UNREADABLE:
        data = b""
    if len(data) != size:
        _fail("data.format", f"'{path}' ends before its array does, or is damaged")
    return data
