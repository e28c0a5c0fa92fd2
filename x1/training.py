"""Training of networks from files: `x1.train`, and what `x1 train` is made of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from compiler.errors import CompileError
from compiler.frontend.load import load_model
from compiler.frontend.onnx_reader import one_sample
from compiler.ir.graph import Graph, Node
from compiler.ir.stage import Stage
from compiler.ir.types import DType
from compiler.ops.batch_norm import UNUSED, BatchNorm
from compiler.ops.conv2d import Conv2d
from compiler.ops.gemm import Gemm
from compiler.rules.importing import NO_BIAS
from compiler.train.network import channels_last, network_of
from isa.support.arrays import members
from isa.support.diagnostics import Diagnostic, UsageError, not_among, require_keywords
from isa.support.paths import require_file
from isa.target import Target
from x1 import data
from x1.files import BINARY
from x1.keras import losses
from x1.keras.layers import DEFAULTS, initial
from x1.keras.loading import GraphModel, load
from x1.keras.trainable import Trainable
from x1.model import Loadable, Shapes

INITIAL: Final = ("keep", "glorot")
"""Where weights come from: the file, or Glorot's uniform distribution."""
SCALES: Final = ("1", "1/255")
"""By what samples of a file are multiplied."""


def model_of(
    model: Loadable, *, init: str = "keep", seed: int = 0, shapes: Shapes | None = None
) -> Trainable:
    """A network to be trained: of an .onnx or .net file, of an ONNX model, or of a training binary.

    Args:
        model: the file or the model.
        init: "keep" for the weights of the file, "glorot" for new ones.
        seed: of new weights.
        shapes: fixed shapes for inputs with open dimensions; an open number of samples needs none.

    Raises:
        UsageError: no such file, or a network that is quantized already.
        CompileError: a network that cannot be trained.
    """
    if init not in INITIAL:
        raise UsageError(not_among("train.init", f"--init {init} is not known", init, INITIAL))
    if isinstance(model, (str, Path)) and str(model).endswith(BINARY):
        if init != "keep":
            text = f"'{model}' is a training that has begun: it has its weights"
            raise UsageError(Diagnostic("usage.option", text, remedy="leave init out"))
        return load(model)
    given = model if isinstance(model, (str, Path, bytes)) else model.SerializeToString()
    makes = _Fresh(seed)
    is_language = isinstance(given, (str, Path)) and str(given).endswith(".net")
    source = given if isinstance(given, bytes) else Path(given)
    if isinstance(source, bytes) or source.suffix == ".onnx":
        if isinstance(source, Path):
            require_file(source)
        shapes = {**one_sample(source), **(shapes or {})}
    graph = load_model(given, shapes, makes.weight if init == "glorot" and is_language else None)
    _require_trainable(graph)
    made, perm = channels_last(graph)
    _unshare(made)
    names = [n.name for n in weights_in(made)]
    first = _first_rows(made)
    network, values = network_of(made, names, input_type=DType.U8, input_c=Fraction(1))
    if init == "glorot" and not is_language:
        values = {name: makes.again(value, first.get(name, 0)) for name, value in values.items()}
    found = GraphModel(network, values, perm)
    found.tuned = init == "keep"
    return found


class Training(TypedDict, total=False):
    """The options of `train`, each with a default.

    batch_size (32): samples of a step. optimizer ("adam"): a name, or an object of `x1.keras.optimizers`.
    loss ("sparse_categorical_crossentropy"): Keras's name. validation_split (0): the part of the samples that
    is kept back, the last ones. shuffle (true): another order in every epoch. seed (0): of the order, and of
    new weights. init ("keep"): "glorot" for new weights. target ("edge32"): the machine. callbacks: objects
    with methods of Keras's callbacks. bn_group (0): samples that are normalized together, 0 for a batch.
    bn_statistics ("exact"): "running" leaves them as the steps have moved them. class_weight: by how much the
    samples of a class count; sample_weight: by how much each sample does. verbose (0): 1 prints a line
    for every epoch. shapes: fixed shapes for inputs with open dimensions.
    """

    batch_size: int
    optimizer: Any
    loss: str
    validation_split: float
    shuffle: bool
    seed: int
    init: str
    target: str | Target
    callbacks: Sequence[Any]
    bn_group: int
    bn_statistics: str
    class_weight: Mapping[int, float]
    sample_weight: Any
    verbose: int
    shapes: Shapes | None


def train(
    model: Loadable | Trainable,
    x: Any,
    y: Any,
    *,
    epochs: int = 10,
    **options: Unpack[Training],
) -> Trainable:
    """Train a network on samples and labels, on the simulated device; a training binary goes on where it was.

    Args:
        model: an .onnx or .net file, an ONNX model in memory, a training binary, or a model.
        x: samples, in the layout of the model.
        y: a class for every sample.
        epochs: in all: what a training binary has behind it counts.
        options: see `Training`.

    Raises:
        UsageError: data or options that do not fit.
        CompileError: a network that cannot be trained.
        FitError: the network does not fit the target.
    """
    require_keywords(options, Training.__annotations__)
    init, seed, given = options.get("init", "keep"), options.get("seed"), options.get("shapes")
    found = (
        model if isinstance(model, Trainable) else model_of(model, init=init, seed=seed or 0, shapes=given)
    )
    begin(found, options.get("optimizer"), options.get("loss"))
    found.fit(
        x,
        y,
        epochs=epochs,
        initial_epoch=found.epochs,
        seed=seed,
        callbacks=options.get("callbacks", ()),
        verbose=options.get("verbose", 0),
        class_weight=options.get("class_weight"),
        sample_weight=options.get("sample_weight"),
        bn_group=options.get("bn_group"),
        bn_statistics=options.get("bn_statistics"),
        **continued(found, options),
    )
    return found


