"""What can be trained: a network, an optimizer, a loss, and a device that has got so far."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.train.exporting.integers import to_integers
from compiler.train.exporting.real import to_float32
from compiler.train.network import TrainableNetwork
from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.records import asdict
from isa.target import Target, load_target
from x1.api import compile as compile_network
from x1.binary import Binary
from x1.checkpoint import Checkpoint, hexadecimal, network_text, written
from x1.files import write_atomic
from x1.keras import data, losses, optimizers
from x1.keras.callbacks import History
from x1.keras.data import Codes
from x1.keras.fitting import EXACT, Fitting, evaluate_on, predict_on
from x1.keras.utils import SEED, is_neutral
from x1.trainer import Batches, Trainer

Array = NDArray[Any]
FORMATS: Final = ("float32", "qoperator")
EVALUATED: Final = 32
"""Samples of a batch where nothing is trained."""


NEUTRAL: Final[Mapping[str, tuple[Any, ...]]] = {
    "loss_weights": (None,),
    "weighted_metrics": (None, []),
    "run_eagerly": (),
    "steps_per_execution": (),
    "jit_compile": (),
    "auto_scale_loss": (),
}
"""Options of Keras's `compile` that change no result while they have one of these values; none: whatever."""


def whole(name: str, value: Any) -> int:
    """An option that is a whole number, of whatever type.

    Raises:
        UsageError: it is none.
    """
    try:
        return operator.index(value)
    except TypeError:
        text = f"{name}={value!r} is no whole number"
        raise UsageError(Diagnostic("train.option", text, allowed="whole numbers")) from None


def real(name: str, value: Any) -> float:
    """An option that is a number, of whatever type.

    Raises:
        UsageError: it is none.
    """
    try:
        return float(value)
    except (TypeError, ValueError):
        text = f"{name}={value!r} is no number"
        raise UsageError(Diagnostic("train.option", text, allowed="numbers")) from None


