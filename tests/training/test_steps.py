"""A step of training: the IR's meaning equals the independent statement, and the machine equals both."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final
from unittest.mock import Mock

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.codegen import training
from compiler.codegen.emit_step import state_values
from compiler.codegen.training import generate_streams
from compiler.ir.evaluate import evaluate
from compiler.ir.types import DType
from compiler.ir.verify import verify
from compiler.schedule.options import StepOptions, schedule_options
from compiler.train.network import CATEGORICAL, TrainableNetwork, rebatched
from compiler.train.optimizers.optimizer import Optimizer, apply, optimizer_of
from compiler.train.step import TrainingStep, initial_state, measurement, training_step
from isa.program import Note
from isa.target import load_target
from runtime.devices import Devices
from tests.training import test_steps as steps
from tests.training.nets import (
    CURVED,
    DROPPED,
    FACTORS,
    FORKED,
    GROUPED,
    JOINED,
    LENET,
    NORMALIZED,
    RESIDUAL,
    SEED_NET,
    SEPARABLE,
    SLOPED,
    as_graph,
    graph_of,
    weights,
)
from tests.training.oracle import Layer, Network, sizes_of_groups
from x1.trainer import divided

Array = NDArray[Any]
NETS: Final = {
    "mission": SEED_NET,
    "lenet": LENET,
    "residual": RESIDUAL,
    "joined": JOINED,
    "separable": SEPARABLE,
    "dropped": DROPPED,
    "curved": CURVED,
    "normalized": NORMALIZED,
    "factors": FACTORS,
    "forked": FORKED,
    "grouped": GROUPED,
    "sloped": SLOPED,
}
AGAIN_BELOW: Final = ("mission", "normalized", "lenet", "residual")
"""Nets of other tests here, or that hold nothing which the rest does not."""
BATCH: Final = 4


class Trained:
    """A network as the independent statement, as a graph and on machines, side by side."""

    def __init__(
        self,
        layers: list[Layer],
        optimizer: str = "adam",
        batch: int = BATCH,
        seed: int = 0,
        group: int = 0,
        loss: str = CATEGORICAL,
        weights_of_samples: Array | None = None,
        **options: Any,
    ) -> None:
        self.shares = weights_of_samples
        self.weights = weights(layers, seed)
        self.optimizer: Optimizer = optimizer_of(optimizer, options)
        self.batch, self.count = batch, 0
        graph, logits, parameters = graph_of(layers, self.weights, 1)
        self.loss = loss
        network = TrainableNetwork(graph, logits, parameters, loss=loss)
        network = rebatched(network, batch, group or batch)
        self.step: TrainingStep = training_step(
            network, self.optimizer, weighted=weights_of_samples is not None
        )
        verify(self.step.graph)
        given = {name: as_graph(name, value) for name, value in self.weights.items()}
        self.state = initial_state(self.step.states, given)
        groups = {"groups": sizes_of_groups(batch, group or batch)}
        self.oracle = Network([replace(x, options={**x.options, **groups}) for x in layers], self.weights)
        self.slots = {
            n: {s: np.zeros_like(v) for s in self.optimizer.slots}
            for n, v in self.weights.items()
            if n not in network.statistics
        }
        self.devices: dict[str, tuple[Devices, Any]] = {}
        self.random = np.random.default_rng(seed)

    def on(self, target: str, level: int = 3) -> None:
        """Let a machine take part."""
        machine = load_target(target)
        made, place = generate_streams(
            {"train": self.step}, self.state, machine, schedule_options(level), Note(), search=False
        )
        self.devices[f"{target} O{level}"] = Devices(made), place

    def one(self) -> tuple[dict[str, Array], dict[str, Array]]:
        """A step of all; what the graph's outputs are, and what each machine has left."""
        self.count += 1
        x = self.random.integers(0, 256, (self.batch, 28, 28, 1)).astype(np.uint8)
        labels, given_labels = self._labels()
        numbers = self.optimizer.of_step(self.count, np.float32(self.optimizer.learning_rate))

        dropouts = [layer.name for layer in self.oracle.layers if layer.kind == "dropout"]
        keys = self.random.integers(-(2**31), 2**31, len(dropouts)).astype(np.int32)
        self.oracle.keys = {n: int(k.view(np.uint32)) for n, k in zip(dropouts, keys, strict=True)}

        def update(name: str, w: Array, g: Array) -> Array:
            new, slots = apply(self.optimizer, w, g, self.slots[name], numbers)
            self.slots[name] = dict(slots)
            return new

        left = self.oracle.step(x, labels, update, self.loss, self.shares)
        given = {
            "input": x,
            "labels": given_labels,
            "numbers": np.array([numbers[n] for n in self.optimizer.step_numbers], np.float32),
        }
        if dropouts:
            given["keys"] = keys
        if self.shares is not None:
            shares, share = divided(self.shares)
            given["weights"] = np.repeat(shares[:, None], 10, axis=1)
            given["numbers"] = np.append(given["numbers"], share)
        values = evaluate(self.step.graph, {**self.state, **given})
        named = zip(self.step.graph.output_names, self.step.graph.outputs, strict=True)
        outputs = {name: values[node.id] for name, node in named}
        if self.loss != CATEGORICAL:
            np.testing.assert_array_equal(outputs["records"], left[0])
        self.state = {name: outputs.get(name, value) for name, value in self.state.items()}
        shapes = {s.name: s.before.shape for s in self.step.states}
        found: dict[str, Array] = {}
        for name, (device, place) in self.devices.items():
            result = device.run("train", given)
            np.testing.assert_array_equal(result.outputs["records"], outputs["records"])
            found |= {f"{name}: {k}": v for k, v in state_values(place, device.states[0], shapes).items()}
        return outputs, found

    def _labels(self) -> tuple[Array, Array]:
        """As the statement takes them, and as the device does."""
        if self.loss == CATEGORICAL:
            labels = self.random.integers(0, 10, self.batch).astype(np.int32)
            return labels, labels
        if self.loss == "binary_crossentropy":
            labels = self.random.integers(0, 2, (self.batch, 10))
            return labels, (labels * -128).astype(np.int8)
        real = self.random.standard_normal((self.batch, 10)).astype(np.float32)
        return real, real

    def agree(self, steps: int) -> None:
        """After every step graph, machines and the independent statement have the same state."""
        for _ in range(steps):
            _, found = self.one()
            self.assert_equal_to_the_oracle()
            self.assert_equal_on_machines(found)

    def assert_equal_on_machines(self, found: dict[str, Array]) -> None:
        """The state that machines have left, by machine and name."""
        for key, value in found.items():
            np.testing.assert_array_equal(value, self.state[key.partition(": ")[2]], key)

    def assert_equal_to_the_oracle(self) -> None:
        """Weights, slots, exponents, greatest sums and shifts."""
        for name, value in self.oracle.w.items():
            np.testing.assert_array_equal(self.state[name], as_graph(name, value), name)
            for slot, kept in self.slots.get(name, {}).items():
                np.testing.assert_array_equal(self.state[f"{name}/{slot}"], as_graph(name, kept))
        for name, exponent in self.oracle.ew.items():
            assert int(self.state[f"{name}/exponent"]) == exponent
            assert int(self.state[f"{name}/next_exponent"]) == self.oracle.ew_next[name]
        greatest, shifts = (
            sorted(int(v) for name, v in self.state.items() if name.endswith(kind))
            for kind in ("/greatest", "/shift")
        )
        assert greatest == sorted(self.oracle.h.values())
        assert shifts == sorted(self.oracle.s.values())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.nightly) if n in AGAIN_BELOW else n for n in NETS]
)
def test_graph_and_machine_do_what_the_independent_statement_says(name: str) -> None:
    trained = Trained(NETS[name])
    trained.on("edge32")
    trained.agree(2)