def begin(network: Trainable, optimizer: Any, loss: Any) -> None:
    """Choose optimizer and loss where a training begins; one that has begun has them.

    Raises:
        UsageError: others for a training that has begun.
    """
    if network.loss is None:
        chosen = losses.get(losses.SPARSE if loss is None else loss)
        network.compile("adam" if optimizer is None else optimizer, chosen, chosen.metrics)
        return
    for name, value in (("optimizer", optimizer), ("loss", loss)):
        if value is not None:
            text = f"the {name} is decided where a training begins"
            raise UsageError(Diagnostic("usage.option", text, remedy=f"leave {name} out"))


def continued(network: Trainable, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `fit`: what is given, else what a training that has begun has had, else the defaults."""
    trainer = network.trainer
    kept = {
        "batch_size": 32 if trainer is None else trainer.batches.train,
        "validation_split": network.validation_split,
        "shuffle": network.shuffle,
        "target": "edge32" if trainer is None else trainer.target,
    }
    return {name: value if options.get(name) is None else options[name] for name, value in kept.items()}


def samples_of(
    place: str | Path, network: Trainable, scale: str = SCALES[0], *, test: bool = False
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Samples, by a scale, and labels of a file: to train with, or to test with.

    Raises:
        UsageError: it has none.
    """
    path = Path(place)
    named = labelled(members(path), test=test)
    if named is None:
        source = network.network().source.name
        real = network.loss is not None and not network.loss.of_classes
        x, y = data.input_member(path, source).read(), data.labels(path, real=real)
    else:
        x, y = (members(path)[name].read() for name in named)
        shape = network.input_shape
        if [n for n in x.shape[1:] if n > 1] == [n for n in shape if n > 1]:
            x = x.reshape(-1, *shape)  # pictures of one channel, as Keras has them
    return (x, y) if scale == SCALES[0] else (x.astype(np.float32) / np.float32(255), y)


def weights_in(graph: Graph) -> list[Node]:
    """The constants of a float network that training changes: weights and biases, rows of normalizations."""
    found: dict[Node, None] = {}
    for node in graph.nodes():
        if isinstance(node.op, (Conv2d, Gemm, BatchNorm)):
            for operand in node.inputs[1:]:
                if operand.is_constant and not operand.name.endswith((NO_BIAS, UNUSED)):
                    found[operand] = None
    return list(found)


def _unshare(graph: Graph) -> None:
    """Give every layer rows of its own: exporters keep equal ones once.

    Raises:
        CompileError: kernels that are several layers'.
    """
    refused: list[Diagnostic] = []
    for weight in weights_in(graph):
        users = graph.users(weight)
        if len(users) > 1 and len(weight.shape) > 1:
            names = ", ".join(f"'{u.name}'" for u in users[:4])
            text = f"the weights '{weight.name}' are those of {names}"
            refused.append(Diagnostic("model.untrainable", text, weight.loc, "weights of one layer each"))
            continue
        places = [(u, i) for u in dict.fromkeys(users) for i, o in enumerate(u.inputs) if o is weight]
        for number, (user, index) in enumerate(places[1:], 2):
            copy = graph.const(weight.constant, f"{weight.name}/{number}", weight.loc)
            graph.set_operand(user, index, copy)
    if refused:
        raise CompileError(refused)


def _first_rows(graph: Graph) -> dict[str, float]:
    """What new rows of normalizations are: scales and variances of 1, by name."""
    norms = [node for node, _ in graph.of(BatchNorm)]
    return {row.name: 1.0 for node in norms for row in (node.inputs[1], node.inputs[4])}


def _require_trainable(graph: Graph) -> None:
    """A float network of one input, one sample and one output.

    Raises:
        UsageError: it is quantized.
        CompileError: it has other inputs or outputs.
    """
    if graph.stage is not Stage.NN:
        text = f"the network '{graph.name}' is quantized already"
        raise UsageError(Diagnostic("train.model", text, allowed="a float32 network"))
    inputs = graph.inputs
    if len(inputs) != 1 or len(graph.outputs) != 1:
        text = f"the network '{graph.name}' has {len(inputs)} inputs and {len(graph.outputs)} outputs"
        raise CompileError(Diagnostic("model.untrainable", text, allowed="one of each"))
    if inputs[0].shape[0] != 1 or inputs[0].type.dtype is not DType.F32:
        text = f"the input '{inputs[0].name}' is {inputs[0].type}"
        raise CompileError(Diagnostic("model.untrainable", text, inputs[0].loc, "float32, one sample"))


class _Fresh:
    """New weights, each from a stream of its own."""

    def __init__(self, seed: int) -> None:
        self.seed, self.made = seed, 0

    def weight(self, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """A weight of the network language."""
        self.made += 1
        return initial(DEFAULTS.get(name.rpartition("/")[2], "zeros"), shape, (self.seed, self.made))

    def again(self, value: NDArray[Any], row: float) -> NDArray[np.float32]:
        """A weight of the shape of one: of products random, of rows a number."""
        self.made += 1
        if value.ndim < 2:
            return np.full(value.shape, row, np.float32)
        order = (2, 3, 1, 0) if value.ndim == 4 else (0, 1)
        fresh = initial("glorot_uniform", tuple(value.shape[i] for i in order), (self.seed, self.made))
        return np.ascontiguousarray(fresh.transpose(np.argsort(order)))


def labelled(names: Collection[str], *, test: bool = False) -> tuple[str, str] | None:
    """The arrays of a file that are samples and labels, where it has Keras's names for them."""
    wanted = ("x_test", "y_test") if test else ("x_train", "y_train")
    return wanted if set(wanted) <= set(names) else None
