"""The float32 twin of a training on the device: the same network, weights, batches and optimizer, in numpy.

Its gradients are those of the float graph, checked by central differences; its updates have the bits of Keras's
own optimizers. So what differs from the device is the device's arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.ir.evaluate import walk
from compiler.ir.graph import Graph, Node
from compiler.ir.types import DType
from compiler.ops.batch_norm import BatchNorm
from compiler.train.gradient import differentiate
from compiler.train.losses.categorical_crossentropy import CategoricalCrossentropy
from compiler.train.network import TrainableNetwork, rebatched
from compiler.train.optimizers.optimizer import Optimizer, apply
from x1.keras import data
from x1.keras.fitting import MEASURED

Array = NDArray[Any]


class Pass:
    """A graph for one batch size: what it gives for weights and samples."""

    def __init__(self, network: TrainableNetwork, *, training: bool) -> None:
        graph: Graph = network.graph
        self.network, self.wanted = network, dict[int, str]()
        fixed = network.frozen | network.statistics
        parameters = {n: p for n, p in network.parameters.items() if n not in fixed}
        wanted: list[Node] = [network.logits]
        if training:
            labels = graph.input("labels", DType.I32, (network.logits.shape[0],))
            loss = graph.add(CategoricalCrossentropy(), (network.logits, labels), name="loss")
            found = differentiate(graph, loss, list(parameters.values()))
            self.wanted = {g.id: n for n, g in zip(parameters, found, strict=True)}
            wanted += found
        self.norms = {norm.inputs[0].id: norm for norm, o in graph.of(BatchNorm) if o.groups}
        graph.set_outputs(wanted, [f"out{i}" for i in range(len(wanted))])
        graph.erase_dead()

    def run(
        self, given: Mapping[str, Array]
    ) -> tuple[Array, dict[str, Array], dict[str, tuple[Array, float]]]:
        """Logits, gradients, and statistics of the batch by the name of the running ones, with momentum."""
        logits: Array = np.zeros(0)
        gradients: dict[str, Array] = {}
        statistics: dict[str, tuple[Array, float]] = {}
        for node, value in walk(self.network.graph, given):
            if node is self.network.logits:
                logits = value
            if node.id in self.wanted:
                gradients[self.wanted[node.id]] = value
            if node.id in self.norms:
                norm = self.norms[node.id]
                operation = norm.op
                assert isinstance(operation, BatchNorm)
                axes = tuple(i for i in range(value.ndim) if i != operation.axis)
                mean, variance = value.mean(axis=axes), value.var(axis=axes)
                statistics[norm.inputs[3].name] = mean, operation.momentum
                statistics[norm.inputs[4].name] = variance, operation.momentum
        return logits, gradients, statistics


class Twin:
    """A network in training in float32.

    Args:
        network: for one sample, its parameters opened.
        weights: their values, by name.
        optimizer: whose formula the update is.
    """

    def __init__(self, network: TrainableNetwork, weights: Mapping[str, Array], optimizer: Optimizer) -> None:
        self.network, self.optimizer = network, optimizer
        self.weights = {name: np.asarray(w, np.float32).copy() for name, w in weights.items()}
        self.slots: dict[str, Mapping[str, Array]] = {}
        self.count = 0
        self.passes: dict[tuple[int, bool, bool], Pass] = {}

    def run(self, x: Array, labels: Array | None = None, *, moving: bool = False) -> Any:
        """One batch."""
        training = labels is not None
        key = len(x), training, training or moving
        if key not in self.passes:
            made = rebatched(self.network, len(x), len(x) if key[2] else 0)
            self.passes[key] = Pass(made, training=training)
        given = {**self.weights, self.network.source.name: x}
        if labels is not None:
            given["labels"] = labels.astype(np.int32)
        return self.passes[key].run(given)

    def step(self, x: Array, labels: Array, rate: float) -> None:
        """Train on a batch of real numbers."""
        self.count += 1
        _, gradients, statistics = self.run(x, labels)
        numbers = self.optimizer.of_step(self.count, np.float32(rate))
        for name, gradient in gradients.items():
            w = self.weights[name]
            held = self.slots.get(name) or {s: np.zeros_like(w) for s in self.optimizer.slots}
            self.weights[name], self.slots[name] = apply(
                self.optimizer, w, gradient.astype(np.float32), held, numbers
            )
        for name, (value, momentum) in statistics.items():
            old = self.weights[name]
            self.weights[name] = (old * np.float32(momentum) + value * np.float32(1 - momentum)).astype(
                np.float32
            )

    def measure(self, batches: list[Array]) -> None:
        """Exact running statistics at the weights as they are."""
        found = [self.run(x, moving=True)[2] for x in batches]
        for name in found[0] if found else ():
            self.weights[name] = np.mean([f[name][0] for f in found], axis=0).astype(np.float32)

    def fit(self, x: Array, y: Array, epochs: int, batch: int, seed: int, after: Any = None) -> None:
        """Epochs in the order in which the device sees the samples."""
        for epoch in range(epochs):
            order = data.order_of(len(x), seed, epoch, shuffle=True)
            chosen = list(data.batches(order, batch))
            for part in chosen:
                self.step(x[part], y[part], self.optimizer.learning_rate)
            if self.network.moving:
                self.measure([x[part] for part in chosen[:MEASURED] if len(part) == batch])
            if after is not None:
                after(epoch, self)

    def accuracy(self, x: Array, y: Array, batch: int = 250) -> float:
        """The share of samples whose class is found."""
        hits = 0
        for first in range(0, len(x), batch):
            logits, *_ = self.run(x[first : first + batch])
            hits += int((logits.argmax(axis=1) == y[first : first + batch]).sum())
        return hits / len(x)


def twin_of(model: Any) -> Twin:
    """The twin of a model of x1.keras that has not been trained yet."""
    return Twin(model.network(), model.parameters(), model.optimizer.chosen)