def test_sums_made_beside_other_layers_read_values_at_home() -> None:
    """tiny8 has no room for sums over a batch: they are made in the update, while layers have images at hand."""
    trained = Trained(NETS["joined"])
    trained.on("tiny8")
    _, found = trained.one()
    trained.assert_equal_on_machines(found)


@pytest.mark.parametrize("group", [pytest.param(0, marks=pytest.mark.nightly), 3])
def test_exact_statistics_are_the_means_over_batches(group: int) -> None:
    """Batches of 8 in groups of 3, 3 and 2, or in one; frozen weights, on the machine and as a graph."""
    trained = Trained(NORMALIZED, batch=8, group=group)
    trained.one()
    graph, logits, parameters = graph_of(NORMALIZED, trained.weights, 1)
    measured = measurement(rebatched(TrainableNetwork(graph, logits, parameters), 8, group or 8))
    machine = load_target("edge32")
    steps = {"train": trained.step, "stats": measured}
    made, place = generate_streams(steps, trained.state, machine, schedule_options(3), Note(), search=False)
    device, state = Devices(made), dict(trained.state)
    batches = [trained.random.integers(0, 256, (8, 28, 28, 1)).astype(np.uint8) for _ in range(3)]
    for number, x in enumerate(batches):
        shares = np.array([number / (number + 1), 1 / (number + 1)], np.float32)
        device.run("stats", {"input": x, "moving": shares})
        values = evaluate(measured.graph, {**state, "input": x, "moving": shares})
        named = zip(measured.graph.output_names, measured.graph.outputs, strict=True)
        state |= {name: values[node.id] for name, node in named}
    trained.oracle.measure(batches)
    shapes = {s.name: s.before.shape for s in trained.step.states}
    found = state_values(place, device.states[0], shapes)
    assert {n for n in state if not np.array_equal(state[n], trained.state[n])} == {
        f"n{i}/{kind}" for i in range(1, 7) for kind in ("mean", "variance")
    }
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value, name)
        if name in trained.oracle.w:
            np.testing.assert_array_equal(as_graph(name, trained.oracle.w[name]), value, name)


