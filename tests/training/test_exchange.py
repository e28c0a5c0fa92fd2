"""Models of real Keras: what Keras has written is read, and computes what Keras has computed."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.ir.evaluate import evaluate
from isa.support.diagnostics import UsageError, X1Error
from x1.keras import from_keras, to_keras
from x1.keras.models import Model

Array = NDArray[Any]
PLACE = Path(__file__).resolve().parents[1] / "golden" / "training" / "keras"
NAMES = ("functional", "sequential", "mobile")


class Real:
    """Stands for a model of real Keras: its configuration and its weights."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.config: dict[str, Any] = json.loads((PLACE / f"{name}.json").read_text())
        with np.load(PLACE / f"{name}.npz") as file:
            self.weights: list[Array] = [file[f"w{i}"] for i in range(len(file.files) - 2)]
            self.x, self.y = file["x"], file["y"]
        self.loss, self.optimizer = "sparse_categorical_crossentropy", {"name": "rmsprop"}

    def get_config(self) -> dict[str, Any]:
        return self.config

    def get_weights(self) -> list[Array]:
        return self.weights

    def set_weights(self, weights: list[Array]) -> None:
        assert [w.shape for w in weights] == [w.shape for w in self.weights]
        self.weights = weights


def predictions(model: Model, x: Array) -> Array:
    network = model.network()
    given = {network.source.name: x[:1], **model.parameters()}
    rows = [evaluate(network.graph, {**given, network.source.name: row[None]}) for row in x]
    return np.concatenate([r[network.graph.outputs[0].id] for r in rows])


@pytest.mark.parametrize("name", NAMES)
def test_a_model_of_keras_computes_what_it_did_there(name: str) -> None:
    real = Real(name)
    made = from_keras(real)
    np.testing.assert_allclose(predictions(made, real.x), real.y, atol=1e-6)
    assert made.optimizer.chosen.name == "rmsprop"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_keras_is_the_same_model(name: str) -> None:
    pytest.importorskip("h5py")
    made, real = from_keras(PLACE / f"{name}.keras"), Real(name)
    for one, other in zip(made.get_weights(), real.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert made.loss is not None


@pytest.mark.parametrize("name", ["functional", pytest.param("mobile", marks=pytest.mark.nightly)])
def test_weights_go_back_in_the_order_of_keras(name: str) -> None:
    real = Real(name)
    made = from_keras(real)
    made.fit(real.x, np.arange(8) % 3, batch_size=4, epochs=1, verbose=0)
    to_keras(made, real)
    for one, other in zip(made.get_weights(), real.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_allclose(predictions(from_keras(real), real.x), predictions(made, real.x))


def changed(**config: Any) -> Real:
    real = Real("sequential")
    real.config["layers"][1]["config"] |= config
    return real


def test_what_the_device_has_not_is_named() -> None:
    for config, text in (
        ({"kernel_regularizer": {"class_name": "L2"}}, "kernel_regularizer"),
        ({"data_format": "channels_first"}, "data_format"),
    ):
        with pytest.raises(UsageError, match=text):
            from_keras(changed(**config))
    real = Real("sequential")
    real.config["layers"][2]["class_name"] = "LSTM"
    with pytest.raises(UsageError, match="is a LSTM"):
        from_keras(real)


@pytest.mark.parametrize("kind", ["text", "empty", "weights"])
def test_files_that_are_no_models_are_refused(kind: str, tmp_path: Path) -> None:
    place = tmp_path / "net.keras"
    place.write_bytes(b"nothing")
    if kind != "text":
        with zipfile.ZipFile(place, "w") as archive, zipfile.ZipFile(PLACE / "sequential.keras") as real:
            if kind == "weights":
                archive.writestr("config.json", real.read("config.json"))
                archive.writestr("model.weights.h5", b"nothing")
    with pytest.raises(UsageError):
        from_keras(place)


def at(*path: Any, value: Any) -> Callable[[Any], None]:
    """A change of a configuration at a place."""

    def changed_at(config: Any) -> None:
        for step in path[:-1]:
            config = config[step]
        config[path[-1]] = value

    return changed_at


CONFIG_CHANGES: dict[str, Callable[[Any], None]] = {
    "layers that are a number": at("config", "layers", value=3),
    "a layer that is a text": at("config", "layers", 1, value="Conv2D"),
    "a layer without options": at("config", "layers", 1, "config", value=None),
    "a shape that is a text": at("config", "layers", 0, "config", "batch_shape", value="abc"),
    "a shape that is a number": at("config", "layers", 0, "config", "batch_shape", value=5),
    "gigantic weights": at("config", "layers", 1, "config", "filters", value=1 << 40),
    "filters that are a text": at("config", "layers", 1, "config", "filters", value="many"),
    "another number of filters": at("config", "layers", 1, "config", "filters", value=7),
    "clipping by a text": at("compile_config", "optimizer", "config", "clipvalue", value="1"),
    "a learning rate that is a text": at("compile_config", "optimizer", "config", "learning_rate", value="x"),
    "smoothed labels": at("compile_config", "loss", value={"class_name": "CategoricalCrossentropy",
                                                             "config": {"label_smoothing": 0.1}}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIG_CHANGES)
def test_a_file_of_keras_whose_configuration_is_none_is_refused(name: str, tmp_path: Path) -> None:
    place = tmp_path / "net.keras"
    with zipfile.ZipFile(place, "w") as archive, zipfile.ZipFile(PLACE / "sequential.keras") as real:
        config = json.loads(real.read("config.json"))
        CONFIG_CHANGES[name](config)
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", real.read("model.weights.h5"))
    with pytest.raises(X1Error):
        from_keras(place)
