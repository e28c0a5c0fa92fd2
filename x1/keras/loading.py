"""Models from files: training binaries, and networks of other tools."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.schedule.step.rows import GROUPED
from compiler.train.integer.weighting import WEIGHTS
from compiler.train.network import TrainableNetwork, for_loss, host_shape
from isa.support.diagnostics import X1Error
from isa.support.records import replace
from x1.checkpoint import Loaded, layers_of, load_checkpoint, number, unsound
from x1.keras import layers as keras_layers
from x1.keras import losses, optimizers
from x1.keras.building import Wiring
from x1.keras.callbacks import History
from x1.keras.data import Codes
from x1.keras.layers import Layer, plain
from x1.keras.models import Model
from x1.keras.trainable import Trainable
from x1.trainer import Batches, Trainer

Array = NDArray[Any]
BROKEN = (KeyError, TypeError, ValueError, IndexError, AttributeError, AssertionError, OverflowError)
"""What a text that does not fit may make of code that trusts it."""
MOST_SAMPLES = 1 << 20
"""Of a batch that a file speaks of."""
MOST_COUNTED = 1 << 63


class GraphModel(Trainable):
    """A network that no layers have made: from ONNX, from the network language, from a checkpoint."""

    def __init__(
        self, network: TrainableNetwork, parameters: Mapping[str, Array], perm: tuple[int, ...]
    ) -> None:
        self.name = network.graph.name
        self._perm = perm
        self._network, self._values = network, dict(parameters)
        self.begin()

    def network(self) -> TrainableNetwork:
        """The network for one sample, its parameters opened."""
        if self.loss is not None and self.loss.kind != self._network.loss:
            self._network = for_loss(self._network, self.loss.kind)
        if self.codes is None:
            return self._network
        return replace(self._network, input_type=self.codes.dtype, input_c=self.codes.c)

    def parameters(self) -> dict[str, Array]:
        """The values of the parameters."""
        return dict(self._values)

    def take(self, parameters: Mapping[str, Array]) -> None:
        """Take other values of parameters over."""
        self._values |= parameters

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return host_shape(self._network.source.shape, self._perm)[1:]

    @property
    def perm(self) -> tuple[int, ...]:
        """How the axes of a batch of samples are permuted for the network."""
        return self._perm

    @property
    def classes(self) -> int:
        """The number of values that the network gives for a sample."""
        return int(np.prod(self._network.logits.shape[1:]))


def load(path: str | Path) -> Trainable:
    """The model of a file that `save` or `x1 train` has written; fit(initial_epoch=...) goes on to the bit.

    Raises:
        UsageError: no such file.
        BinaryError: it is no sound training binary.
    """
    place = str(path)
    loaded = load_checkpoint(place)
    checkpoint = loaded.checkpoint
    if checkpoint.loss not in losses.NAMED.values():
        raise unsound(place, f"there is no loss '{checkpoint.loss[:40]}'")
    loss = losses.Loss(checkpoint.loss, checkpoint.from_logits)
    network = replace(checkpoint.network_of(place), loss=loss.kind)
    missing = [name for name in checkpoint.parameters if name not in loaded.values]
    if missing:
        raise unsound(place, f"the state lacks '{missing[0]}'")
    unknown = sorted(set(checkpoint.frozen) - set(checkpoint.parameters))
    if unknown:
        raise unsound(place, f"'{unknown[0][:40]}' does not train, but is no parameter")
    if sorted(checkpoint.perm) != list(range(len(network.source.shape))) or checkpoint.perm[0]:
        raise unsound(place, f"the axes of the samples are permuted by {list(checkpoint.perm)}")
    weights = {name: loaded.values[name] for name in checkpoint.parameters}
    for name, node in network.parameters.items():
        if weights[name].size == node.type.elements and weights[name].ndim == GROUPED:
            weights[name] = weights[name].reshape(node.shape)
        if weights[name].shape != node.shape:
            raise unsound(
                place, f"'{name}' has the shape {list(weights[name].shape)}, not {list(node.shape)}"
            )
    model: Trainable = GraphModel(network, weights, checkpoint.perm)
    if checkpoint.layers:
        model = _of_layers(loaded, weights, network.graph.name, place)
    _restore(model, loaded, network, place)
    return model


def _of_layers(loaded: Loaded, weights: Mapping[str, Array], name: str, place: str) -> Model:
    """A model of Keras's layers."""
    made: list[Layer] = []
    reads: list[tuple[int, ...]] = []
    for entry in layers_of(loaded.checkpoint.layers, place):
        kind = getattr(keras_layers, str(entry.get("class")), None)
        if not (isinstance(kind, type) and issubclass(kind, Layer)):
            raise unsound(place, f"there is no layer '{entry.get('class')}'")
        try:
            arguments = {str(k): plain(v) for k, v in dict(entry["arguments"]).items()}
            layer = kind(name=str(entry["name"]), trainable=bool(entry["trainable"]), **arguments)
            shape = entry["input_shape"]
            layer.input_shape = None if shape is None else tuple(int(n) for n in shape)
            reads.append(tuple(int(i) for i in entry["reads"]))
        except (KeyError, TypeError, ValueError) as error:
            raise unsound(place, f"a layer of the training does not fit: {error}") from None
        if any(not 0 <= i < len(made) for i in reads[-1]):
            raise unsound(place, "a layer of the training reads one that comes later")
        made.append(layer)
    model = Model.__new__(Model)
    model.name = name
    for layer in made:
        layer.most = sum(value.size for value in weights.values())
    try:
        model.wire(Wiring(tuple(made), tuple(reads)))
        model.take({name: value for name, value in weights.items() if name in model.built.owners})
    except (*BROKEN, X1Error) as error:
        raise unsound(place, f"the layers of the training do not fit: {error}") from None
    return model


