"""Odd models, each of which was wrong once: masks, old operator sets, single numbers, constants, sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from compiler.errors import CompileError
from compiler.ir.evaluate import outputs
from compiler.ir.printer import print_graph
from isa.container import load
from isa.container import save as save_program
from isa.support.diagnostics import BinaryError
from isa.support.records import replace
from tests.models import model, node, save, verified
from x1 import api
from x1.binary import Binary
from x1.lab.verification import verify
from x1.session import Session


def test_sums_of_masked_scores_above_all_others_are_left_out() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (8, 8)).astype(np.float32)
    x[:, 4:] += 50
    mask = np.array([0] * 4 + [-np.inf] * 4, np.float32)
    made = model(
        [node("Add", "x m", "s"), node("Softmax", "s", "y", axis=-1)], {"x": (8, 8)}, "y", {"m": mask}
    )
    (got,) = Session(api.compile(made, calibrate=[{"x": x}])).run(None, {"x": x})
    expected = np.exp(x[:, :4])
    assert (
        np.abs(got[:, :4] - expected / expected.sum(axis=1, keepdims=True)).max() < 0.05
    )  # a step of the scores is 0.2
    assert not got[:, 4:].any()


def test_long_rows_that_a_mask_leaves_out_keep_no_probability() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (1024, 1024)).astype(np.float32)
    mask = np.where(np.tri(1024, dtype=np.bool_), np.float32(0), np.float32(-np.inf)).astype(np.float32)
    made = model(
        [node("Add", "x m", "s"), node("Softmax", "s", "y", axis=-1)], {"x": x.shape}, "y", {"m": mask}
    )
    network = api.quantize(made, [{"x": x}])
    assert outputs(network.integers(), {"x": x})["y"][0, 0] > 0.99


def test_a_mask_behind_a_product_is_no_bias() -> None:
    w = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    mask = np.array([0] * 4 + [-1e4] * 4, np.float32)
    nodes = [node("MatMul", "x w", "p"), node("Add", "p m", "s"), node("Softmax", "s", "y", axis=-1)]
    made = model(nodes, {"x": (3, 4)}, "y", {"w": w, "m": mask})
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    (got,) = Session(api.compile(made, calibrate=[{"x": x}])).run(None, {"x": x})
    expected = np.exp(x @ w[:, :4])
    assert np.abs(got[:, :4] - expected / expected.sum(axis=1, keepdims=True)).max() < 0.05


def test_operands_of_old_operator_sets_lie_along_their_axis() -> None:
    x = np.array([[[0.2] * 3, [0.7] * 3, [1.5] * 3]], np.float32)
    k = np.array([0.5, 1, 1], np.float32)
    for op, expected in (("Pow", x ** k[:, None]), ("Greater", x > k[:, None]), ("Less", x < k[:, None])):
        nodes = [node(op, "x k", "t", broadcast=1, axis=1)]
        nodes += [node("Cast", "t", "y", to=1)] if op != "Pow" else [node("Identity", "t", "y")]
        made = model(nodes, {"x": x.shape}, "y", {"k": k}, opset=6)
        (got,) = Session(api.compile(made, calibrate=[{"x": x}])).run(None, {"x": x})
        assert np.abs(got - expected).max() < 0.02, op


def test_networks_without_inputs_and_of_single_numbers_verify(tmp_path: Path) -> None:
    nothing = model([node("Identity", "k", "y")], {"x": (2, 3)}, "y", {"k": np.ones(3, np.float32)})
    number = model([node("Relu", "x", "y")], {"x": ()}, "y")
    for made, data in ((nothing, {"x": np.ones((2, 3), np.float32)}), (number, {"x": np.ones((), np.float32)}),
                       (number, {"x": np.ones(2, np.float32)})):  # fmt: skip
        body = verified(save(made, tmp_path), tmp_path, data, calibrate=True)
        assert body["exit_code"] == 0, body
    body = verified(save(number, tmp_path), tmp_path, {"x": np.ones((2, 3), np.float32)}, calibrate=True)
    assert body["exit_code"] == 2
    two = model([node("Mul", "x s", "y")], {"x": (2, 3), "s": ()}, "y")
    data = {"x": np.ones((4, 3), np.float32), "s": np.ones(2, np.float32)}
    assert verified(save(two, tmp_path), tmp_path, data, calibrate=True)["samples"] == 2
    assert api.quantize(two, data).calibration == "mse on 2 samples"


def test_a_constant_of_a_binary_that_is_changed_is_found() -> None:
    made = model([node("Relu", "x", "y"), node("Identity", "k", "c")], {"x": (1, 4)}, "y c",
                 {"k": np.array([1.5, 2], np.float32)})  # fmt: skip
    sample = {"x": np.ones((1, 4), np.float32)}
    network = api.quantize(made, [sample])
    binary = api.compile(network)
    weights = binary.program.weights.replace(
        np.array([1.5, 2], "<f4").tobytes(), np.array([9, 9], "<f4").tobytes()
    )
    spoilt = Binary(replace(binary.program, weights=weights), b"")
    assert verify(network, binary, [sample]).succeeded
    assert verify(network, spoilt, [sample]).first_divergence == "c"


def test_one_value_under_several_names_gives_a_binary_that_loads(tmp_path: Path) -> None:
    made = model([node("Relu", "x", "y"), node("Identity", "k", "c"), node("Identity", "c", "d")],
                 {"x": (1, 4)}, "y c d", {"k": np.ones(2, np.float32)})  # fmt: skip
    graph = api.quantize(made, "random:1").integers()
    graph.set_outputs([graph.outputs[0], *graph.outputs[1:2] * 2], ["y", "c", "d"])
    (tmp_path / "q.x1ir").write_text(print_graph(graph, blobs=True), encoding="utf-8")
    binary = Binary(load(api.compile(tmp_path / "q.x1ir").data), b"")
    assert [t.name for t in binary.program.abi.outputs] == ["y", "c", "d"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (node("AveragePool", "x", "y", kernel_shape=[4, 4], dilations=[3, 3]), "does not fit|padding alone"),
        (node("AveragePool", "x", "y", kernel_shape=[1 << 20, 1 << 20], dilations=[2, 2]), "does not fit|padding alone|allowed"),
        (node("Split", "x", "y", axis=1, num_outputs=0), "num_outputs=0"),
        (node("Split", "x", "y", axis=1, num_outputs=1 << 40), "num_outputs="),
        (node("Constant", "", "y", value_float=1.0), "has no output"),
        (node("Mod", "a b", "y"), "too large"),
        (node("Reshape", "e s", "y", allowzero=1), "not allowed"),
    ],
)  # fmt: skip
def test_odd_nodes_are_refused_by_name(made: onnx.NodeProto, message: str, tmp_path: Path) -> None:
    if made.op_type == "Constant":
        del made.output[:]
    constants = {
        "a": np.ones((100_000, 1), np.int64), "b": np.ones((1, 100_000), np.int64),
        "e": np.zeros((0, 2), np.float32), "s": np.array([1 << 62, 1 << 62, 0]),
    }  # fmt: skip
    whole = model([made, node("Relu", "x", "z")], {"x": (1, 2, 7, 7)}, "z y", constants)
    with pytest.raises(CompileError, match=message):
        api.load_network(save(whole, tmp_path))


def test_a_binary_whose_empty_output_has_a_gigantic_extent_is_refused() -> None:
    made = model([node("Relu", "x", "y"), node("Slice", "x f f a", "c")], {"x": (1, 4)}, "y c",
                 {"f": np.array([4]), "a": np.array([1])})  # fmt: skip
    program = api.compile(made, calibrate="random:1").program
    first, second = program.abi.outputs
    wrong = replace(second, shape=(1 << 62, 0), device_shape=(1, 1, 1 << 62, 0))
    with pytest.raises(BinaryError):
        load(save_program(replace(program, abi=replace(program.abi, outputs=(first, wrong)))))
