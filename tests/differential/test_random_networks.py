"""Random ONNX networks of every operator, every tensor equal to ONNX Runtime's, on two machines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from compiler.rules.importing import ONNX_OPERATORS
from tests.copies import copied
from tests.random_run import run

BLOCK: Final = 10
OTHERWISE: Final = frozenset(
    # known when the model is read, or other forms of operators that are generated
    {"Shape", "Size", "ConstantOfShape", "Range", "Cast", "Where", "Equal", "Less", "Greater", "LessOrEqual"}
    | {"GreaterOrEqual", "And", "Or", "Not", "Mod", "Upsample", "QuantizeLinear", "DequantizeLinear"}
    | {"QLinearConv", "QLinearMatMul", "Gelu", "Swish"}
    # made of others as they are read: tests/kinds.py generates them
    | {"CastLike", "GroupNormalization", "InstanceNormalization", "LRN", "LayerNormalization", "LogSoftmax"}
    | {
        "LpNormalization",
        "MeanVarianceNormalization",
        "ReduceL1",
        "ReduceL2",
        "ReduceLogSum",
        "ReduceLogSumExp",
    }
    | {"ReduceSumSquare", "Xor"}
)


@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("target", ["edge32", "tiny8"])
def test_every_tensor_of_random_networks_equals_onnx_runtimes(block: int, target: str) -> None:
    first = (0 if target == "edge32" else 1000) + BLOCK * block
    tally = run(range(first, first + BLOCK), target, search=1)
    assert tally.different == []
    assert len(tally.refused) <= 1


@pytest.mark.nightly
def test_two_thousand_networks_equal_onnx_runtimes_and_hold_every_operator(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tallies = [run(range(1000), "edge32"), run(range(1000, 2100), "tiny8")]
    operators = tallies[0].operators + tallies[1].operators
    with capsys.disabled():
        lines = [f"{n:6} {name}" for name, n in sorted(operators.items(), key=lambda item: item[1])]
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert [d for t in tallies for d in t.different] == []
    assert sum(len(t.refused) for t in tallies) < 40
    wanted = {name for domain, name in ONNX_OPERATORS if not domain} - OTHERWISE
    assert {name: operators[name] for name in wanted if operators[name] < 50} == {}


PLANTED = {
    "convolution": ("convolution.py", "pt=window.top,", "pt=min(window.top + 1, 31),"),
    "depthwise": ("depthwise.py", "pl=window.left,", "pl=min(window.left + 1, 15),"),
    "pooling": ("pooling.py", "iw=window.columns.extent,", "iw=max(window.columns.extent - 1, 1),"),
    "softmax": ("pooling.py", "zo=node.quant.zero_point", "zo=node.quant.zero_point + 1"),
    "addition": ("elementwise.py", "aps=a.pixel_pitch,", "aps=max(a.pixel_pitch - 1, 0),"),
    "per channel": ("elementwise.py", "za=zero_of(node.inputs[0].type), zo=", "za=zero_of(node.inputs[0].type) - 1, zo="),
    "product": ("matrix.py", "ap=factors.left.pixel_pitch,", "ap=max(factors.left.pixel_pitch - 1, 0),"),
    "two computed operands": ("matrix.py", "other.ref, other.pixel_pitch, cols", "other.ref, max(other.pixel_pitch - 1, 0), cols"),
    "reduction": ("reduce.py", "h=h.extent,", "h=max(h.extent - 1, 1),"),
    "gather": ("depth_to_space.py", "run.start + span.start * run.step,", "max(run.start + span.start * run.step - 1, 0),"),
    "slice": ("moves.py", "return Span(min(ends), max(ends) + 1)", "return Span(max(min(ends) - 1, 0), max(*ends, 1))"),
    "depth to space": ("depth_to_space.py", "source.ref.shifted(by * bw * rest)", "source.ref.shifted(max(by * bw * rest - 1, 0))"),
}  # fmt: skip


@pytest.mark.nightly
@pytest.mark.parametrize("name", PLANTED)
def test_an_error_of_one_in_a_lowering_is_found_within_two_hundred_networks(
    name: str, tmp_path: Path
) -> None:
    file, right, wrong = PLANTED[name]
    root = Path(__file__).resolve().parents[2]
    copied(tmp_path)
    shutil.copytree(root / "samples", tmp_path / "samples")
    module = tmp_path / "compiler" / "schedule" / "tiles" / file
    text = module.read_text(encoding="utf-8")
    assert right in text
    module.write_text(text.replace(right, wrong), encoding="utf-8")
    command = [sys.executable, "-m", "tests.random_run", "0", "200", "edge32"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr[-2000:]
    assert " on edge32: " in done.stderr
