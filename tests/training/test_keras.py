"""The way of Keras: the listing runs, resumes to the bit, and refuses what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import x1.keras
from isa.container import save
from isa.executable import Executable
from isa.instructions.control import Halt
from isa.program import Program
from isa.support.diagnostics import BinaryError, X1Error
from isa.target import load_target
from x1.keras import losses, optimizers
from x1.keras.callbacks import Callback
from x1.keras.layers import (
    Add,
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Flatten,
    GlobalAveragePooling2D,
    GlobalMaxPooling2D,
    Input,
    MaxPooling2D,
    PReLU,
    ReLU,
    Reshape,
    Softmax,
    UpSampling2D,
    ZeroPadding2D,
)
from x1.keras.loading import load
from x1.keras.models import Model, Sequential
from x1.keras.trainable import Trainable
from x1.lab.trained import compare_trained
from x1.trainer import state_sha256

Array = NDArray[Any]
DIGITS = np.load(Path(__file__).resolve().parents[2] / "samples" / "mnist" / "digits.npz")
X, Y = DIGITS["inputs"][:96], DIGITS["labels"][:96]
LOSS = "sparse_categorical_crossentropy"
FEW: dict[str, Any] = {"x": X[:16], "y": Y[:16], "batch_size": 8, "verbose": 0}
"""What to fit where more would only take longer."""


def model(filters: int = 4, **chosen: Any) -> Sequential:
    made = Sequential(
        [
            Conv2D(filters, (3, 3), activation="relu", input_shape=(28, 28, 1)),
            MaxPooling2D((2, 2)),
            Flatten(),
            Dense(10, activation="softmax"),
        ]
    )
    made.compile(**{"optimizer": "adam", "loss": LOSS, "metrics": ["accuracy"], **chosen})
    return made


def hash_of(trained: Trainable) -> str:
    """Of the state that training has left."""
    assert trained.trainer is not None
    return state_sha256(trained.trainer.state)


def test_the_listing_learns_digits(capsys: pytest.CaptureFixture[str]) -> None:
    made = model(optimizer=optimizers.Adam(0.01))
    history = made.fit(X, Y, epochs=6, batch_size=16, validation_split=0.25, verbose=1, device="/device:X1")
    assert set(history.history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history.history["loss"][-1] < history.history["loss"][0] / 2
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "Epoch 1/6"
    assert shown[1].startswith("5/5 - ")
    assert " - loss: " in shown[1]
    loss, accuracy = made.evaluate(X, Y)
    assert loss < 1
    assert accuracy > 0.75
    assert made.predict(X[:3]).shape == (3, 10)


def test_a_functional_model_is_the_same_model() -> None:
    given = Input((28, 28, 1))
    made = Conv2D(4, 3, activation="relu")(given)
    made = Dense(10, activation="softmax")(Flatten()(MaxPooling2D()(made)))
    functional, sequential = Model(given, made), model()
    functional.compile(optimizer="adam", loss=LOSS)
    weights = sequential.get_weights()
    for each in (functional, sequential):
        each.set_weights(weights)
        each.fit(**FEW)
    for one, other in zip(functional.get_weights(), sequential.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_maximum_of_an_image_is_a_pooling_by_parts() -> None:
    """26 rows are pooled by 13 and by 2; where two values are equal the first part has the error."""
    ends = [GlobalMaxPooling2D()], [MaxPooling2D((13, 13)), MaxPooling2D((2, 2)), Flatten()]
    whole, parts = (
        Sequential([Input((28, 28, 1)), Conv2D(6, 3), *end, Dense(10, activation="softmax")]) for end in ends
    )
    weights = whole.get_weights()
    for each in (whole, parts):
        each.set_weights(weights)
        each.compile(optimizer="adam", loss=LOSS)
        each.fit(**FEW)
    for one, other in zip(whole.get_weights(), parts.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_resumes_to_the_bit(tmp_path: Path) -> None:
    through, first = model(), model()
    given: dict[str, Any] = {**FEW, "batch_size": 6}  # with a tail of 4
    through.fit(**given, epochs=3)
    first.fit(**given, epochs=1)
    first.save(tmp_path / "first.x1")
    second = x1.keras.load(tmp_path / "first.x1")
    second.fit(**given, epochs=3, initial_epoch=second.epochs)
    for name, each in (("a.x1", through), ("b.x1", second)):
        each.save(tmp_path / name)
    assert (tmp_path / "a.x1").read_bytes() == (tmp_path / "b.x1").read_bytes()
    np.testing.assert_array_equal(through.predict(X[:5]), second.predict(X[:5]))


def test_the_order_within_a_batch_changes_no_bit() -> None:
    hashes: set[str] = set()
    for order in (np.arange(12), np.random.default_rng(1).permutation(12)):
        made = model()
        made.fit(X[:12][order], Y[:12][order], epochs=2, batch_size=12, verbose=0, shuffle=False)
        hashes.add(hash_of(made))
    assert len(hashes) == 1


def test_bits_do_not_depend_on_the_machine() -> None:
    hashes: set[str] = set()
    for target in ("edge16", "edge32", "edge64"):
        made = model()
        made.fit(**FEW, target=target)
        hashes.add(hash_of(made))
    assert len(hashes) == 1


def test_frozen_layers_stay_as_they_are() -> None:
    made = model()
    made.layers[0].trainable = False
    before = made.get_weights()
    made.fit(**FEW)
    after = made.get_weights()
    for index in (0, 1):
        np.testing.assert_array_equal(after[index], before[index])
    assert (after[2] != before[2]).any()


def test_callbacks_are_any_objects_with_their_methods() -> None:
    class Stops(Callback):
        epochs = 0

        def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
            assert {"loss", "accuracy"} <= set(logs)
            self.epochs = epoch + 1
            self.model.stop_training = True

    class Counts:
        batches = 0

        def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
            del logs
            self.batches = batch + 1

    stops, counts = Stops(), Counts()
    made = model()
    made.fit(**FEW, epochs=5, callbacks=[stops, counts])
    assert (stops.epochs, counts.batches) == (1, 2)


def test_options_of_keras_that_change_no_result_may_be_given() -> None:
    made = model(run_eagerly=False, jit_compile="auto", steps_per_execution=4)
    made.fit(**FEW, validation_data=(X[:4], Y[:4]), validation_batch_size=2)
    plain = model()
    plain.fit(**FEW)
    assert hash_of(made) == hash_of(plain)


def test_a_learning_rate_may_change_between_epochs() -> None:
    class Halves(Callback):
        def on_epoch_begin(self, epoch: int, logs: dict[str, float]) -> None:
            del epoch, logs
            self.model.optimizer.learning_rate = self.model.optimizer.learning_rate / 2

    plain, halved = model(), model()
    plain.fit(**FEW)
    halved.fit(**FEW, callbacks=[Halves()])
    assert (plain.get_weights()[0] != halved.get_weights()[0]).any()
    assert halved.optimizer.learning_rate == 0.0005


def test_a_class_counts_as_its_samples_do(tmp_path: Path) -> None:
    """On the device, in the loss that is shown, and in training that goes on from a file."""
    plain, by_class, by_sample = model(), model(), model()
    x, y = FEW["x"], FEW["y"]
    one = int(y[0])
    each = np.where(y == one, 2.5, 1.0)
    plain.fit(**FEW, epochs=2)
    by_class.fit(**FEW, epochs=2, class_weight={one: 2.5})
    by_sample.fit(**FEW, sample_weight=each)
    by_sample.save(tmp_path / "m.x1")
    resumed = x1.keras.load(tmp_path / "m.x1")
    resumed.fit(**FEW, epochs=2, initial_epoch=1, sample_weight=each)
    assert hash_of(by_class) == hash_of(resumed) != hash_of(plain)
    loss, accuracy = resumed.evaluate(x, y, sample_weight=each)
    alike, same = resumed.evaluate(x, y)
    (of_the_class, _), share = resumed.evaluate(x[y == one], y[y == one]), (y == one).mean()
    assert accuracy == same
    assert loss == pytest.approx(alike + 1.5 * share * of_the_class)


HALF: Any = 32.5
NOTHING: Any = []
WRONG: dict[str, Callable[[Sequential], object]] = {
    "label": lambda m: m.fit(X, np.where(np.arange(96) == 7, 10, Y), verbose=0),
    "nan": lambda m: m.fit(np.where(np.arange(96)[:, None, None, None] == 5, np.nan, X), Y, verbose=0),
    "shape": lambda m: m.fit(X[:, :27], Y, verbose=0),
    "count": lambda m: m.fit(X, Y[:90], verbose=0),
    "batch": lambda m: m.fit(X, Y, batch_size=97, verbose=0),
    "device": lambda m: m.fit(X, Y, device="/device:GPU:0", verbose=0),
    "split": lambda m: m.fit(X, Y, validation_split=1.5, verbose=0),
    "one-hot": lambda m: m.fit(X, np.eye(10)[Y], verbose=0),
    "optimizer": lambda m: m.compile(optimizer="adan", loss=LOSS),
    "option": lambda m: m.compile(optimizer={"name": "adam", "amsgrad": True}, loss=LOSS),
    "loss": lambda m: m.compile(loss="hinge"),
    "memory": lambda m: m.fit(X, Y, target=load_target("edge32", ["dram.size=100000"])),
    "end": lambda m: m.compile(loss="mse") or m.fit(X, X[:, 0, :10, 0]),
    "metric": lambda m: m.compile(loss=LOSS, metrics=["auc"]),
    "weights": lambda m: m.set_weights(m.get_weights()[:3]),
    "logits": lambda m: m.compile(loss=losses.SparseCategoricalCrossentropy(from_logits=True)) or m.fit(X, Y),
    "window": lambda _: trained(Conv2D(2, 1), MaxPooling2D(17, strides=1), Flatten(), Dense(10), Softmax()),
    "stride": lambda _: trained(Conv2D(2, 3, strides=9), Flatten(), Dense(10, activation="softmax")),
    "whole": lambda m: m.fit(X, Y, batch_size=HALF),
    "rate": lambda m: m.compile(optimizer=optimizers.Adam("fast"), loss=LOSS),
    "no optimizer": lambda m: m.compile(optimizer=None, loss=LOSS),
    "epochs": lambda m: m.fit(X, Y, epochs=-1, steps_per_epoch=0, validation_freq=0, seed=-1),
    "nothing": lambda m: m.evaluate(X[:0], Y[:0]),
    "smoothing": lambda m: m.compile(
        loss={"class_name": "SparseCategoricalCrossentropy", "config": {"ignore_class": 0}}
    ),
    "clip": lambda m: m.compile(optimizer={"name": "adam", "clipvalue": -1}, loss=LOSS),
    "weights-both": lambda m: m.fit(X, Y, class_weight={0: 2}, sample_weight=np.ones(96)),
    "weights-count": lambda m: m.fit(X, Y, sample_weight=np.ones(95)),
    "weights-below": lambda m: m.fit(X, Y, sample_weight=-np.ones(96)),
    "weights-class": lambda m: m.fit(X, Y, class_weight={10: 2.0}),
    "weights-list": lambda m: m.fit(**FEW, class_weight=NOTHING),
    "weights-nan": lambda m: m.set_weights([np.full_like(w, np.nan) for w in m.get_weights()]),
    "split-text": lambda m: m.fit(**FEW, validation_split=NOTHING),
    "no device": lambda m: m.fit(**FEW, device=NOTHING),
    "huge": lambda m: m.fit(X * 1e30, Y),
    "denormal": lambda m: m.fit(X * 1e-42, Y),
    "compile": lambda m: m.compile("adam", LOSS, loss_weights=[2]),
    "nested": lambda m: Sequential([m, Dense(3)]),
    "layer": lambda m: m(Input((28, 28, 1))),
    "initializer": lambda _: Dense(3, kernel_initializer="orthogonal"),
    "validation": lambda m: m.fit(X, Y, validation_data=(X,)),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str, golden: Any) -> None:
    with pytest.raises(X1Error) as caught:
        WRONG[name](model())
    golden(f"training/refused/{name}.txt", "\n".join(d.render() for d in caught.value.diagnostics) + "\n")


def every_kind() -> Model:
    """A small network of layers that keep kernels or rows of their own kinds."""
    layers = [
        Conv2D(4, 3, strides=2, activation="relu"),
        Conv2D(4, 3, groups=2),
        BatchNormalization(),
        PReLU(shared_axes=[1, 2]),
        DepthwiseConv2D(3, depth_multiplier=2, padding="same", strides=2),
        AveragePooling2D(2, padding="same"),
        Flatten(),
        PReLU(),
        Dense(10, activation="softmax"),
    ]
    made = Sequential([Input((12, 12, 1)), *layers])
    made.compile("adam", LOSS, ["accuracy"])
    return made


def test_training_goes_on_from_a_file_with_every_kind_of_kernel(tmp_path: Path) -> None:
    made = every_kind()
    x, y = X[:16, 8:20, 8:20], Y[:16]
    made.fit(x, y, batch_size=4, verbose=0, bn_group=2)
    made.save(tmp_path / "net.x1")
    again = load(tmp_path / "net.x1")
    assert again.evaluate(x, y) == made.evaluate(x, y)
    for model in (made, again):
        model.fit(x, y, batch_size=4, epochs=2, initial_epoch=1, verbose=0)
    assert again.content() == made.content()


def test_weights_from_elsewhere_are_evaluated_and_trained_on_where_they_were() -> None:
    """Without a step here first; with the shifts of a first step the errors of the next would be noise."""
    made, other = model(), model()
    history = made.fit(X, Y, epochs=6, batch_size=16, verbose=0).history
    other.set_weights(made.get_weights())
    (loss, accuracy), (wanted, hits) = other.evaluate(X, Y), made.evaluate(X, Y)
    assert hits > 0.35
    assert abs(accuracy - hits) < 0.03
    assert abs(loss - wanted) < 0.1
    assert other.evaluate(X, Y) == [loss, accuracy]
    assert other.codes is None
    first = other.fit(X, Y, epochs=1, batch_size=16, verbose=0).history
    assert first["loss"][0] < history["loss"][-1] + 0.1


@pytest.mark.nightly
def test_running_statistics_are_those_of_the_last_weights() -> None:
    """Exact ones make training and evaluation agree after few steps; those of Keras lag behind."""
    losses: dict[str, float] = {}
    for statistics in ("exact", "running"):
        layers = [Conv2D(4, 5, strides=3), BatchNormalization(), ReLU(), Flatten()]
        made = Sequential([Input((28, 28, 1)), *layers, Dense(10, activation="softmax")])
        made.compile(optimizers.Adam(0.01), LOSS)
        history = made.fit(X, Y, epochs=3, verbose=0, bn_statistics=statistics)
        losses[statistics] = made.evaluate(X, Y) - history.history["loss"][-1]
    assert losses["exact"] < 0 < losses["running"], losses


@pytest.mark.parametrize("form", ["binary_crossentropy", "mean_squared_error"])
def test_other_losses_are_learned_saved_and_evaluated(form: str, tmp_path: Path) -> None:
    binary = form == "binary_crossentropy"
    layers = [Conv2D(8, 3, strides=2, activation="relu"), Flatten()]
    made = Sequential([Input((28, 28, 1)), *layers, Dense(1, activation="sigmoid" if binary else None)])
    made.compile("adam", form, ["accuracy"] if binary else None)
    target = (Y > 4).astype(np.float32) if binary else X.mean(axis=(1, 2, 3))
    history = made.fit(X, target, epochs=4, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert made.predict(X[:3]).shape == (3, 1)
    made.save(tmp_path / "net.x1")
    assert load(tmp_path / "net.x1").evaluate(X, target) == made.evaluate(X, target)


def test_a_binary_without_training_is_refused(tmp_path: Path) -> None:
    program = Program(load_target("edge32"), (Halt(),))
    (tmp_path / "net.x1").write_bytes(save(Executable((program,), "")))
    with pytest.raises(BinaryError, match="holds no training"):
        x1.keras.load(tmp_path / "net.x1")


def trained(*layers: Any, shape: tuple[int, ...] = (28, 28, 1), epochs: int = 1, **chosen: Any) -> Sequential:
    """A network on the digits, in that shape."""
    made = Sequential([Input(shape), *layers])
    made.compile(**{"optimizer": "adam", "loss": LOSS, "metrics": ["accuracy"], **chosen})
    made.fit(**{**FEW, "x": FEW["x"].reshape(-1, *shape)}, epochs=epochs)
    return made


def test_layers_have_the_weights_of_training() -> None:
    made = trained(Conv2D(2, 3, strides=2), Flatten(), Dense(10, activation="softmax"))
    layer = made.layers[0]
    np.testing.assert_array_equal(layer.get_weights()[0], made.get_weights()[0])
    layer.set_weights([np.zeros_like(w) for w in layer.get_weights()])
    assert not made.get_weights()[0].any()
    assert made.get_weights()[2].any()
    made.fit(**FEW)
    grown = Sequential([Input((28, 28, 1)), *made.layers[:-1], Dense(4)])
    np.testing.assert_array_equal(grown.get_weights()[1], made.get_weights()[1])


def test_a_relu_may_stand_anywhere(tmp_path: Path) -> None:
    layers = [ReLU(), Conv2D(3, 3), MaxPooling2D(2), ReLU(), AveragePooling2D(2), ReLU(), Flatten(), ReLU()]
    made = trained(*layers, Dense(12, activation="relu"), Dense(10, activation="relu"), Softmax())
    assert compare_trained(made, X[:8]).succeeded
    made.save(tmp_path / "m.x1")
    assert hash_of(x1.keras.load(tmp_path / "m.x1")) == hash_of(made)


def test_slopes_that_begin_at_0_do_not_hold_training_up() -> None:
    """What is below 0 is then far smaller than what is above, and so are its errors."""
    made = Sequential([Input((28, 28, 1)), Conv2D(8, 3, strides=2), PReLU(shared_axes=[1, 2]), Flatten()])
    made.add(Dense(10, activation="softmax"))
    made.compile(optimizers.Adam(0.003), LOSS)
    history = made.fit(X[:64], Y[:64], batch_size=16, epochs=5, verbose=0).history
    assert history["loss"][-1] < 1.6


def test_samples_may_become_images_in_the_network() -> None:
    flat = trained(
        Reshape((28, 28, 1)), Conv2D(2, 3), Flatten(), Dense(10, activation="softmax"), shape=(28, 28)
    )
    whole = trained(Conv2D(2, 3), Flatten(), Dense(10, activation="softmax"))
    assert flat.predict(X[:4, ..., 0]).shape == whole.predict(X[:4]).shape
    assert compare_trained(flat, X[:8, ..., 0]).succeeded


def test_errors_of_a_function_that_several_layers_read_are_summed() -> None:
    """By a shift of their own, not by the exponent that functions want of their operands."""
    given = Input((28, 28, 1))
    curved = Conv2D(4, 3, strides=2, activation="tanh")(given)
    result = Dense(10, activation="softmax")(GlobalAveragePooling2D()(Concatenate()([curved, curved])))
    made = Model(given, result)
    made.compile(optimizers.SGD(0.5), LOSS)
    before = made.get_weights()
    made.fit(**FEW)
    assert (before[0] != made.get_weights()[0]).all()


def test_what_a_call_does_not_settle_stays_open() -> None:
    """Codes of samples come from training; options of a call that was refused are not kept."""
    made, other = model(), model()
    made.predict(np.zeros((1, 28, 28, 1), np.float32))
    with pytest.raises(X1Error):
        made.fit(X, Y, bn_group=100, seed=9, verbose=0)
    for each in (made, other):
        each.fit(**FEW)
    assert hash_of(made) == hash_of(other)


def test_nested_arguments_and_sums_of_three_come_back_from_files(tmp_path: Path) -> None:
    given = Input((28, 28, 1))
    padded = ZeroPadding2D(((1, 2), (0, 3)))(given)
    total = Add()([Conv2D(2, 3, strides=2)(padded) for _ in range(3)])
    made = Model(
        given, Dense(10, activation="softmax")(Flatten()(UpSampling2D(2, interpolation="nearest")(total)))
    )
    made.compile("adam", LOSS)
    made.fit(**FEW)
    made.save(tmp_path / "m.x1")
    assert hash_of(x1.keras.load(tmp_path / "m.x1")) == hash_of(made)
    assert compare_trained(made, X[:8]).succeeded


def test_the_ending_decides_where_nothing_was_compiled() -> None:
    values = Sequential([Input((28, 28, 1)), Flatten(), Dense(1)])
    assert not (values.predict(X[:8]) == 1).all()
    shares = Sequential([Input((28, 28, 1)), Flatten(), Dense(3, activation="sigmoid")])
    assert ((shares.predict(X[:8]) >= 0) & (shares.predict(X[:8]) < 1)).all()


@pytest.mark.parametrize("loss", ["binary_crossentropy", "mse"])
def test_other_endings_are_judged_by_onnx_runtime(loss: str) -> None:
    ending = Dense(3, activation="sigmoid") if loss == "binary_crossentropy" else Dense(3)
    made = Sequential([Input((28, 28, 1)), Flatten(), ending])
    made.compile("adam", loss)
    some: dict[str, Any] = {**FEW, "y": np.eye(10)[FEW["y"]][:, :3]}
    made.fit(**some)
    assert compare_trained(made, X[:12]).succeeded
