"""Models of layers: in a row, or as a graph."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.train.losses.loss import loss_for
from compiler.train.network import TrainableNetwork, network_of
from isa.support.diagnostics import Diagnostic, UsageError
from x1.keras.building import Built, Wiring, build, from_graph, name_layers, to_graph
from x1.keras.data import Codes
from x1.keras.layers import InputLayer, Layer, Tensor
from x1.keras.trainable import Trainable

Array = NDArray[Any]


class Model(Trainable):
    """A functional model: Model(inputs, outputs)."""

    def __init__(
        self,
        inputs: Tensor | Sequence[Tensor],
        outputs: Tensor | Sequence[Tensor],
        name: str = "functional",
    ) -> None:
        given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        made = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if len(given) != 1 or len(made) != 1:
            text = f"a model of {len(given)} inputs and {len(made)} outputs"
            raise UsageError(Diagnostic("keras.model", text, allowed="one of each"))
        self.name = name
        self.wire(Wiring.of(given, made[0]))

    def wire(self, wiring: Wiring) -> None:
        """Let these layers be the model; nothing is trained yet."""
        self.wiring = wiring
        self.begin()
        self._built: Built | None = None

    def __call__(self, x: Any) -> NDArray[np.float32]:
        """What the model gives for samples: `predict`.

        Raises:
            UsageError: it is called like a layer, on a value of another model.
        """
        if isinstance(x, Tensor):
            text = f"the model '{self.name}' is used as a layer"
            remedy = "call its layers one after another"
            raise UsageError(Diagnostic("keras.model", text, remedy=remedy))
        return self.predict(x)

    # --- structure -------------------------------------------------------------------------------

    @property
    def layers(self) -> list[Layer]:
        """The layers in order."""
        return list(self.wiring.layers)

    @property
    def trainable(self) -> bool:
        """Whether every layer is trained; the next `compile` takes notice of a change."""
        return all(layer.trainable for layer in self.layers)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        for layer in self.layers:
            layer.trainable = value

    def get_layer(self, name: str) -> Layer:
        """The layer of a name."""
        name_layers(self.layers)
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise UsageError(
            Diagnostic(
                "keras.model",
                f"there is no layer '{name}'",
                allowed=", ".join(str(layer.name) for layer in self.layers),
            )
        )

    @property
    def built(self) -> Built:
        """The graph for one sample; weights exist from here on."""
        if self._built is None:
            for layer in self.wiring.layers:
                layer.belong(self)
            name_layers(self.wiring.layers)
            self._built = build(self.wiring, self.name, 1, self.seed)
        return self._built

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        return self.built.values[0].shape[1:]

    @property
    def classes(self) -> int:
        """The number of values that the last layer gives for a sample."""
        return int(np.prod(self.built.values[-1].shape[1:]))

    @property
    def weights(self) -> list[NDArray[np.float32]]:
        """All weights, layer after layer, in Keras's order."""
        self.pull()
        return [a for layer in self.layers for a in layer.arrays.values()] if self.built else []

    def get_weights(self) -> list[NDArray[np.float32]]:
        """Copies of all weights, layer after layer, in Keras's order."""
        return [a.copy() for a in self.weights]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Give other values to all weights.

        Raises:
            UsageError: other numbers or shapes than the model has.
        """
        rest, count = list(weights), len(self.weights)
        if len(rest) != count:
            text = f"the model has {count} weights, not {len(rest)}"
            raise UsageError(Diagnostic("keras.weights", text))
        for layer in self.layers:
            own, rest = rest[: len(layer.arrays)], rest[len(layer.arrays) :]
            layer.take(own)
        self.tuned = True
        self.push()

    def count_params(self) -> int:
        """The number of all weights."""
        return sum(a.size for a in self.weights)

    def summary(self, print_fn: Any = None) -> None:
        """Print the layers with the shapes of their results and the numbers of their weights."""
        say: Callable[[str], object] = print_fn or _say
        shapes = [str((None, *v.shape[1:])) for v in self.built.values]
        rows = [
            (
                f"{layer.name} ({type(layer).__name__})",
                shape,
                f"{sum(a.size for a in layer.arrays.values()):,}",
            )
            for layer, shape in zip(self.wiring.layers, shapes, strict=True)
            if not isinstance(layer, InputLayer)
        ]
        head = ("Layer (type)", "Output Shape", "Param #")
        widths = [max(len(r[i]) for r in (head, *rows)) for i in range(3)]
        say(f'Model: "{self.name}"')
        for row in (head, tuple("-" * w for w in widths), *rows):
            say("  ".join((row[0].ljust(widths[0]), row[1].ljust(widths[1]), row[2].rjust(widths[2]))))
        frozen = sum(
            a.size
            for layer in self.layers
            for kind, a in layer.arrays.items()
            if not layer.trainable or kind.startswith("moving_")
        )
        total = self.count_params()
        say(f"Total params: {total:,}")
        say(f"Trainable params: {total - frozen:,}")
        say(f"Non-trainable params: {frozen:,}")

    # --- as a network ----------------------------------------------------------------------------

    def network(self) -> TrainableNetwork:
        """The network for one sample, its parameters opened."""
        name_layers(self.wiring.layers)
        made = build(self.wiring, self.name, 1, self.seed)
        codes = self.codes or Codes.of(np.zeros(0, np.uint8))
        ending = loss_for(made.graph)
        if self.loss is not None:
            self.loss.require_end(ending == self.loss.kind)
        frozen = [name for name, (layer, _) in made.owners.items() if not layer.trainable]
        network, _ = network_of(
            made.graph,
            made.owners,
            input_type=codes.dtype,
            input_c=codes.c,
            frozen=frozen,
            loss=self.loss.kind if self.loss else ending,
        )
        return network

    def parameters(self) -> dict[str, Array]:
        """The values of the weights, as the network has them."""
        return {
            name: to_graph(layer, kind, layer.arrays[kind])
            for name, (layer, kind) in self.built.owners.items()
        }

    def take(self, parameters: Mapping[str, Array]) -> None:
        """Take other values of weights over."""
        for name, value in parameters.items():
            layer, kind = self.built.owners[name]
            layer.arrays[kind] = from_graph(layer, kind, value, layer.arrays[kind].shape)

    def layer_text(self) -> str:
        """The layers as JSON: class, name, arguments, what each reads."""
        entries = [
            {
                "class": type(layer).__name__,
                "name": layer.name,
                "trainable": layer.trainable,
                "input_shape": layer.input_shape,
                "arguments": {k: getattr(v, "__name__", v) for k, v in layer.arguments.items()},
                "reads": reads,
            }
            for layer, reads in zip(self.built and self.wiring.layers, self.wiring.reads, strict=True)
        ]
        return json.dumps(entries, sort_keys=True)


class Sequential(Model):
    """Layers one after another."""

    def __init__(self, layers: Sequence[Any] | None = None, name: str = "sequential") -> None:  # pyright: ignore[reportMissingSuperCall]
        self.name = name
        self.wire(Wiring((), ()))
        for layer in layers or ():
            self.add(layer)

    def add(self, layer: Any) -> None:
        """Add a layer at the end; the first one says what comes in: `Input`, or `input_shape`."""
        added: Any = layer.layer if isinstance(layer, Tensor) else layer
        if not isinstance(added, Layer):
            text = f"a {type(added).__name__} is no layer"
            remedy = "give the layers of a model one by one: *net.layers"
            raise UsageError(Diagnostic("keras.model", text, remedy=remedy))
        present = list(self.wiring.layers)
        if not present and not isinstance(added, InputLayer):
            first = InputLayer()
            first.input_shape = added.input_shape
            present.append(first)
        self.pull()
        self.wiring = Wiring.chain([*present, added])
        self.trainer = self._built = None

    @property
    def layers(self) -> list[Layer]:
        """The layers, without the input."""
        return [layer for layer in self.wiring.layers if not isinstance(layer, InputLayer)]

    def build_for(self, shape: tuple[int, ...]) -> None:
        """Let the shape of samples be known, if no layer has said it."""
        first = self.wiring.layers[0] if self.wiring.layers else None
        if first is not None and first.input_shape is None:
            first.input_shape = tuple(shape)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
