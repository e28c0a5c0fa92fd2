"""Models: layers in a row, or as a graph; compile, fit, evaluate, predict."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compiler.train.step import TrainableNetwork, network_of
from isa.support.diagnostics import Diagnostic, UsageError
from isa.target import Target
from x1.keras import losses, optimizers
from x1.keras.building import Built, Wiring, build, from_graph, name_layers, to_graph
from x1.keras.callbacks import History
from x1.keras.data import Codes
from x1.keras.fitting import Fitting, evaluate_on, predict_on
from x1.keras.layers import InputLayer, Layer, Tensor
from x1.keras.utils import SEED
from x1.trainer import Batches, Trainer

Array = NDArray[Any]
EVALUATED: int = 32
"""Samples of a batch where nothing is trained."""


class Model:
    """A functional model: Model(inputs, outputs)."""

    def __init__(
        self, inputs: Tensor | Sequence[Tensor], outputs: Tensor | Sequence[Tensor], name: str = "functional"
    ) -> None:
        given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        made = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if len(given) != 1 or len(made) != 1:
            text = f"a model of {len(given)} inputs and {len(made)} outputs"
            raise UsageError(Diagnostic("keras.model", text, allowed="one of each"))
        self.name = name
        self._wire(Wiring.of(given, made[0]))

    def _wire(self, wiring: Wiring) -> None:
        self.wiring = wiring
        self.optimizer: optimizers.KerasOptimizer = optimizers.get("rmsprop")
        self.loss: Any = None
        self.metrics: list[str] = []
        self.stop_training = False
        self.history: History | None = None
        self.seed = SEED.value
        self.codes: Codes | None = None
        self.kept: dict[str, Array] = {}
        """What training has left beside the weights: shifts, slots, the number of steps."""
        self.trainer: Trainer | None = None
        self._built: Built | None = None

    # --- structure -------------------------------------------------------------------------------

    @property
    def layers(self) -> list[Layer]:
        """The layers in order."""
        return list(self.wiring.layers)

    def get_layer(self, name: str) -> Layer:
        """The layer of a name."""
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
        self._pull()
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
            layer.set_weights(own)
        self._push()

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
        frozen = sum(a.size for layer in self.layers if not layer.trainable for a in layer.arrays.values())
        total = self.count_params()
        say(f"Total params: {total:,}")
        say(f"Trainable params: {total - frozen:,}")
        say(f"Non-trainable params: {frozen:,}")

    # --- training --------------------------------------------------------------------------------

    def compile(
        self, optimizer: Any = "rmsprop", loss: Any = None, metrics: Sequence[Any] | None = None
    ) -> None:
        """Choose optimizer, loss and metrics; the optimizer begins anew.

        Raises:
            UsageError: one that there is not.
        """
        self.optimizer, self.loss = optimizers.get(optimizer), losses.get(loss)
        self.metrics = ["accuracy" for m in metrics or () if _require_accuracy(m)]
        self._pull()
        kept = ("shift", "greatest")
        self.kept = {n: v for n, v in self.kept.items() if n.rpartition("/")[2] in kept}
        self.trainer = None

    def fit(
        self,
        x: Any,
        y: Any,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Sequence[Any] | None = None,
        validation_split: float = 0.0,
        validation_data: tuple[Any, Any] | None = None,
        shuffle: bool = True,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_freq: int = 1,
        *,
        device: str = "/device:X1",
        target: str | Target = "edge32",
        seed: int | None = None,
    ) -> History:
        """Train on samples x and labels y, on the simulated device; arguments as Keras has them.

        `device` is "/device:X1"; `target` the machine, a name or a file; `seed` decides the order of samples,
        that of `set_random_seed` if it is not given.

        Raises:
            UsageError: data, options or a device that do not fit.
            CompileError: a layer that cannot be trained.
            FitError: the model does not fit the target.
        """
        fitting = Fitting(
            self,
            batch_size=32 if batch_size is None else batch_size,
            epochs=epochs,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            verbose=1 if verbose == "auto" else int(verbose),
            shuffle=shuffle,
            seed=self.seed if seed is None else seed,
            device=device,
            target=target,
            validation_freq=validation_freq,
        )
        return fitting.run(x, y, validation_split, validation_data, callbacks or ())

    def evaluate(
        self, x: Any, y: Any, batch_size: int | None = None, verbose: Any = 0, return_dict: bool = False
    ) -> Any:
        """Loss and metrics on samples: numbers in a list, or by name.

        Raises:
            UsageError: data that do not fit, or a model without loss.
        """
        del batch_size
        found = evaluate_on(self, x, y, verbose=int(verbose != 0 and verbose != "auto"))
        if return_dict:
            return found
        return list(found.values()) if len(found) > 1 else found["loss"]

    def predict(self, x: Any, batch_size: int | None = None, verbose: Any = 0) -> NDArray[np.float32]:
        """The probabilities of the classes, for every sample."""
        del batch_size, verbose
        return predict_on(self, x)

    # --- the device ------------------------------------------------------------------------------

    def network(self, batch: int) -> TrainableNetwork:
        """The model as a network to be trained, for a batch size."""
        return self._network(batch)[0]

    def _network(self, batch: int) -> tuple[TrainableNetwork, dict[str, Array]]:
        made = build(self.wiring, self.name, batch, self.seed)
        codes = self.codes or Codes.of(np.zeros(0, np.uint8))
        frozen = [name for name, (layer, _) in made.owners.items() if not layer.trainable]
        return network_of(made.graph, made.owners, input_type=codes.dtype, input_c=codes.c, frozen=frozen)

    def prepare(self, batches: Batches, target: Target) -> Trainer:
        """A trainer for these batches, with what training so far has left."""
        self._pull()
        if self.trainer is None or (self.trainer.batches, self.trainer.target) != (batches, target):
            _, parameters = self._network(1)
            self.trainer = Trainer(
                self.network, parameters, self.optimizer.chosen, batches, target, self.kept
            )
        return self.trainer

    def runner(self) -> Trainer:
        """A trainer for evaluation: the one that there is, or one for few samples."""
        if self.trainer is None:
            from isa.target import load_target  # noqa: PLC0415  (late: fit may never need it)

            self.prepare(Batches(EVALUATED, 0, EVALUATED), load_target("edge32"))
        assert self.trainer is not None
        return self.trainer

    def _pull(self) -> None:
        """Take weights and all else over from the device."""
        if self.trainer is None:
            return
        state = self.trainer.state
        owners = self.built.owners
        for name, (layer, kind) in owners.items():
            if name in state:
                layer.arrays[kind] = from_graph(layer, kind, state[name], layer.arrays[kind].shape)
        self.kept = {name: value for name, value in state.items() if name not in owners}

    def _push(self) -> None:
        """Give the layers' weights to the device."""
        if self.trainer is None:
            return
        state: Mapping[str, Array] = self.trainer.state
        given = {
            name: to_graph(layer, kind, layer.arrays[kind])
            for name, (layer, kind) in self.built.owners.items()
            if name in state
        }
        self.trainer.state = {**state, **given}


class Sequential(Model):
    """Layers one after another."""

    def __init__(self, layers: Sequence[Any] | None = None, name: str = "sequential") -> None:  # pyright: ignore[reportMissingSuperCall]
        self.name = name
        self._wire(Wiring((), ()))
        for layer in layers or ():
            self.add(layer)

    def add(self, layer: Any) -> None:
        """Add a layer at the end; the first one says what comes in: `Input`, or `input_shape`."""
        added: Layer = layer.layer if isinstance(layer, Tensor) else layer
        present = list(self.wiring.layers)
        if not present and not isinstance(added, InputLayer):
            first = InputLayer()
            first.input_shape = added.input_shape
            present.append(first)
        self.wiring = Wiring.chain([*present, added])
        self._built = None

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


def _require_accuracy(metric: Any) -> bool:
    """The only metric is accuracy, however it is called.

    Raises:
        UsageError: another one.
    """
    name = metric if isinstance(metric, str) else str(getattr(metric, "name", type(metric).__name__))
    if name not in ("accuracy", "acc", "sparse_categorical_accuracy", "categorical_accuracy"):
        raise UsageError(Diagnostic("train.metric", f"there is no metric '{name}'", allowed="accuracy"))
    return True
