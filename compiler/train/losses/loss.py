"""What a loss is: a number from what a network gives and what it should; where networks end for it."""

from __future__ import annotations

from typing import ClassVar, Final

from compiler.errors import CompileError
from compiler.ir.graph import Graph, Node
from compiler.ir.op import Op
from compiler.ir.types import DType, Shape
from compiler.ops.activation import Unary
from compiler.ops.softmax import Softmax
from isa.support.diagnostics import Diagnostic


class TrainingLoss(Op):
    """The base of losses, means over the samples; operands: what a network gives, and labels."""

    of_sums: ClassVar[bool] = True
    """Whether it takes the sums of the last layer as they are."""
    labels: ClassVar[DType] = DType.F32
    """The type of labels."""
    end: ClassVar[str] = ""
    """The function that the network ends in, and that the loss takes back."""

    @classmethod
    def labels_shape(cls, shape: Shape) -> Shape:
        """The shape of the labels for what a network gives."""
        return shape

    @classmethod
    def operand(cls, graph: Graph) -> Node:
        """Where a network ends for the loss; the function that is missing is added to it.

        Raises:
            CompileError: the network ends otherwise.
        """
        (result,) = graph.outputs
        found = _function(result)
        if cls.end and found == cls.end and len(result.shape) == BATCH_RANK:
            return result.inputs[0]
        if found or len(result.shape) != BATCH_RANK:
            name = cls.name.rpartition(".")[2]
            what = found if len(result.shape) == BATCH_RANK else f"values of the shape {list(result.shape)}"
            text = f"the network ends in {what}, which {name} does not fit"
            allowed = f"{cls.end}, or the sums before it" if cls.end else "values of a dense layer"
            raise CompileError(Diagnostic("train.loss", text, result.loc, allowed))
        return cls.ended(graph, result)

    @classmethod
    def ended(cls, graph: Graph, result: Node) -> Node:
        """The operand, where the network ends in it."""
        del graph
        return result


def _function(node: Node) -> str:
    """The function that a value is the result of, if it is one that ends networks."""
    match node.op:
        case Softmax():
            return "softmax"
        case Unary(function=function):
            return function
        case _:
            return "a clamp" if getattr(node.op, "clamp", None) is not None else ""


BATCH_RANK: Final = 2
"""A network that is trained gives a row for each sample."""
REAL: Final = "mean_squared_error"
"""The loss of a network that gives values."""
LOSSES: Final[dict[str, type[TrainingLoss]]] = {}
"""By their names."""


def loss_for(graph: Graph) -> str:
    """The name of the loss that takes back what a network ends in; of one that gives values, their error."""
    found = _function(graph.outputs[0])
    return next((name for name, kind in LOSSES.items() if found and kind.end == found), REAL)


def loss_of(name: str) -> type[TrainingLoss]:
    """The loss of a name."""
    return LOSSES[name]


def training_loss(kind: type[TrainingLoss]) -> type[TrainingLoss]:
    """Register a loss."""
    LOSSES[kind.name.rpartition(".")[2]] = kind
    return kind