@pytest.mark.parametrize("group", [pytest.param(1, marks=pytest.mark.nightly), 3])
def test_groups_of_a_batch_have_statistics_of_their_own(group: int) -> None:
    trained = Trained(NORMALIZED, group=group)
    trained.on("edge16")
    trained.agree(2)


@pytest.mark.nightly
@pytest.mark.parametrize("name", NETS)
def test_fifty_steps_are_the_same_on_every_machine(name: str) -> None:
    trained = Trained(NETS[name], batch=8)
    for target in ("edge16", "edge32", "edge64", "tiny8"):
        trained.on(target)
    trained.on("edge32", 0)
    found: dict[str, Array] = {}
    for _ in range(50):
        _, found = trained.one()
    trained.assert_equal_to_the_oracle()
    trained.assert_equal_on_machines(found)


SMALL: Final = [
    Layer("conv", "a", options={"kernel": (3, 3), "strides": (3, 3), "relu": True}),
    Layer("flatten", "flatten"),
    Layer("dense", "dense", options={"logits": True}),
]


@pytest.mark.parametrize(
    ("loss", "end"),
    [("binary_crossentropy", {"fixed": (-4, False, 127)}), ("mean_squared_error", {"logits": True})],
)
def test_other_losses_are_what_the_independent_statement_says(loss: str, end: dict[str, Any]) -> None:
    net = [*SMALL[:-1], replace(SMALL[-1], options=end)]
    trained = Trained(net, loss=loss)
    trained.on("edge16")
    trained.agree(2)


WEIGHTS_OF_SAMPLES: Final = {
    "some": (0.3, 1.7, 0.0, 2.5),
    "one": (0.0, 0.0, 1e-3, 0.0),
    "none": (0.0,) * 4,
    "equal": (1.0,) * 4,
}