class Trainable:
    """The base of models: compile, fit, evaluate, predict, save."""

    name: str

    def begin(self) -> None:
        """Nothing has been chosen or trained yet."""
        self.optimizer: optimizers.KerasOptimizer = optimizers.get("rmsprop")
        self.loss: losses.Loss | None = None
        self.metrics: list[str] = []
        self.stop_training = False
        self.history: History | None = None
        self.seed = SEED.value
        self.shuffle, self.validation_split = True, 0.0
        self.bn_group, self.bn_statistics = 0, EXACT
        self.tuned = False
        """Whether the weights come from elsewhere: their shifts are found before the first step."""
        self.epochs = 0
        """That are complete."""
        self.codes: Codes | None = None
        self.kept: dict[str, Array] = {}
        """What training has left beside the weights: shifts, slots, the number of steps."""
        self.trainer: Trainer | None = None

    # --- what a kind of model says ---------------------------------------------------------------

    def network(self) -> TrainableNetwork:
        """The network for one sample, its parameters opened."""
        raise NotImplementedError

    def parameters(self) -> dict[str, Array]:
        """The values of the parameters, as the network has them."""
        raise NotImplementedError

    def take(self, parameters: Mapping[str, Array]) -> None:
        """Take other values of parameters over."""
        raise NotImplementedError

    @property
    def perm(self) -> tuple[int, ...]:
        """How the axes of a batch of samples are permuted for the network."""
        return tuple(range(len(self.input_shape) + 1))

    def encode(self, x: Array) -> Array:
        """The codes of samples, as the network takes them."""
        assert self.codes is not None
        return np.ascontiguousarray(self.codes.encode(x).transpose(self.perm))

    def layer_text(self) -> str:
        """The layers as JSON, for a checkpoint; nothing where there are none."""
        return ""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of a sample."""
        raise NotImplementedError

    @property
    def classes(self) -> int:
        """The number of values that the last layer gives for a sample."""
        raise NotImplementedError

    # --- training --------------------------------------------------------------------------------

    def compile(
        self,
        optimizer: Any = "rmsprop",
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
        **others: Any,
    ) -> None:
        """Choose optimizer, loss and metrics; the optimizer begins anew.

        Keras's `others`, such as `jit_compile`, may be given where they change no result.

        Raises:
            UsageError: one that there is not.
        """
        for name, value in others.items():
            if not is_neutral(NEUTRAL, name, value):
                text = f"compile() takes no {name}={value!r}"
                allowed = "optimizer, loss, metrics; Keras's defaults of others"
                raise UsageError(Diagnostic("keras.compile", text, allowed=allowed))
        self.pull()
        self.optimizer, self.loss = optimizers.get(optimizer), losses.get(loss)
        self.metrics = [_accuracy(m, self.loss) for m in metrics or ()]
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
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: tuple[Any, ...] | None = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_freq: int = 1,
        validation_batch_size: int | None = None,
        *,
        device: str = "/device:X1",
        target: str | Target = "edge32",
        seed: int | None = None,
        bn_group: int | None = None,
        bn_statistics: str | None = None,
    ) -> History:
        """Train on samples x and labels y, on the simulated device; arguments as Keras has them.

        `device` is "/device:X1"; `target` the machine, a name or a file; `seed` decides the order of samples,
        that of `set_random_seed` if it is not given. `class_weight` says by how much the samples of a class
        count, `sample_weight` by how much each sample does; `validation_data` may end in weights too.
        `bn_group` samples of a batch are normalized together, as a rule all; `bn_statistics` "exact" measures
        running ones after every epoch, "running" leaves them as steps have moved them.

        Raises:
            UsageError: data, options or a device that do not fit.
            CompileError: a layer that cannot be trained.
            FitError: the model does not fit the target.
        """
        del validation_batch_size  # the loss of a sample does not depend on others
        size = whole("batch_size", 32 if batch_size is None else batch_size)
        steps = None if steps_per_epoch is None else whole("steps_per_epoch", steps_per_epoch)
        numbers = whole("epochs", epochs), whole("initial_epoch", initial_epoch), steps
        shown, often = whole("verbose", 1 if verbose == "auto" else verbose), validation_freq
        fitting = Fitting(self, size, *numbers, shown, device, target, whole("validation_freq", often))
        before = self._choose(shuffle, validation_split, seed, bn_group, bn_statistics)
        try:
            fitting.require()
        except UsageError:
            self._choose(*before)
            raise
        return fitting.run(x, y, data.Weights(sample_weight, class_weight), validation_data, callbacks or ())

    def _choose(
        self, shuffle: bool, split: float, seed: int | None, group: int | None, statistics: str | None
    ) -> tuple[bool, float, int, int, str]:
        """Options of training that last; what they were before. None leaves one as it is."""
        before = self.shuffle, self.validation_split, self.seed, self.bn_group, self.bn_statistics
        self.shuffle, self.validation_split = bool(shuffle), real("validation_split", split)
        self.seed = self.seed if seed is None else whole("seed", seed)
        self.bn_group = self.bn_group if group is None else whole("bn_group", group)
        self.bn_statistics = statistics or self.bn_statistics
        return before

    def evaluate(
        self,
        x: Any,
        y: Any,
        batch_size: int | None = None,
        verbose: Any = 0,
        sample_weight: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Loss and metrics on samples: numbers in a list, or by name; the loss of each counts by its weight.

        Raises:
            UsageError: data that do not fit, or a model without loss.
        """
        del batch_size
        found = evaluate_on(self, x, y, sample_weight, verbose=int(verbose not in (0, "auto")))
        if return_dict:
            return found
        return list(found.values()) if len(found) > 1 else found["loss"]

    def predict(self, x: Any, batch_size: int | None = None, verbose: Any = 0) -> NDArray[np.float32]:
        """The probabilities of the classes, for every sample."""
        del batch_size, verbose
        return predict_on(self, x)

    # --- the device ------------------------------------------------------------------------------

    def prepare(self, batches: Batches, target: Target) -> Trainer:
        """A trainer for these batches, with what training so far has left."""
        if self.trainer is None or (self.trainer.batches, self.trainer.target) != (batches, target):
            self.pull()
            self.trainer = Trainer(
                self.network(),
                self.parameters(),
                self.optimizer.chosen,
                batches,
                target,
                self.kept,
                perm=self.perm,
            )
        self.trainer.seed = self.seed
        return self.trainer

    def runner(self) -> Trainer:
        """A trainer for evaluation: the one that there is, or one for few samples."""
        if self.trainer is None:
            self.prepare(Batches(EVALUATED, 0, EVALUATED), load_target("edge32"))
        assert self.trainer is not None
        return self.trainer

    def pull(self) -> None:
        """Take weights and all else over from the device."""
        if self.trainer is None:
            return
        state, names = self.trainer.state, self.parameters()
        self.take({name: state[name] for name in names if name in state})
        self.kept = {name: value for name, value in state.items() if name not in names}

    @property
    def forward_state(self) -> dict[str, Array]:
        """What evaluation depends on: weights, exponents, shifts."""
        return self.runner().forward_state

    def restore(self, state: Mapping[str, Array]) -> None:
        """Let the weights, and what belongs to them, be as they were."""
        self.runner().restore(state)
        self.pull()

    def push(self) -> None:
        """Give the weights to the device."""
        if self.trainer is not None:
            shapes = self.trainer.shapes
            self.trainer.give({n: v for n, v in self.parameters().items() if n in shapes})

    # --- files -----------------------------------------------------------------------------------

    def content(self) -> bytes:
        """The file of the model: a binary that trains on from here."""
        trainer = self.runner()
        network = trainer.network
        codes = self.codes or Codes.of(np.zeros(0, np.uint8))
        loss = self.loss or losses.Loss(losses.SPARSE)
        options = asdict(self.optimizer.chosen)
        history = {} if self.history is None else self.history.history
        rate = self.optimizer.rate(trainer.step_number)
        if callable(self.optimizer.learning_rate):
            text = f"a learning rate that is a function is not saved: the file has its value now, {rate:g}"
            warnings.warn(text, stacklevel=3)
        b = trainer.batches
        sizes = b.train, b.tail, b.evaluation, b.group
        checkpoint = Checkpoint(
            network=network_text(network),
            logits=network.logits.name,
            parameters=tuple(network.parameters),
            frozen=tuple(sorted(network.frozen)),
            input_type=codes.dtype.value,
            input_c=str(codes.c),
            perm=self.perm,
            layers=self.layer_text(),
            loss=loss.name,
            from_logits=loss.from_logits,
            metrics=tuple(self.metrics),
            optimizer=self.optimizer.chosen.name,
            options=tuple((name, hexadecimal(value)) for name, value in options.items()),
            learning_rate=hexadecimal(rate),
            batches=sizes,
            statistics=self.bn_statistics,
            seed=self.seed,
            shuffle=self.shuffle,
            validation_split=hexadecimal(self.validation_split),
            epochs=self.epochs,
            tuned=self.tuned,
            numbers=tuple(() if self.history is None else self.history.epoch),
            history=tuple((name, tuple(map(hexadecimal, values))) for name, values in history.items()),
            state=tuple((name, tuple(shape)) for name, shape in trainer.tensors),
        )
        return written(trainer.executable, checkpoint, trainer.state)

    def save(self, path: str | Path, overwrite: bool = True) -> None:
        """Write the model as a binary, from which training goes on to the bit.

        Raises:
            UsageError: the place cannot be written, or there is a file already that is not to be replaced.
        """
        if not overwrite and Path(path).exists():
            raise UsageError(Diagnostic("file.exists", f"there is a file '{path}'", remedy="overwrite=True"))
        write_atomic(path, self.content())

    def export(self, path: str | Path, format: str = "float32") -> None:  # noqa: A002
        """Write the network as ONNX: its real numbers, or with "qoperator" the device's integers.

        Raises:
            UsageError: a format that is not known, or a place that cannot be written.
            CompileError: an operation that ONNX does not have.
        """
        write_atomic(path, self.onnx(format).SerializeToString(deterministic=True))

    def onnx(self, format: str = "float32") -> Any:  # noqa: A002
        """The ONNX model that `export` writes."""
        if format not in FORMATS:
            message = f"the format '{format}' is not supported"
            raise UsageError(not_among("usage.format", message, format, FORMATS))
        self.pull()
        if format == "float32":
            return to_float32(self.network(), self.parameters(), self.perm)
        trainer = self.runner()
        return to_integers(trainer.network, trainer.state, self.perm)

    def compile_inference(self, samples: Any, target: str | Target = "edge32") -> Binary:
        """A binary of the trained network that takes one sample; its scales come from `samples`.

        Raises:
            CompileError: an operation that ONNX does not have.
            FitError: the network does not fit the target.
        """
        model, name = self.onnx(), self.network().source.name
        given = np.asarray(samples, np.float32)
        return compile_network(model, target, calibrate=given, shapes={name: (1, *self.input_shape)})


def _accuracy(metric: Any, loss: losses.Loss) -> str:
    """The name under which accuracy, the only metric, is shown.

    Raises:
        UsageError: another one, or that of another loss.
    """
    name = metric if isinstance(metric, str) else str(getattr(metric, "name", type(metric).__name__))
    if name not in loss.accuracies:
        allowed = ", ".join(loss.accuracies) or "none for this loss"
        raise UsageError(Diagnostic("train.metric", f"there is no metric '{name}'", allowed=allowed))
    return name
