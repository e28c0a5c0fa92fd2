"""The Python API: what it takes, what it refuses in Python's words, and what its objects say of themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import x1
from isa.support.diagnostics import UsageError, X1Error
from tests import models
from x1.onnx_backend import X1Backend, prepare, run_model, run_node

SHAPE = (1, 3, 4, 4)
X = np.random.default_rng(0).standard_normal((5, *SHAPE[1:])).astype(np.float32)
anything: Any = x1


def network() -> models.onnx.ModelProto:
    nodes = [models.node("Conv", "x w", "c"), models.node("Relu", "c", "y")]
    w = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    return models.model(nodes, {"x": SHAPE}, "y", {"w": w})


def test_a_model_is_taken_as_a_file_a_proto_its_bytes_or_a_network(tmp_path: Path) -> None:
    proto = network()
    path = models.save(proto, tmp_path)
    given = (path, str(path), proto, proto.SerializeToString(), x1.quantize(proto, X))
    binaries = [x1.compile(g, calibrate=None if isinstance(g, x1.Model) else X) for g in given]
    outputs = {x1.Session(b).run(None, {"x": X[:1]})[0].tobytes() for b in binaries}
    assert len(outputs) == 1
    for g in given[:4]:
        assert x1.verify(g, calibrate=X, inputs=X[:2]).succeeded
    with pytest.raises(X1Error, match="a model in memory has no folder"):
        x1.compile(with_external_data(), calibrate=X)


def with_external_data() -> models.onnx.ModelProto:
    made = network()
    (tensor,) = made.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = models.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "w.bin"
    return made


def test_samples_are_taken_as_a_person_gives_them() -> None:
    made = network()
    each = [{"x": x[None]} for x in X]
    schemes = {
        str(x1.quantize(made, given, method="minmax").scheme and x1.quantize(made, given).calibration)
        for given in (X, {"x": X}, each, list(X[:, None]), [X[:2], {"x": X[2:], "other": X}])
    }
    assert schemes == {"mse on 5 samples"}
    assert x1.quantize(made, (s for s in each)).calibration == "mse on 5 samples"
    assert x1.verify(made, calibrate=X, inputs=X).samples == 5
    assert x1.verify(made, x1.compile(made, calibrate=X), X).succeeded  # quantized as the binary says


def test_a_binary_is_taken_as_a_file_its_bytes_or_itself(tmp_path: Path) -> None:
    binary = x1.compile(network(), calibrate=X)
    binary.save(tmp_path / "n.x1")
    forms = (binary, binary.data, tmp_path / "n.x1", str(tmp_path / "n.x1"))
    assert len({x1.profile(b).cycles for b in forms}) == 1
    assert not any(x1.check(b).violations for b in forms)
    assert len({x1.Session(b).run(None, {"x": X[:1]})[0].tobytes() for b in forms}) == 1


def test_what_is_of_no_use_is_refused_in_the_words_of_python() -> None:
    binary: Any = x1.compile(network(), calibrate=X, search=1)
    session: Any = x1.Session(binary)
    calls: list[tuple[Callable[[], Any], str]] = [
        (lambda: anything.compile(3), "a model is a path, an onnx.ModelProto"),
        (lambda: anything.compile(network(), target=3, calibrate=X), "a target is a name"),
        (lambda: anything.quantize(network(), 4), "samples are a file, arrays or an iterable"),
        (lambda: anything.quantize(network(), [4]), "a sample is an array or a dict"),
        (lambda: anything.profile({}), "a binary is a path, its bytes or an x1.Binary, not dict"),
        (lambda: session.run(None, X[:1]), "inputs are a dict of arrays by name, not ndarray"),
        (lambda: session.run("y", {"x": X[:1]}), "output_names is a list of names"),
        (lambda: anything.evaluate(network(), binary, X), "needs labels"),
    ]
    for call, message in calls:
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"y": X}, "no array for the input 'x'"),
        (X.astype(np.float64), "is float64"),
        (X[:, :2], "has the shape"),
    ],
)  # fmt: skip
def test_samples_that_do_not_fit_are_named(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        x1.quantize(network(), given)


def test_the_package_shows_what_it_is_for_and_every_object_is_one_short_line() -> None:
    assert dir(x1) == sorted((*x1.__all__, "keras"))
    model = x1.quantize(network(), X)
    binary = x1.compile(model)
    verified = x1.verify(model, binary, X[:1])
    profile = x1.profile(binary)
    session = x1.Session(binary)
    things = (model, binary, binary.program, verified, profile, profile.timelines[0], session, x1.check(binary),
              model.float_graph, model.scheme, model.integers().nodes()[0])  # fmt: skip
    for thing in things:
        assert len(repr(thing)) < 120
        assert "\n" not in repr(thing)
    assert repr(session) == "<Session on edge32: x tensor(float)[1, 3, 4, 4] -> y tensor(float)[1, 4, 2, 2]>"
    for shown in (profile, verified, binary):
        page = shown._repr_html_()  # pyright: ignore[reportPrivateUsage]
        assert page.startswith("<table><caption>")


def test_no_name_of_a_model_is_markup_in_a_notebook() -> None:
    made = models.model([models.node("Relu", "x", "y")], {"x": (1, 4)}, "y")
    made.graph.node[0].output[0] = made.graph.output[0].name = "<script>&\u202e"
    binary = x1.compile(made, calibrate="random:1")
    page = x1.profile(binary)._repr_html_()  # pyright: ignore[reportPrivateUsage]
    assert "&lt;script&gt;&amp;\\u202e" in page
    assert "<script" not in page


def test_the_backend_of_onnx_runs_models_and_nodes() -> None:
    made, sample = network(), X[:1]
    expected = x1.Session(x1.compile(made, calibrate=sample)).run(None, {"x": sample})[0]
    for given in ([sample], {"x": sample}, sample):
        assert (prepare(made).run(given)[0] == expected).all()
    assert (run_model(made, [sample])[0] == expected).all()
    assert (prepare(made, calibrate=sample, target="tiny8").run([sample])[0] == expected).all()
    (clipped,) = run_node(models.node("Clip", "x a b", "y"), [sample, np.float32(-1), np.float32(1)])
    assert np.abs(clipped - np.clip(sample, -1, 1)).max() < 0.02
    assert X1Backend.is_compatible(made)
    assert not X1Backend.supports_device("CUDA")


def test_the_backend_of_onnx_names_what_is_wrong() -> None:
    rep = prepare(models.model([models.node("Conv", "x w", "y")], {"x": SHAPE, "w": (4, 3, 3, 3)}, "y"))
    w = np.ones((4, 3, 3, 3), np.float32)
    rep.run([X[:1], w])
    for given, message in (
        ([X[:1], w + 1], "another value"),
        ([X[:1]], "input 'w' is missing"),
        ([X[:1], w, w], "3 inputs are given"),
        ({"x": X[:1], "v": w}, "there is no input 'v'"),
    ):
        with pytest.raises(UsageError, match=message):
            rep.run(given)
    with pytest.raises(UsageError, match="there is no device 'CUDA'"):
        prepare(network(), "CUDA")
    with pytest.raises(UsageError, match="did you mean 'calibrate'"):
        prepare(network(), calibrat=X)
    declared = models.model([models.node("Relu", "x", "y")], {"x": ("N", 3)}, "y")  # pyright: ignore[reportArgumentType]
    for given in (np.ones((2, 4), np.float32), np.ones(7, np.float32), np.ones((2, 3), np.int32)):
        with pytest.raises(UsageError, match="the input 'x'"):
            prepare(declared).run([given])
    assert prepare(declared).run([np.ones((2, 3), np.float32)])[0].shape == (2, 3)
    with pytest.raises(TypeError, match="not None"):
        prepare(network()).run([None])  # pyright: ignore[reportArgumentType]
    with pytest.raises(UsageError, match="1 inputs are given"):
        run_node(models.node("Add", "x z", "y"), [X])
    assert (run_node(models.node("Add", "x x", "y"), [X])[0] > 0).any()


def test_the_way_of_keras_is_part_of_the_package() -> None:
    """Without an import of its own."""
    code = "import x1; print(x1.keras.models.Sequential.__name__, 'keras' in dir(x1))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["Sequential", "True"]
