"""Array files that are damaged or lie: refused, whatever was done to them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from isa.support.arrays import members
from isa.support.diagnostics import UsageError


def archive(*, compressed: bool) -> bytes:
    file = io.BytesIO()
    arrays = {
        "a": np.arange(60, dtype=np.float32).reshape(3, 4, 5),
        "b": np.zeros((0, 4)),
        "c": np.float64(3),
    }
    (np.savez_compressed if compressed else np.savez)(file, **arrays)  # pyright: ignore[reportArgumentType]  (numpy's stub)
    return file.getvalue()


def read_all(path: Path) -> dict[str, np.ndarray]:
    return {name: member.read() for name, member in members(path).items()}


@pytest.mark.parametrize("compressed", [False, True])
def test_sound_archives_are_read(compressed: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(archive(compressed=compressed))
    found = read_all(path)
    np.testing.assert_array_equal(found["a"], np.arange(60, dtype=np.float32).reshape(3, 4, 5))
    assert found["b"].shape == (0, 4)
    assert found["c"] == 3
    blocks = list(members(path)["a"].blocks(2))
    assert [b.shape for b in blocks] == [(2, 4, 5), (1, 4, 5)]


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_archives_are_read_or_refused_and_nothing_else(compressed: bool, tmp_path: Path) -> None:
    whole = archive(compressed=compressed)
    generator = np.random.default_rng(1)
    refused = 0
    path = tmp_path / "x.npz"
    for _ in range(1500):
        content = bytearray(whole)
        for place in generator.integers(0, len(content), int(generator.integers(1, 4))):
            content[place] = int(generator.integers(0, 256))
        path.write_bytes(
            content[: int(generator.integers(0, len(content)))] if generator.random() < 0.2 else content
        )
        try:
            read_all(path)
        except UsageError:
            refused += 1
    assert refused > 500


@pytest.mark.parametrize(
    "header", ["{'descr': '<f4', 'fortran_order': False, 'shape': (", "(" * 20_000, "{'a'", "'''", "None"]
)
def test_headers_that_are_no_dictionary_are_refused(header: str, tmp_path: Path) -> None:
    raw = header.encode().ljust(118) + b"\n"
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00" + len(raw).to_bytes(4, "little") + raw)
    with pytest.raises(UsageError, match="is not a numpy array file"):
        members(path)
