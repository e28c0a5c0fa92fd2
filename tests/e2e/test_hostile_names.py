"""Names of models are written so that no terminal, graph or spreadsheet does anything but show them."""

from __future__ import annotations

import csv
import itertools
import json
import unicodedata
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from isa.support.diagnostics import one_line
from tests import models
from tests.command_line import x1

RAW: Final = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of characters that are never written as they are."""
PIECES: Final = (
    *("\x1b[31m", "\r", "\n", "\t", "\x07", "\x7f", "\x85", "\u202e", "\u2066", "\u200b", "\ufeff", "\u2028"),
    *("\u2029", "\U000e0041", "=1+1", "@cmd", "+1", "-1", '"', "'", "\\", "\\n", "]}", "{", "<b>", "%s", ","),
    *(";", "é", "層", "😀", "a", "conv", " ", "/", "..", "\u0301", "#", "|", "`", "$(x)", "&amp;"),
)
LAYERS: Final = 100


def hostile(generator: np.random.Generator, least: int = 1) -> str:
    """A name of some pieces, and now and then any characters, surrogates left out: UTF-8 has none."""
    chosen = generator.integers(len(PIECES), size=generator.integers(least, 6))
    pieces = [PIECES[int(i)] for i in chosen]
    if generator.integers(4) == 0:
        pieces += [chr(int(p)) for p in generator.integers(1, 0xD800, 3)]
        pieces += [chr(int(p)) for p in generator.integers(0xE000, 0x110000, 2)]
    return "".join(pieces)


def raw_in(text: str) -> set[str]:
    """What must not stand in a text; its own line ends may."""
    return {c for c in text if unicodedata.category(c) in RAW and c != "\n"}


def network(seed: int, folder: Path) -> Path:
    """A hundred layers whose tensors and nodes have hostile names."""
    generator = np.random.default_rng(seed)
    names = list(dict.fromkeys(f"{hostile(generator)}{i}" for i in range(LAYERS + 1)))
    nodes: list[models.onnx.NodeProto] = []
    for i, (before, after) in enumerate(itertools.pairwise(names)):
        made = models.node("Relu" if i % 2 else "Sigmoid", "x", "y")
        made.input[0], made.output[0], made.name = before, after, hostile(generator)
        nodes.append(made)
    made = models.model(nodes, {names[0]: (1, 4)}, "y")
    made.graph.output[0].name = names[-1]
    made.graph.name = hostile(generator)
    return models.save(made, folder, f"{seed}.onnx")


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.nightly)])
def test_the_one_function_that_writes_names_writes_no_raw_character(count: int) -> None:
    generator = np.random.default_rng(count)
    for _ in range(count):
        name = hostile(generator)
        written = one_line(name)
        assert not raw_in(written)
        assert "\n" not in written
        assert written == name or not name.isprintable()
    assert one_line("\ud800") == "\\ud800"


def test_a_function_that_lets_one_character_pass_is_found() -> None:
    """A planted fault: the check must be able to fail."""
    generator = np.random.default_rng(1)
    assert any(raw_in(one_line(hostile(generator)) + "\u2066") for _ in range(10))
    assert any(raw_in(hostile(generator)) for _ in range(100))


@pytest.mark.parametrize("seed", [0, *(pytest.param(s, marks=pytest.mark.nightly) for s in range(1, 10))])
def test_no_command_writes_a_raw_character_of_a_name(seed: int, tmp_path: Path) -> None:
    path = network(seed, tmp_path)
    np.save(tmp_path / "x.npy", np.linspace(-1, 1, 4, dtype=np.float32).reshape(1, 4))
    binary, table = tmp_path / "n.x1", tmp_path / "l.csv"
    sample = "@" + str(tmp_path / "x.npy")
    for words in (
        ["inspect", str(path)],
        ["inspect", str(path), "--supported"],
        ["inspect", str(path), "--format", "dot"],
        ["compile", str(path), "--calibrate", "random:1", "--search", "1", "-o", str(binary)],
        ["compile", str(path), "--calibrate", "random:1", "--search", "1", "--emit", "asm"],
        ["inspect", str(binary)],
        ["inspect", str(binary), "--format", "dot"],
        ["disasm", str(binary)],
        ["check", str(binary)],
        ["profile", str(binary), "--csv", str(table)],
        ["run", str(binary), "--input", sample, "--dump-tensors", str(tmp_path / "t")],
        ["verify", str(path), "--calibrate", "random:1", "--input", sample],
    ):
        done = x1(words, tmp_path)
        assert done.returncode == 0, (words, done.stderr)
        assert not raw_in(done.stdout + done.stderr), words
    names = _names(x1(["profile", str(binary), "--json"], tmp_path).stdout)
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(names) == LAYERS
    for row, name in zip(rows, names, strict=True):
        assert not raw_in(row["name"])
        assert "\n" not in row["name"]
        assert not row["name"].startswith(("=", "+", "-", "@", "\t"))
        assert row["name"] == one_line(name) or row["name"] == f"'{one_line(name)}"
    assert len(set(names)) == LAYERS  # JSON keeps them apart, as they are


def _names(text: str) -> list[str]:
    assert text.isascii()
    return [layer["name"] for layer in json.loads(text)["per_layer"]]
