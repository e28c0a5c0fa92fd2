"""The programs of docs/assembly.md and samples/asm are sound, and compute what they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from isa.assembly.assembler import assemble
from isa.assembly.disassembler import binary_of
from isa.checker import check
from isa.container import load
from isa.program import Program
from runtime.session import ProgramSession

REPOSITORY = Path(__file__).resolve().parents[2]
GUIDE = (REPOSITORY / "docs" / "assembly.md").read_text(encoding="utf-8")
PROGRAMS = [b for b in re.findall(r"```\n(.*?)```", GUIDE, re.DOTALL) if b.startswith(".isa")]


def binary(text: str, folder: Path) -> Program:
    return load(binary_of(assemble(text, "guide.x1s", folder)))


def test_the_first_program_copies(tmp_path: Path) -> None:
    program = binary(PROGRAMS[0], tmp_path)
    assert check(program).violations == ()
    a = np.arange(16, dtype=np.int8)[None]
    np.testing.assert_array_equal(ProgramSession(program).run(None, {"a": a})[0], a)


def test_without_its_token_the_first_program_is_rejected_as_shown(tmp_path: Path) -> None:
    report = check(binary(PROGRAMS[0].replace("wait(0) ", ""), tmp_path)).violations
    assert "\n".join(f"instruction {v.pc}: {v.rule}: {v.message}" for v in report) in GUIDE
    assert len(report) == 2


def test_the_second_program_negates_through_a_table(tmp_path: Path) -> None:
    program = binary(PROGRAMS[1], tmp_path)
    assert check(program).violations == ()
    a = np.arange(-32, 32, dtype=np.int8).reshape(1, 2, 4, 8)
    np.testing.assert_array_equal(ProgramSession(program).run(None, {"a": a})[0], -1 - a)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the samples, with the network of the stem made again."""
    folder = Path(shutil.copytree(REPOSITORY / "samples" / "asm", tmp_path_factory.mktemp("samples") / "asm"))
    subprocess.run([sys.executable, "make_stem.py"], cwd=folder, check=True, capture_output=True,
                   env={"PYTHONPATH": str(REPOSITORY), "PATH": ""})  # fmt: skip
    return folder


def test_the_stem_by_hand_has_the_bytes_of_its_compiled_twin(samples: Path) -> None:
    import x1

    for name in ("stem_weights.bin", "stem_params.bin"):
        assert (samples / name).read_bytes() == (REPOSITORY / "samples" / "asm" / name).read_bytes()
    by_hand = binary((samples / "stem.x1s").read_text(encoding="utf-8"), samples)
    assert check(by_hand).violations == ()
    twin = x1.compile(
        samples / "stem.onnx",
        "edge32",
        calibrate=samples / "stem_calibration.npz",
        method="minmax",
        bias_correction=False,
    )
    x = np.random.default_rng(3).uniform(-0.2, 1.2, (1, 3, 224, 224)).astype(np.float32)
    outputs = [ProgramSession(p).run(None, {"x": x})[0].tobytes() for p in (by_hand, twin.program)]
    assert outputs[0] == outputs[1]


def test_the_edges_are_those_of_the_picture(samples: Path) -> None:
    program = binary((samples / "edges.x1s").read_text(encoding="utf-8"), samples)
    assert check(program).violations == ()
    picture = np.zeros((1, 16, 16, 1), np.int8)
    picture[0, 4:12, 4:12] = 100
    padded = np.pad(picture[0, ..., 0].astype(int), 1)
    expected = (
        4 * padded[1:-1, 1:-1] - padded[:-2, 1:-1] - padded[2:, 1:-1] - padded[1:-1, :-2] - padded[1:-1, 2:]
    )
    (edges,) = ProgramSession(program).run(None, {"picture": picture})
    np.testing.assert_array_equal(edges[0, ..., 0], np.clip(expected, 0, 127))
