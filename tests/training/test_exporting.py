"""Trained networks as ONNX: ONNX Runtime computes every tensor of the device, and the float network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import x1.lab.trained as trained_module
from compiler.codegen.training import generate_streams
from compiler.ir.evaluate import evaluate
from compiler.ir.graph import Graph
from compiler.schedule.options import schedule_options
from compiler.train.exporting.integers import device_codes, to_integers
from compiler.train.exporting.real import to_float32
from compiler.train.network import TrainableNetwork, rebatched
from compiler.train.step import evaluation, is_activation
from isa.program import Note
from isa.target import load_target
from runtime.devices import Devices
from tests.training.nets import graph_of
from tests.training.test_keras import FEW, X, model
from tests.training.test_steps import NETS, Trained
from x1.lab.trained import compare_trained

Array = NDArray[Any]
PERM = (0, 1, 2, 3)
BY_DAY = [
    name
    if name in ("mission", "residual", "curved", "normalized")
    else pytest.param(name, marks=pytest.mark.nightly)
    for name in NETS
]


def session(made: onnx.ModelProto, extra: tuple[str, ...] = ()) -> Any:
    ort = pytest.importorskip("onnxruntime")
    made = onnx.ModelProto.FromString(made.SerializeToString())
    for name in extra:
        made.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", BY_DAY)
def test_every_tensor_of_the_device_is_that_of_onnx_runtime(name: str) -> None:
    trained = Trained(NETS[name])
    for _ in range(3):
        trained.one()
    graph, logits, parameters = graph_of(NETS[name], trained.weights, 1)
    graph.set_outputs([logits], ["logits"])
    network = TrainableNetwork(graph, logits, parameters)
    x = np.random.default_rng(1).integers(0, 256, (4, 28, 28, 1)).astype(np.uint8)
    step = evaluation(rebatched(network, 4))
    values = evaluate(step.graph, {**trained.state, "input": x})
    codes = [n for n in step.graph.nodes() if is_activation(n)]
    sums = [n for n in step.graph.nodes() if n.op.name == "t.dense_sums"]
    names = tuple(n.name for n in (*codes, *sums))
    made = session(to_integers(network, trained.state, PERM), names)
    found = dict(zip(names, made.run(list(names), {"input": x / np.float32(255)}), strict=True))
    for node in codes:
        found[node.name] = device_codes(found[node.name], node.type.dtype)
    for node in (*codes, *sums):
        np.testing.assert_array_equal(found[node.name], values[node.id], node.name)
    machine = load_target("edge32")
    streams = {"eval": step}
    binary, _ = generate_streams(streams, trained.state, machine, schedule_options(3), Note(), search=False)
    got = Devices(binary).session("eval").execute({"input": x}, tensors=True)
    assert not got.incomplete
    assert set(got.tensors) == {n.name for n in codes} - {"padded"}
    for tensor, codes_of_it in got.tensors.items():
        np.testing.assert_array_equal(codes_of_it, found[tensor], tensor)
    np.testing.assert_array_equal(got.outputs["probabilities"], values[step.graph.outputs[0].id])


@pytest.mark.parametrize("name", NETS)
def test_the_float_network_has_the_weights_of_training(name: str) -> None:
    trained = Trained(NETS[name])
    graph, logits, parameters = graph_of(NETS[name], trained.weights, 1)
    graph.set_outputs([logits], ["logits"])
    network = TrainableNetwork(graph, logits, parameters)
    x = np.random.default_rng(1).uniform(0, 1, (1, 28, 28, 1)).astype(np.float32)
    given = {name: trained.state[name] for name in parameters}
    expected = evaluate(graph, {"input": x, **given})[logits.id]
    (found,) = session(to_float32(network, given, PERM)).run(None, {"input": x})
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_shift_that_is_another_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """In what ONNX Runtime is given, then in what the evaluator is given."""
    pytest.importorskip("onnxruntime")
    made = model()
    made.fit(**FEW)
    assert compare_trained(made, X[:8]).succeeded

    def changed(state: dict[str, Array]) -> dict[str, Array]:
        return {n: v - 1 if n.endswith("/shift") else v for n, v in state.items()}

    def other_integers(network: TrainableNetwork, state: dict[str, Array], perm: tuple[int, ...]) -> Any:
        return to_integers(network, changed(state), perm)

    def other_values(graph: Graph, given: dict[str, Array]) -> Any:
        return evaluate(graph, changed(given))

    with monkeypatch.context() as planted:
        planted.setattr(trained_module, "to_integers", other_integers)
        found = compare_trained(made, X[:8])
        assert found.first_divergence == "conv2d/y"
        assert found.mismatches > 0 == found.evaluator_mismatches
    with monkeypatch.context() as planted:
        planted.setattr(trained_module, "evaluate", other_values)
        found = compare_trained(made, X[:8])
        assert found.mismatches == 0 < found.evaluator_mismatches
        assert {t.name for t in found.tensors if t.differs} >= {"conv2d/y", "probabilities"}


def test_a_model_writes_both_forms_and_a_binary_of_inference(tmp_path: Path) -> None:
    made = model()
    made.fit(**FEW)
    for form in ("float32", "qoperator"):
        made.export(tmp_path / f"{form}.onnx", form)
        loaded = onnx.ModelProto.FromString((tmp_path / f"{form}.onnx").read_bytes())
        name = loaded.graph.input[0].name
        found = session(loaded).run(None, {name: X[:8]})[0]
        assert (found.argmax(axis=1) == made.predict(X[:8]).argmax(axis=1)).mean() >= 0.75
    binary = made.compile_inference(X[:4])
    assert binary.program.abi.inputs[0].shape == (1, 28, 28, 1)
