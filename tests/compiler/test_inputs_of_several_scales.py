"""A graph input that layers take with several scales: the host gives it once and quantizes it for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import x1
from isa.container import load, save
from isa.program import Program
from isa.support.diagnostics import BinaryError, UsageError
from isa.support.records import replace
from tests import command_line, models

GIVEN = np.linspace(-30, 30, 24, dtype=np.float32).reshape(1, 3, 2, 4)


def network() -> models.onnx.ModelProto:
    """Relu of x in steps of 0.1, the negative of x in steps of 0.2."""
    nodes: list[models.onnx.NodeProto] = []
    for n, layer in enumerate(("Relu", "Neg")):
        nodes += [
            models.node("QuantizeLinear", f"x s{n} z", f"q{n}"),
            models.node("DequantizeLinear", f"q{n} s{n} z", f"d{n}"),
            models.node(layer, f"d{n}", f"f{n}"),
            models.node("QuantizeLinear", f"f{n} s{n} z", f"g{n}"),
            models.node("DequantizeLinear", f"g{n} s{n} z", f"y{n}"),
        ]
    scales = {"s0": np.float32(0.1), "s1": np.float32(0.2), "z": np.int8(0)}
    return models.model(nodes, {"x": GIVEN.shape}, "y0 y1", scales)


def program() -> Program:
    return load(x1.compile(network()).data)


def test_the_host_gives_the_input_once() -> None:
    session = x1.Session(program())
    assert [a.name for a in session.get_inputs()] == ["x"]
    low, high = session.run(None, {"x": GIVEN})
    np.testing.assert_allclose(low, np.clip(GIVEN, 0, 12.7), atol=0.051)
    np.testing.assert_allclose(high, np.clip(-GIVEN, -25.4, 25.4), atol=0.101)
    with pytest.raises(UsageError) as refused:
        session.run(None, {})
    assert len(refused.value.diagnostics) == 1


def test_the_command_line_asks_for_it_once_and_inspect_tells_both_scales(tmp_path: Path) -> None:
    models.save(network(), tmp_path, "n.onnx")
    np.save(tmp_path / "x.npy", GIVEN)
    for line in ("compile n.onnx -o n.x1", "run n.x1 --input @x.npy", "verify n.onnx --input @x.npy"):
        assert command_line.x1(line.split(), tmp_path).returncode == 0
    text = command_line.x1(["inspect", "n.x1"], tmp_path).stdout
    assert all(f"on the device int8[1, 3, 2, 4], scale {s}, zero point 0\n" in text for s in ("0.1", "0.2"))


def test_rows_of_one_name_that_are_not_one_tensor_are_refused() -> None:
    made = program()
    first, second = made.abi.inputs
    for wrong in (
        replace(second, shape=second.shape[::-1]),
        replace(second, dtype="int8", scale_bits=None),
        replace(second, offset=first.offset),
    ):
        with pytest.raises(BinaryError):
            load(save(replace(made, abi=replace(made.abi, inputs=(first, wrong)))))
