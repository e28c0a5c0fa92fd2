"""samples/asm/dense.x1s: a layer that learns on the machine, every word as a statement in numpy has it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from isa.assembly.assembler import assemble
from isa.assembly.disassembler import binary_of, disassemble
from isa.checker import check_executable
from isa.container import load_executable, save
from isa.executable import Executable
from isa.faults import MachineTrap
from isa.support.diagnostics import BinaryError, UsageError
from isa.support.records import replace
from runtime.devices import Devices
from runtime.executors.interleaved import InterleavedExecutor
from tests import command_line

FOLDER = Path(__file__).resolve().parents[2] / "samples" / "asm"
F = np.float32
WORDS = 4 * 128
"""Bytes of the weights in the state."""


def executable() -> Executable:
    return assemble((FOLDER / "dense.x1s").read_text(encoding="utf-8"), "dense.x1s").executable


def batch(generator: np.random.Generator) -> dict[str, NDArray[Any]]:
    return {
        "x": generator.integers(-128, 128, (8, 16)).astype(np.int8),
        "t": generator.integers(-4096, 4096, (8, 8)).astype(np.int32),
    }


def held(state: NDArray[np.uint8]) -> tuple[NDArray[np.float32], list[int]]:
    """Weights and words of a state region."""
    return state[:WORDS].view(F).reshape(16, 8).copy(), state[WORDS:].view(np.int32).tolist()


def exponent(values: NDArray[np.float32]) -> int:
    return max((int(np.abs(values).max().view(np.int32)) >> 23) - 133, -26)


def stated_step(
    w: NDArray[np.float32], words: list[int], x: NDArray[np.int8], t: NDArray[np.int32]
) -> tuple[NDArray[np.float32], list[int], NDArray[np.int8]]:
    """A step by the formulas, each float32 operation rounded once."""
    ew, ew_next, eg, eg_next, *_ = words
    w8 = np.clip(np.rint(w * F(2.0**-ew)), -127, 127).astype(np.int64)
    sums = x.astype(np.int64) @ w8
    ys, ts = sums.astype(F) * F(F(2.0**ew) * F(2.0**-7)), t.astype(F) * F(2.0**-12)
    r: NDArray[Any] = ys - ts
    g = np.clip(np.rint(r * F(2.0**-eg)), -127, 127).astype(np.int64)
    dw = x.astype(np.int64).T @ g
    moved: NDArray[Any] = w - dw.astype(F) * F(F(2.0**eg) * F(2.0**-11))
    seen = [int(np.abs(v).max().view(np.int32)) for v in (moved, r)]
    return moved, [ew_next, exponent(moved), eg_next, exponent(r), *seen], g.astype(np.int8)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_every_word_of_the_state_is_that_of_the_formulas(seed: int | None) -> None:
    generator = np.random.default_rng(5)
    device = Devices(executable(), executor=None if seed is None else InterleavedExecutor(seed))
    for _ in range(60 if seed is None else 8):
        given, (w, words) = batch(generator), held(device.states[0])
        expected_w, expected_words, expected_g = stated_step(w, words, **given)
        found = device.run("train", given).outputs["e"]
        w, words = held(device.states[0])
        np.testing.assert_array_equal(w, expected_w)
        np.testing.assert_array_equal(found, expected_g)
        assert words == expected_words


def test_the_layer_learns() -> None:
    done = subprocess.run(
        [sys.executable, str(FOLDER / "train_dense.py"), "400"], capture_output=True, text=True, check=True
    )
    errors = [float(line.split()[-1]) for line in done.stdout.splitlines()]
    assert errors[-1] < errors[0] / 100


def test_the_streams_are_checked_each_by_itself_and_a_missing_fence_is_found() -> None:
    whole = executable()
    assert not check_executable(whole).violations
    train, evaluate = whole.programs
    without = tuple(i for i in evaluate.instructions if i.mnemonic != "fence")
    spoilt = Executable((train, replace(evaluate, instructions=without)))
    found = check_executable(spoilt).violations
    assert found
    assert all(v.message.startswith("eval: ") for v in found)


def test_the_file_holds_both_streams_and_text_gives_it_back() -> None:
    whole = executable()
    data = save(whole)
    again = load_executable(data, "dense.x1")
    assert again.names == ("train", "eval")
    assert again.main.stream == "eval"
    assert save(again) == data
    assert binary_of(assemble(disassemble(again).text), "dense.x1s")[:4] == b"\x7fELF"
    for index in range(0, len(data), 97):
        with pytest.raises(BinaryError):
            load_executable(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])


def test_a_stream_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError) as refused:
        Devices(executable()).run("tail", {})
    assert "'tail'" in str(refused.value)


def test_a_step_that_traps_leaves_the_state_as_it_was() -> None:
    device = Devices(executable())
    device.states[0][:4] = np.array([np.nan], F).view(np.uint8)
    before = device.states[0].copy()
    with pytest.raises(MachineTrap) as trap:
        device.run("train", batch(np.random.default_rng(1)))
    assert trap.value.record.code == "FP_INVALID"
    np.testing.assert_array_equal(device.states[0], before)


def test_the_command_line_tells_the_streams_apart(tmp_path: Path) -> None:
    (tmp_path / "dense.x1s").write_bytes((FOLDER / "dense.x1s").read_bytes())
    np.save(tmp_path / "x.npy", np.full((8, 16), 64, np.int8))
    for line in ("asm dense.x1s -o d.x1", "check d.x1", "disasm d.x1 -d parts", "asm parts/d.x1s -o same.x1"):
        assert command_line.x1(line.split(), tmp_path).returncode == 0, line
    assert (tmp_path / "d.x1").read_bytes() == (tmp_path / "same.x1").read_bytes()
    train, evaluate = (
        command_line.x1(["profile", "d.x1", "--stream", name], tmp_path).stdout for name in ("train", "eval")
    )
    assert "update" in train
    assert "update" not in evaluate
    assert command_line.x1(["profile", "d.x1"], tmp_path).stdout == evaluate
    assert command_line.x1(["run", "d.x1", "--input", "@x.npy", "-o", "y.npz"], tmp_path).returncode == 0
    assert np.load(tmp_path / "y.npz")["y"].shape == (8, 8)
    text = command_line.x1(["disasm", "d.x1", "--stream", "train"], tmp_path).stdout
    assert ".stream train" in text
    assert ".stream eval" not in text
    wrong = command_line.x1(["check", "d.x1", "--stream", "tran"], tmp_path)
    assert wrong.returncode == 2
    assert "did you mean" in wrong.stderr