@pytest.mark.parametrize("given", WEIGHTS_OF_SAMPLES)
def test_samples_count_by_their_weights(given: str) -> None:
    weighted = np.array(WEIGHTS_OF_SAMPLES[given], np.float32)
    trained, plain = Trained(SMALL, weights_of_samples=weighted), Trained(SMALL)
    trained.on("edge16")
    for _ in range(2):
        trained.agree(1)
        plain.one()
    same = all(np.array_equal(v, plain.state[n]) for n, v in trained.state.items())
    assert same == (given == "equal")


@pytest.mark.parametrize("loss", ["binary_crossentropy", "mean_squared_error"])
def test_samples_of_other_losses_count_by_their_weights(loss: str) -> None:
    end = {"fixed": (-4, False, 127)} if loss == "binary_crossentropy" else {"logits": True}
    net = [*SEED_NET[:-1], replace(SEED_NET[-1], options=end)]
    trained = Trained(net, loss=loss, weights_of_samples=np.array((0.3, 1.7, 0.0, 2.5), np.float32))
    trained.on("edge32")
    trained.agree(2)


def test_gradients_are_clipped_on_the_machine() -> None:
    """Bounds that some gradients of the second step leave, and others do not."""
    trained = Trained(SEED_NET, "momentum", clipvalue=1e-3)
    trained.on("edge32")
    trained.agree(2)


class White:
    """Stands for a generator: all pictures are white and of the first class."""

    def integers(self, low: int, high: int, shape: Any) -> Array:
        return np.zeros(shape, np.int64) + (high - 1 if high == 256 else low)


def test_sums_beyond_int32_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """86,528 products of 255 and errors that are all alike for each weight of the first layer."""
    layers = [
        Layer("conv", "a", options={"kernel": (3, 3)}),
        Layer("flatten", "flatten"),
        Layer("dense", "dense", options={"logits": True}),
    ]
    drawn = weights(layers, 0)
    drawn["a/kernel"] = np.abs(drawn["a/kernel"])
    drawn["dense/kernel"] = np.tile(
        np.linspace(0.1, 1, 10, dtype=np.float32), (len(drawn["dense/kernel"]), 1)
    )
    monkeypatch.setattr(steps, "weights", Mock(return_value=drawn))
    trained = Trained(layers, "sgd", batch=128, learning_rate=1e-9)
    trained.random = White()  # pyright: ignore[reportAttributeAccessIssue]
    assert DType.I64 in {t.dtype for n in trained.step.graph.nodes() for t in n.types}
    trained.on("edge64")
    for _ in range(3):  # until the errors' shifts are found
        trained.agree(1)
    assert max(np.abs(v).max() for n, v in trained.oracle.tensors.items() if n.endswith("kernel/sum")) > 2**31


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "rmsprop", "adamw"])
def test_every_optimizer_is_computed_on_the_machine(optimizer: str) -> None:
    trained = Trained(SEED_NET, optimizer)
    trained.on("edge64")
    trained.agree(1)


CHOICES: Final = {
    "recomputed": StepOptions(again=0.75),
    "small updates": StepOptions(update_share=6),
    "large updates": StepOptions(update_share=1),
    "sums by the array": StepOptions(array_for_sums=100.0),
    "sums by the vector unit": StepOptions(array_for_sums=0.0),
}


@pytest.mark.parametrize("name", ["mission", pytest.param("normalized", marks=pytest.mark.nightly)])
def test_no_choice_of_the_schedule_changes_a_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """How much is computed again, how many rows are updated together, which engine sums."""
    trained = Trained(NETS[name], batch=8)
    programs: set[int] = set()
    for label, chosen in CHOICES.items():
        monkeypatch.setattr(training, "StepOptions", lambda chosen=chosen: chosen)
        trained.on("edge32")
        trained.devices[label] = trained.devices.pop("edge32 O3")
        programs.add(hash(trained.devices[label][0].executable.programs[0].instructions))
    assert len(programs) >= len(CHOICES) - 1
    for _ in range(2):
        _, found = trained.one()
        trained.assert_equal_on_machines(found)
    trained.assert_equal_to_the_oracle()
