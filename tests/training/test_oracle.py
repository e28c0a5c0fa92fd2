"""The statement of the training scheme: its gradients point where those of float32 do, and it learns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from compiler.ir.evaluate import walk
from compiler.ir.types import DType
from compiler.train.gradient import differentiate
from compiler.train.losses.categorical_crossentropy import CategoricalCrossentropy
from compiler.train.network import TrainableNetwork, rebatched
from compiler.train.optimizers.adam import Adam
from compiler.train.optimizers.optimizer import apply
from tests.training.nets import LENET, RESIDUAL, RESNET, SEED_NET, as_graph, graph_of, weights
from tests.training.oracle import Array, Layer, Network, Update

BATCH = 32
DIGITS = np.load(Path(__file__).resolve().parents[2] / "samples" / "mnist" / "digits.npz")
PICTURES = np.rint(DIGITS["inputs"] * 255).astype(np.uint8)
LABELS = DIGITS["labels"]
NORMALIZED = [replace(layer, options={**layer.options, "groups": (BATCH,)}) for layer in RESNET]
NETS = {"seed": SEED_NET, "lenet": LENET, "residual": RESIDUAL, "normalized": NORMALIZED}
TRIED = ["seed", "lenet", pytest.param("residual", marks=pytest.mark.nightly)]
STEPS = {"seed": 30, "lenet": 30, "residual": 250}
"""Until the first maxima are forgotten: where errors of far exponents are summed, they are large at first."""


def by_adam() -> Update:
    """Adam, with what it keeps for each parameter."""
    adam = Adam()
    slots: dict[str, Mapping[str, Array]] = {}
    steps: Counter[str] = Counter()

    def update(name: str, w: Array, g: Array) -> Array:
        steps[name] += 1
        held = slots.get(name) or {s: np.zeros_like(w) for s in adam.slots}
        numbers = adam.of_step(steps[name], np.float32(adam.learning_rate))
        moved, slots[name] = apply(adam, w, g, held, numbers)
        return moved

    return update


def trained(net: Network, pictures: Array, labels: Array, steps: int, update: Update) -> None:
    for step in range(steps):
        chosen = np.arange(step * BATCH, (step + 1) * BATCH) % (len(labels) // BATCH * BATCH)
        net.step(pictures[chosen], labels[chosen], update)


def cosines(net: Network, layers: list[Layer], x: Array, y: Array) -> dict[str, float]:
    """For every layer's weights the cosine between the gradients here and in float32, at equal weights."""
    network = rebatched(TrainableNetwork(*graph_of(layers, net.w, 1)), BATCH, BATCH)
    graph = network.graph
    labels = graph.input("labels", DType.I32, (BATCH,))
    loss = graph.add(CategoricalCrossentropy(), (network.logits, labels), name="loss")
    changed = {n: p for n, p in network.parameters.items() if n not in network.statistics}
    found = dict(zip(changed, differentiate(graph, loss, list(changed.values())), strict=True))
    given = {n: as_graph(n, w) for n, w in net.w.items()}
    given |= {"input": (x / np.float32(255)).astype(np.float32), "labels": y.astype(np.int32)}
    wanted = {node.id: parameter for parameter, node in found.items()}
    real = {wanted[n.id]: v for n, v in walk(graph, given) if n.id in wanted}
    seen: dict[str, int] = {}
    errors, *_ = net.loss(net.forward(x, seen), y)
    result: dict[str, float] = {}
    for parameter, gradient in net.backward(errors, BATCH, seen).items():
        a, b = as_graph(parameter, gradient).ravel().astype(float), real[parameter].ravel().astype(float)
        if parameter.endswith("kernel"):
            lengths = np.linalg.norm(a), np.linalg.norm(b)
            assert 0.5 < lengths[0] / lengths[1] < 2, parameter
            result[parameter] = float(a @ b / (lengths[0] * lengths[1]))
    return result


@pytest.mark.parametrize("name", ["seed", "lenet"])
def test_gradients_point_where_those_of_float32_do(name: str) -> None:
    """After 13 batches of the shipped digits, on others: at least 0.8 for every layer."""
    net = Network(NETS[name], weights(NETS[name], 1))
    trained(net, PICTURES[:416], LABELS[:416], 13, by_adam())
    found = cosines(net, NETS[name], PICTURES[468:], LABELS[468:])
    assert min(found.values()) >= 0.8, found


@pytest.mark.nightly
@pytest.mark.parametrize("name", NETS)
def test_gradients_on_mnist_point_where_those_of_float32_do(name: str, assets: Path) -> None:
    """After 250 batches: the median over 8 others at least 0.8 for every layer."""
    data = np.load(assets / "data" / "mnist.npz")
    x, y = data["x_train"][..., None], data["y_train"].astype(int)
    net = Network(NETS[name], weights(NETS[name], 1))
    trained(net, x[:8000], y[:8000], 250, by_adam())
    found = [cosines(net, NETS[name], x[s : s + BATCH], y[s : s + BATCH]) for s in range(8000, 8256, BATCH)]
    medians = {parameter: float(np.median([f[parameter] for f in found])) for parameter in found[0]}
    assert min(medians.values()) >= 0.8, medians


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["seed", "lenet"])
def test_a_batch_is_learned_by_heart(name: str) -> None:
    layers = NETS[name]
    net, update = Network(layers, weights(layers, 2)), by_adam()
    for _ in range(2 * STEPS[name]):
        net.step(PICTURES[:BATCH], LABELS[:BATCH], update)
    assert (net.forward(PICTURES[:BATCH]).q.argmax(axis=1) == LABELS[:BATCH]).all()


def test_the_order_of_samples_changes_no_bit() -> None:
    order = np.random.default_rng(3).permutation(BATCH)
    states: list[bytes] = []
    for chosen in (np.arange(BATCH), order):
        net, update = Network(LENET, weights(LENET, 3)), by_adam()
        for _ in range(3):
            net.step(PICTURES[chosen], LABELS[chosen], update)
        states.append(b"".join(w.tobytes() for w in net.w.values()) + repr((net.h, net.s, net.ew)).encode())
    assert states[0] == states[1]


@pytest.mark.nightly
def test_later_batches_are_recognized_after_a_few_steps() -> None:
    """15 passes over 480 digits: of 20 others most are right."""
    net = Network(SEED_NET, weights(SEED_NET, 1))
    trained(net, PICTURES[:480], LABELS[:480], 15 * 15, by_adam())
    best = net.forward(PICTURES[480:]).q.argmax(axis=1)
    assert (best == LABELS[480:]).mean() >= 0.8
