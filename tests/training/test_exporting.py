"""Trained networks as ONNX: ONNX Runtime computes every tensor of the device, and the float network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from compiler.ir.evaluate import evaluate
from compiler.train.exporting.integers import to_integers
from compiler.train.exporting.real import to_float32
from compiler.train.network import TrainableNetwork, rebatched
from compiler.train.step import evaluation
from tests.training.nets import graph_of
from tests.training.test_keras import X, Y, model
from tests.training.test_steps import NETS, Trained

Array = NDArray[Any]
PERM = (0, 1, 2, 3)


def session(made: onnx.ModelProto, extra: tuple[str, ...] = ()) -> Any:
    ort = pytest.importorskip("onnxruntime")
    made = onnx.ModelProto.FromString(made.SerializeToString())
    for name in extra:
        made.graph.output.append(onnx.ValueInfoProto(name=name))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("name", NETS)
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
    codes = [
        n
        for n in step.graph.nodes()
        if n.type.dtype.is_code and n.op.name not in ("input", "t.quantize_weights")
    ]
    sums = [n for n in step.graph.nodes() if n.op.name == "t.dense_sums"]
    names = tuple(n.name for n in (*codes, *sums))
    made = session(to_integers(network, trained.state, PERM), names)
    found = dict(zip(names, made.run(list(names), {"input": x / np.float32(255)}), strict=True))
    for node in (*codes, *sums):
        np.testing.assert_array_equal(found[node.name], values[node.id], node.name)


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


def test_a_model_writes_both_forms_and_a_binary_of_inference(tmp_path: Path) -> None:
    made = model()
    made.fit(X, Y, epochs=1, verbose=0)
    for form in ("float32", "qoperator"):
        made.export(tmp_path / f"{form}.onnx", form)
        loaded = onnx.ModelProto.FromString((tmp_path / f"{form}.onnx").read_bytes())
        name = loaded.graph.input[0].name
        found = session(loaded).run(None, {name: X[:8]})[0]
        assert (found.argmax(axis=1) == made.predict(X[:8]).argmax(axis=1)).mean() >= 0.75
    binary = made.compile_inference(X[:4])
    assert binary.program.abi.inputs[0].shape == (1, 28, 28, 1)
