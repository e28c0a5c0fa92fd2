"""Graph outputs that are graph inputs: the host gives them back as they came, from every form of the network."""

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
from tests import command_line, models
from tests.quantized_forms import FORMS, saved

SHAPE = (1, 3, 2, 4)
READ = np.linspace(-1, 1, 24, dtype=np.float32).reshape(SHAPE)
UNREAD = np.array([[np.nan, np.inf, -0.0, 1e-40, 1e38]], np.float32)
CODES = np.array([[-128, 0, 127]], np.int8)
GIVEN = {"x": READ, "u": UNREAD, "k": CODES}
EXPECTED = [v.tobytes() for v in (READ, UNREAD, UNREAD, CODES, READ)]


def network() -> models.onnx.ModelProto:
    """A layer reads x; nothing reads u and k."""
    nodes = [
        models.node("Relu", "x", "y"),
        models.node("Identity", "x", "a"),
        models.node("Identity", "u", "b"),
        models.node("Identity", "u", "c"),
        models.node("Identity", "k", "d"),
    ]
    made = models.model(nodes, {"x": SHAPE, "u": UNREAD.shape, "k": CODES.shape}, "y a b c d x")
    kinds = {"k": models.onnx.TensorProto.INT8, "d": models.onnx.TensorProto.INT8}
    for value in (*made.graph.input, *made.graph.output):
        if value.name in kinds:
            value.type.tensor_type.elem_type = kinds[value.name]
    return made


def returned(binary: x1.Binary | Program) -> list[bytes]:
    _, *given = x1.Session(binary).run(None, GIVEN)
    return [v.tobytes() for v in given]


def test_the_host_gives_them_back_bit_for_bit() -> None:
    binary = x1.compile(network(), calibrate=[GIVEN])
    assert returned(binary) == EXPECTED
    assert returned(load(binary.data)) == EXPECTED
    assert not x1.check(binary).violations
    checked = x1.verify(network(), binary, calibrate=[GIVEN], inputs=GIVEN)
    assert checked.succeeded
    assert {"a", "b", "c", "d", "x"} <= {t.name for t in checked.tensors}


def test_no_layer_copies_them() -> None:
    alone = models.model([models.node("Relu", "x", "y")], {"x": SHAPE}, "y")
    same = x1.compile(network(), calibrate=[GIVEN]).program.instructions
    assert len(same) == len(x1.compile(alone, calibrate=[{"x": READ}]).program.instructions)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_quantized_network_gives_them_back_too(form: str, tmp_path: Path) -> None:
    file = saved(network(), GIVEN, form, tmp_path)
    assert returned(x1.compile(file)) == EXPECTED
    assert x1.verify(file, inputs=GIVEN).succeeded


def test_a_network_of_the_dsl_may_return_its_input(tmp_path: Path) -> None:
    (tmp_path / "n.net").write_text("model n\ninput x: float32[1, 4]\noutput x\n", encoding="utf-8")
    x = np.array([[1.5, -2.25, np.inf, 0.1]], np.float32)
    (given,) = x1.Session(x1.compile(tmp_path / "n.net", calibrate=[{"x": x}])).run(None, {"x": x})
    assert given.tobytes() == x.tobytes()


def test_verify_finds_a_binary_that_gives_back_another_input() -> None:
    made = models.model(
        [models.node("Identity", "u", "a"), models.node("Identity", "v", "b")],
        {"u": (1, 4), "v": (1, 4)},
        "a b",
    )
    given = {n: np.arange(4, dtype=np.float32)[None] + i for i, n in enumerate("uv")}
    program = load(x1.compile(made, calibrate=[given]).data)
    a, b = program.abi.outputs
    crossed = (replace(b, name="a"), replace(a, name="b"))
    spoilt = save(replace(program, abi=replace(program.abi, outputs=crossed)))
    assert not x1.verify(made, spoilt, calibrate=[given], inputs=given).succeeded


def test_a_returned_row_that_is_no_input_is_refused() -> None:
    program = load(x1.compile(network(), calibrate=[GIVEN]).data)
    y, a, *further = program.abi.outputs
    assert Region(a.region) is Region.INPUT
    for wrong in (
        replace(a, offset=a.offset + 1),
        replace(a, shape=a.shape[::-1]),
        replace(a, region=int(Region.ARENA)),
    ):
        spoilt = replace(program, abi=replace(program.abi, outputs=(y, wrong, *further)))
        with pytest.raises(BinaryError):
            load(save(spoilt))


def test_inspect_tells_which_outputs_are_inputs(tmp_path: Path) -> None:
    (tmp_path / "b.x1").write_bytes(x1.compile(network(), calibrate=[GIVEN]).data)
    text = command_line.x1(["inspect", "b.x1"], tmp_path).stdout
    assert "output a: float32[1, 3, 2, 4], the input x as it came\n" in text
    assert "output c: float32[1, 5], the input u as it came\n" in text