def _restore(model: Trainable, loaded: Loaded, network: TrainableNetwork, place: str) -> None:
    """Loss, optimizer, history and device as they were."""
    checkpoint = loaded.checkpoint
    model.codes = Codes(network.input_type, network.input_c)
    model.loss = losses.Loss(checkpoint.loss, checkpoint.from_logits)
    model.metrics = [m for m in checkpoint.metrics if m in model.loss.accuracies]
    options = checkpoint.optimizer_options(place)
    model.optimizer = optimizers.restored(checkpoint.optimizer, options)
    model.optimizer.learning_rate = float(number(checkpoint.learning_rate, place))
    model.seed, model.epochs, model.shuffle = checkpoint.seed, checkpoint.epochs, checkpoint.shuffle
    model.validation_split = float(number(checkpoint.validation_split, place))
    model.history = History()
    model.history.history = {n: [float(number(v, place)) for v in vs] for n, vs in checkpoint.history}
    model.history.epoch, model.tuned = list(checkpoint.numbers), checkpoint.tuned
    model.kept = {n: v for n, v in loaded.values.items() if n not in network.parameters}
    weighted = WEIGHTS in {i.name for i in loaded.executable.stream("train").abi.inputs}
    batches = Batches(*checkpoint.batches, weighted)
    model.bn_group, model.bn_statistics = batches.group, checkpoint.statistics
    counts = (checkpoint.seed, checkpoint.epochs, *checkpoint.numbers)
    if any(not 0 <= n < MOST_COUNTED for n in counts):
        raise unsound(place, "the seed or the epochs of the training are none")
    wrong = min(batches.train, batches.evaluation) < 1 or min(batches.tail, batches.group) < 0
    if wrong or max(checkpoint.batches) > MOST_SAMPLES:
        raise unsound(place, "the batches of the training are none")
    try:
        model.trainer = Trainer(
            model.network(),
            model.parameters(),
            model.optimizer.chosen,
            batches,
            loaded.executable.programs[0].target,
            model.kept,
            loaded.executable,
            model.perm,
            model.seed,
        )
    except (*BROKEN, X1Error) as error:
        raise unsound(place, f"the training does not fit its network: {error}") from None
    if tuple(model.trainer.tensors) != checkpoint.state:
        raise unsound(place, "the state of the training is not that of its network")
