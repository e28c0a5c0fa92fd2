"""Graph outputs that are constants: the host is given them as they are, from every form of the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import x1
from isa.container import load, save
from isa.memory_map import Region
from isa.program import Program
from isa.support.diagnostics import BinaryError
from isa.support.records import replace
from tests import models
from tests.quantized_forms import FORMS, saved

REAL = np.array([[0.1, -2.5, np.inf]], np.float32)
WHOLE = np.array([1, 1 << 40], np.int64)
X = {"x": np.linspace(-1, 1, 24, dtype=np.float32).reshape(1, 3, 2, 4)}


def network() -> models.onnx.ModelProto:
    nodes = [
        models.node("Relu", "x", "y"),
        models.node("Identity", "real", "r"),
        models.node("Identity", "whole", "w"),
        models.node("Constant", "", "s", value_float=3.5),
        models.node("DequantizeLinear", "codes scale", "d"),
    ]
    constants = {
        "real": REAL, "whole": WHOLE, "codes": np.array([-3, 7], np.int8), "scale": np.array(0.5, np.float32),
    }  # fmt: skip
    return models.model(nodes, {"x": X["x"].shape}, "y r w s d", constants)


def returned(binary: x1.Binary | Program) -> list[object]:
    _, *constants = x1.Session(binary).run(None, X)
    return [(c.dtype.name, c.tolist()) for c in constants]


EXPECTED = [
    ("float32", REAL.tolist()), ("int64", WHOLE.tolist()), ("float32", 3.5), ("float32", [-1.5, 3.5]),
]  # fmt: skip


def test_the_host_is_given_them_as_they_are() -> None:
    binary = x1.compile(network(), calibrate=[X])
    assert returned(binary) == EXPECTED
    assert returned(load(binary.data)) == EXPECTED
    assert not x1.check(binary).violations
    assert x1.verify(network(), binary, calibrate=[X], inputs=X).succeeded


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_quantized_network_gives_them_too(form: str, tmp_path: Path) -> None:
    file = saved(network(), X, form, tmp_path)
    assert returned(x1.compile(file)) == EXPECTED
    assert x1.verify(file, inputs=X).succeeded


def test_a_network_of_nothing_else_compiles() -> None:
    made = models.model([models.node("Identity", "k", "y")], {}, "y", {"k": REAL})
    (given,) = x1.Session(x1.compile(made, calibrate=[{}])).run(None, {})
    assert given.tolist() == REAL.tolist()


def test_a_constant_beyond_its_region_or_of_another_type_is_refused() -> None:
    program = load(x1.compile(network(), calibrate=[X]).data)
    output, constant, *further = program.abi.outputs
    assert Region(constant.region) is Region.WEIGHTS
    for wrong in (
        replace(constant, offset=len(program.weights)),
        replace(constant, dtype="int64"),
        replace(constant, region=int(Region.ARENA)),
    ):
        spoilt = replace(program, abi=replace(program.abi, outputs=(output, wrong, *further)))
        with pytest.raises(BinaryError):
            load(save(spoilt))
