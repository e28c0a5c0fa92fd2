"""From layers to the graph of a network: the declarations beside the operations do the work."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import compiler.ops  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
from compiler.errors import CompileError, Unsupported
from compiler.ir.graph import Graph, Node
from compiler.ir.op import ShapeError
from compiler.ir.types import DType
from compiler.rules.importing import LAYERS, LayerCall
from isa.support.diagnostics import Diagnostic, UsageError
from isa.support.locations import NodeLoc
from isa.support.records import Frozen
from x1.keras.layers import InputLayer, Layer, Tensor

Array = NDArray[np.float32]
LONGEST = 64
"""Characters of a name in messages."""


class Wiring(Frozen):
    """The layers of a model in order, and what each reads: places of earlier ones."""

    layers: tuple[Layer, ...]
    reads: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(inputs: Sequence[Tensor], output: Tensor) -> Wiring:
        """From the values of a functional model.

        Raises:
            UsageError: the output depends on another input, or a layer is used twice.
        """
        order: list[Tensor] = list(inputs)
        _visit(output, order)
        place = {id(t): i for i, t in enumerate(order)}
        layers = tuple(t.layer for t in order)
        for i, layer in enumerate(layers):
            if any(other is layer for other in layers[:i]):
                text = f"the layer '{layer.name or type(layer).__name__}' is used twice"
                raise UsageError(Diagnostic("keras.model", text, remedy="make a layer for each place"))
            if isinstance(layer, InputLayer) and i >= len(inputs):
                raise UsageError(
                    Diagnostic("keras.model", "the outputs depend on an input that is none of the model's")
                )
        return Wiring(layers, tuple(tuple(place[id(i)] for i in t.inputs) for t in order))

    @staticmethod
    def chain(layers: Sequence[Layer]) -> Wiring:
        """Each layer reads the one before."""
        return Wiring(tuple(layers), tuple(() if i == 0 else (i - 1,) for i in range(len(layers))))


def _visit(tensor: Tensor, order: list[Tensor]) -> None:
    """Add a value and what it depends on, that first; deep models are no deeper recursion."""
    stack = [(tensor, iter(tensor.inputs))]
    known = {id(t) for t in order}
    while stack:
        at, rest = stack[-1]
        if id(at) in known:
            stack.pop()
            continue
        following = next(rest, None)
        if following is None:
            known.add(id(at))
            order.append(at)
            stack.pop()
        elif id(following) not in known:
            stack.append((following, iter(following.inputs)))


def name_layers(layers: Sequence[Layer]) -> None:
    """Give Keras's names to layers without one: conv2d, conv2d_1, ..."""
    taken = {layer.name for layer in layers if layer.name}
    if len(taken) < sum(bool(layer.name) for layer in layers):
        raise UsageError(
            Diagnostic("keras.model", "two layers have the same name", remedy="name them otherwise")
        )
    counts: dict[str, int] = {}
    for layer in layers:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower().replace("conv2_d", "conv2d")
        kind = re.sub(r"_?2_?d\b", "2d", kind)
        while not layer.name:
            count = counts.get(kind, 0)
            counts[kind] = count + 1
            name = kind if not count else f"{kind}_{count}"
            if name not in taken:
                layer.name = name


class Built(Frozen):
    """A model as a graph for a batch size: its layers' values, and which constants are their weights."""

    graph: Graph
    values: tuple[Node, ...]
    owners: dict[str, tuple[Layer, str]]
    """For every weight of the graph its layer, and what the layer calls it."""


def build(wiring: Wiring, name: str, batch: int, seed: int) -> Built:
    """The graph of a model; weights that layers do not have yet are made.

    Raises:
        CompileError: arguments or shapes that do not fit.
    """
    graph = Graph(name)
    values: list[Node] = []
    owners: dict[str, tuple[Layer, str]] = {}
    for number, (layer, reads) in enumerate(zip(wiring.layers, wiring.reads, strict=True)):
        loc = NodeLoc(name[:LONGEST], layer.name or "", type(layer).__name__)
        if isinstance(layer, InputLayer):
            assert layer.input_shape is not None
            values.append(graph.input(layer.name or "input", DType.F32, (batch, *layer.input_shape), loc))
            continue
        rule, _ = LAYERS[type(layer).__name__]
        weights = _source(layer, number, seed, owners)
        call = LayerCall(
            graph,
            type(layer).__name__,
            layer.name or "",
            [values[i] for i in reads],
            dict(_plain(layer)),
            weights,
            loc,
        )
        try:
            values.append(rule(call))
        except Unsupported as reason:
            raise CompileError(reason.diagnostic) from None
        except ShapeError as error:
            text = f"'{layer.name}': {error.message}"
            raise CompileError(Diagnostic("keras.shape", text, loc, error.allowed, error.remedy)) from None
    graph.set_outputs([values[-1]], ["output"])
    return Built(graph, tuple(values), owners)


def _plain(layer: Layer) -> dict[str, Any]:
    """Arguments as the declarations take them: tuples for lists, no arguments that say nothing."""
    plain: dict[str, Any] = {}
    for key, value in layer.arguments.items():
        if value is None:
            continue
        if callable(value):
            value = getattr(value, "__name__", value)
        plain[key] = tuple(cast("list[Any]", value)) if isinstance(value, list) else value
    return plain


def _source(
    layer: Layer, number: int, seed: int, owners: dict[str, tuple[Layer, str]]
) -> Callable[[str, tuple[int, ...]], Array]:
    def take(kind: str, shape: tuple[int, ...]) -> Array:
        owners[f"{layer.name}/{kind}"] = layer, kind
        key = (seed, number << 8 | len(owners) % 256)
        return layer.array(kind, shape, key)

    return take


def to_graph(layer: Layer, kind: str, value: Array) -> Array:
    """A weight as the graph has it."""
    if kind == "alpha":  # of a PReLU: the kernel of a depthwise convolution
        return value.reshape(-1, 1, 1, 1)
    if kind != "kernel" or value.ndim != 4:
        return value
    kh, kw, *_ = value.shape
    if type(layer).__name__ == "DepthwiseConv2D":
        return np.ascontiguousarray(value.transpose(2, 3, 0, 1).reshape(-1, 1, kh, kw))
    return np.ascontiguousarray(value.transpose(3, 2, 0, 1))


def from_graph(layer: Layer, kind: str, value: Array, shape: tuple[int, ...]) -> Array:
    """A weight of the graph as Keras has it, of that shape."""
    if kind != "kernel" or len(shape) != 4:
        return value.reshape(shape)
    kh, kw, first, second = shape
    if type(layer).__name__ == "DepthwiseConv2D":
        return np.ascontiguousarray(value.reshape(first, second, kh, kw).transpose(2, 3, 0, 1))
    return np.ascontiguousarray(value.transpose(2, 3, 1, 0))
