"""A network to be trained: a float graph, its parameters, what its inputs are."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

from numpy.typing import NDArray

import compiler.train.losses  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.errors import CompileError
from compiler.ir.graph import Graph, Input, Node
from compiler.ir.op import Op, ShapeError
from compiler.ir.stage import Stage
from compiler.ir.types import DType
from compiler.ops.batch_norm import BatchNorm
from compiler.ops.shapes import Reshape, Transpose
from compiler.ops.sliding_window import TO_NCHW, TO_NHWC
from compiler.passes.base import Pass, run_passes
from compiler.passes.cancel_transposes import CancelTransposes
from compiler.passes.eliminate_dead import EliminateDead
from compiler.passes.eliminate_identity import EliminateIdentity
from compiler.passes.fold_bias import FoldBias
from compiler.passes.fuse_activation import FuseActivation
from compiler.passes.pool_maxima import IMAGE_RANK, PoolMaxima
from compiler.passes.split_prelu import SplitPRelu
from compiler.passes.to_device_layout import ToDeviceLayout
from compiler.train.gradient import open_parameters
from compiler.train.losses.loss import loss_of
from isa.support.diagnostics import Diagnostic
from isa.support.records import Frozen, replace

CATEGORICAL: Final = "categorical_crossentropy"
RESERVED: Final = ("labels", "numbers", "keys", "moving", "weights", "step")
"""Names of what a step is given beside its samples."""
SIMPLIFY: Final[tuple[Pass, ...]] = (
    EliminateIdentity(dropout=False),
    FoldBias(),
    SplitPRelu(),
    FuseActivation(),
    PoolMaxima(),
    EliminateDead(),
)
"""What is done to a network before training; what training changes is not folded."""
LAYOUT: Final[tuple[Pass, ...]] = (
    ToDeviceLayout(Stage.NN),
    CancelTransposes(),
    EliminateIdentity(dropout=False),
)


class TrainableNetwork(Frozen):
    """A float network to be trained: its inputs, the sums before its loss, its parameters.

    `input_type` and `input_c` say what the codes of inputs are: q * c.
    """

    graph: Graph
    logits: Node
    parameters: Mapping[str, Node]
    frozen: frozenset[str] = frozenset()
    """Parameters that training leaves as they are."""
    input_type: DType = DType.U8
    input_c: Fraction = Fraction(1, 255)
    loss: str = CATEGORICAL

    @property
    def source(self) -> Node:
        """The input that the samples are."""
        parameters = {p.id for p in self.parameters.values()}
        return next(n for n in self.graph.inputs if n.id not in parameters)

    @property
    def statistics(self) -> frozenset[str]:
        """The parameters that are running statistics: no gradient changes them."""
        rows = {row.id for node, _ in self.graph.of(BatchNorm) for row in node.inputs[3:]}
        return frozenset(name for name, node in self.parameters.items() if node.id in rows)

    @property
    def moving(self) -> frozenset[str]:
        """Those of them that move in training."""
        return self.statistics - self.frozen


def network_of(
    graph: Graph,
    parameters: Collection[str],
    *,
    input_type: DType,
    input_c: Fraction,
    frozen: Collection[str] = (),
    loss: str = CATEGORICAL,
) -> tuple[TrainableNetwork, dict[str, NDArray[Any]]]:
    """A float graph as a network to be trained, and the values of its parameters.

    Args:
        graph: it is simplified and extended; its one output is a function that the loss takes back, or what
            it is of.
        parameters: names of the constants that are weights; others stay constants.
        input_type: of the codes of inputs.
        input_c: what their unit stands for.
        frozen: parameters that training leaves as they are.
        loss: its name.

    Raises:
        CompileError: a loss that does not fit the last layer.
    """
    prepared = run_passes(graph, SIMPLIFY)
    logits = loss_of(loss).operand(prepared)
    constants = [n for n in prepared.nodes() if n.is_constant and n.name in set(parameters)]
    source = next(n for n in prepared.nodes() if isinstance(n.op, Input))
    if source.name in RESERVED:
        source.name = f"{source.name}_given"
    opened = open_parameters(prepared, constants)
    found = TrainableNetwork(prepared, logits, opened.nodes, frozenset(frozen), input_type, input_c, loss)
    return found, dict(opened.values)


def for_loss(network: TrainableNetwork, loss: str) -> TrainableNetwork:
    """The network to be trained by another loss.

    Raises:
        CompileError: the loss does not fit the last layer.
    """
    return replace(network, logits=loss_of(loss).operand(network.graph), loss=loss)


def channels_last(graph: Graph) -> tuple[Graph, tuple[int, ...]]:
    """A float graph in the device's layout, and how the host permutes the axes of its input for it."""
    made = run_passes(graph, SIMPLIFY)
    (source,) = (n for n in made.nodes() if isinstance(n.op, Input))
    kept = tuple(range(len(source.shape)))
    if any(getattr(n.op, "layout", "NHWC") != "NHWC" for n in made.nodes()) and len(kept) == IMAGE_RANK:
        turned = _turned_input(made.copy())
        run_passes(turned, LAYOUT)
        if not any(isinstance(n.op, Transpose) for n in turned.nodes()):
            return turned, TO_NHWC
    return run_passes(made, LAYOUT), kept


def _turned_input(graph: Graph) -> Graph:
    """The graph with an input of images in the device's layout."""
    (source,) = (n for n in graph.nodes() if isinstance(n.op, Input))
    shape = tuple(source.shape[p] for p in TO_NHWC)
    given = graph.input(source.name, source.type.dtype, shape, source.loc)
    name = graph.unused_name(f"{source.name}/given")
    graph.replace(source, graph.add(Transpose(TO_NCHW), (given,), name=name))
    return graph


def host_shape(shape: Sequence[int], perm: Sequence[int]) -> tuple[int, ...]:
    """The shape of what the host permutes by `perm` to a shape of the device."""
    return tuple(shape[perm.index(axis)] for axis in range(len(perm)))


def _for_batch(graph: Graph, node: Node, operation: Op, operands: Sequence[Node]) -> Node:
    """A node's operation on a batch.

    Raises:
        CompileError: it is written for the number of samples that the model has.
    """
    try:
        made = graph.add(operation, operands, name=node.name, loc=node.loc)
    except ShapeError:
        made = None
    grown = any(o.shape != i.shape for o, i in zip(operands, node.inputs, strict=True))
    if made is None or made.shape[1:] != node.shape[1:] or (grown and made.shape == node.shape):
        kind = operation.name.rpartition(".")[2]
        text = (
            f"'{node.name}' ({kind}) is written for one sample: no step of training computes it for a batch"
        )
        raise CompileError(Diagnostic("model.untrainable", text, node.loc))
    return made


def groups_of(batch: int, group: int) -> tuple[int, ...]:
    """The sizes of the groups of a batch: the last has what is left."""
    whole, rest = divmod(batch, group)
    return (group,) * whole + ((rest,) if rest else ())


def rebatched(network: TrainableNetwork, batch: int, group: int = 0) -> TrainableNetwork:
    """A copy of a network of one sample, for so many; reshapes keep the first dimension apart.

    With a `group` batches are normalized by the statistics of groups of so many samples, but where a layer
    does not train; else by the running statistics.
    """
    source, made = network.graph, Graph(network.graph.name)
    moving = network.moving
    copies: dict[int, Node] = {}
    parameters = {p.id for p in network.parameters.values()}
    for node in source.nodes():
        if node.is_constant:
            copies[node.id] = made.const(node.constant, node.name, node.loc)
        elif isinstance(node.op, Input):
            shape = node.shape if node.id in parameters else (batch, *node.shape[1:])
            copies[node.id] = made.input(node.name, node.type.dtype, shape, node.loc)
        else:
            operation = node.op
            if isinstance(operation, Reshape):
                operation = Reshape((batch, *operation.shape[1:]))
            if isinstance(operation, BatchNorm) and group and node.inputs[3].name in moving:
                operation = replace(operation, groups=groups_of(batch, group))
            copies[node.id] = _for_batch(made, node, operation, [copies[i.id] for i in node.inputs])
    made.set_outputs([copies[n.id] for n in source.outputs], source.output_names)
    opened = {name: copies[node.id] for name, node in network.parameters.items()}
    return replace(network, graph=made, logits=copies[network.logits.id], parameters=opened)
