"""Reverse mode in float: every rule by central differences, and what has no gradient by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.errors import CompileError
from compiler.frontend.load import load_model
from compiler.ir.evaluate import walk
from compiler.ir.graph import Graph, Node
from compiler.ir.types import DType
from compiler.ir.verify import verify
from compiler.ops.batch_norm import BatchNorm
from compiler.ops.gemm import Gemm
from compiler.ops.max_pool import MaxPool
from compiler.ops.reduce import Spread
from compiler.ops.shapes import Reshape
from compiler.ops.softmax import Softmax
from compiler.rules.differentiating import GRADIENTS, Differentiator, Errors
from compiler.train.gradient import Parameters, differentiate, open_parameters
from compiler.train.losses.binary_crossentropy import BinaryCrossentropy
from compiler.train.losses.categorical_crossentropy import CategoricalCrossentropy
from compiler.train.losses.loss import TrainingLoss
from compiler.train.losses.mean_squared_error import MeanSquaredError
from tests.models import model, node

Array = NDArray[Any]
STEP = 2e-3
BATCH, CLASSES = 6, 4
Random = np.random.Generator


def values(r: Random, *shape: int) -> Array:
    return r.uniform(-1, 1, shape).astype(np.float32)


def conv(r: Random, nodes: list[Any], constants: dict[str, Array], x: str, y: str, cin: int, cout: int, k: int = 3,
         groups: int = 1, **attributes: Any) -> None:  # fmt: skip
    constants |= {f"{y}_w": values(r, cout, cin // groups, k, k) / 2, f"{y}_b": values(r, cout) / 2}
    nodes.append(node("Conv", f"{x} {y}_w {y}_b", y, group=groups, **attributes))


def head(r: Random, nodes: list[Any], constants: dict[str, Array], x: str, features: int) -> None:
    constants |= {"head_w": values(r, features, CLASSES), "head_b": values(r, CLASSES)}
    nodes += [
        node("Flatten", x, "flat"),
        node("Gemm", "flat head_w head_b", "logits"),
        node("Softmax", "logits", "p"),
    ]


Body = Callable[[Random, list[Any], dict[str, Array]], tuple[str, int]]
"""Adds layers between x, (batch, 3, 7, 8), and the head; the name of the last value and its features."""


def strided(r: Random, nodes: list[Any], constants: dict[str, Array]) -> tuple[str, int]:
    conv(r, nodes, constants, "x", "a", 3, 5, strides=[2, 3], pads=[1, 0, 2, 1])
    nodes.append(node("Relu", "a", "b"))
    return "b", 5 * 4 * 3


def dilated(r: Random, nodes: list[Any], constants: dict[str, Array]) -> tuple[str, int]:
    conv(r, nodes, constants, "x", "a", 3, 4, dilations=[2, 2], pads=[2, 2, 2, 2])
    nodes.append(node("Clip", "a low high", "b"))
    constants |= {"low": np.array(-0.5, np.float32), "high": np.array(0.75, np.float32)}
    return "b", 4 * 7 * 8


def depthwise(r: Random, nodes: list[Any], constants: dict[str, Array]) -> tuple[str, int]:
    conv(r, nodes, constants, "x", "a", 3, 6, groups=3, pads=[1, 1, 1, 1])
    conv(r, nodes, constants, "a", "b", 6, 4, groups=2)
    return "b", 4 * 5 * 6


def maxima(r: Random, nodes: list[Any], constants: dict[str, Array]) -> tuple[str, int]:
    conv(r, nodes, constants, "x", "a", 3, 4)
    nodes += [
        node("MaxPool", "a", "b", kernel_shape=[3, 2], strides=[1, 2], pads=[1, 0, 1, 0]),
        node("MaxPool", "b", "c", kernel_shape=[2, 2], dilations=[2, 1], strides=[1, 1]),
    ]
    return "c", 4 * 3 * 2


def means(r: Random, nodes: list[Any], constants: dict[str, Array]) -> tuple[str, int]:
    conv(r, nodes, constants, "x", "a", 3, 4, pads=[1, 1, 1, 1])
    nodes += [
        node("AveragePool", "a", "b", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node(
            "AveragePool",
            "b",
            "c",
            kernel_shape=[2, 2],
            strides=[1, 1],
            pads=[1, 1, 0, 0],
            count_include_pad=1,
        ),
        node("GlobalAveragePool", "c", "d"),
    ]
    return "d", 4


def residual(r: Random, nodes: list[Any], constants: dict[str, Array]) -> tuple[str, int]:
    """Forks, a sum of three errors, an operand that is broadcast."""
    conv(r, nodes, constants, "x", "a", 3, 4, pads=[1, 1, 1, 1])
    conv(r, nodes, constants, "a", "b", 4, 4, pads=[1, 1, 1, 1])
    nodes += [
        node("Add", "a b", "c"),
        node("GlobalAveragePool", "c", "g"),
        node("Add", "c g", "d"),
        node("Relu", "d", "e"),
    ]
    return "e", 4 * 7 * 8


def joined(r: Random, nodes: list[Any], constants: dict[str, Array]) -> tuple[str, int]:
    conv(r, nodes, constants, "x", "a", 3, 4)
    conv(r, nodes, constants, "x", "b", 3, 2)
    nodes += [
        node("Concat", "a b a", "c", axis=1),
        node("Pad", "c pads", "d"),
        node("Transpose", "d", "e", perm=[0, 2, 3, 1]),
        node("ReduceSum", "e axes", "f", keepdims=1),
    ]
    constants |= {"pads": np.array([0, 0, 1, 0, 0, 0, 0, 2], np.int64), "axes": np.array([1], np.int64)}
    return "f", 8 * 10


BODIES: dict[str, Body] = {
    b.__name__: b for b in (strided, dilated, depthwise, maxima, means, residual, joined)
}


def opened(body: Body, seed: int) -> tuple[Graph, Node, Parameters]:
    """A network with its loss in place of the softmax, and its parameters."""
    r = np.random.default_rng(seed)
    nodes: list[Any] = []
    constants: dict[str, Array] = {}
    last, features = body(r, nodes, constants)
    head(r, nodes, constants, last, features)
    made = model(nodes, {"x": (BATCH, 3, 7, 8)}, "p", constants)
    graph = load_model(made.SerializeToString())
    (softmax,) = (n for n, _ in graph.of(Softmax))
    labels = graph.input("labels", DType.I32, (BATCH,))
    loss = graph.add(CategoricalCrossentropy(), (softmax.inputs[0], labels), name="loss")
    graph.set_outputs([loss], ["loss"])
    floats = [n for n in graph.nodes() if n.is_constant and n.type.dtype is DType.F32 and n.shape]
    return graph, loss, open_parameters(graph, floats)


def value_of(graph: Graph, nodes: list[Node], given: Mapping[str, Array]) -> list[Array]:
    found = {n.id: v for n, v in walk(graph, given) if n in nodes}
    return [found[n.id] for n in nodes]


@pytest.mark.parametrize("name", BODIES)
def test_a_gradient_is_what_central_differences_say(name: str) -> None:
    """Along the gradient of each parameter, and of the input: the median of relative errors at most 0.002."""
    errors: list[float] = []
    for seed in range(3):
        graph, loss, parameters = opened(BODIES[name], seed)
        (x,) = (n for n in graph.inputs if n.name == "x")
        wanted = [x, *parameters.nodes.values()]
        found = differentiate(graph, loss, wanted)
        graph.set_outputs([loss, *found], ["loss", *(f"d{i}" for i in range(len(found)))])
        verify(graph)
        r = np.random.default_rng(seed + 100)
        given: dict[str, Array] = {"x": values(r, *x.shape), **parameters.values}
        given["labels"] = r.integers(0, CLASSES, BATCH).astype(np.int32)
        for variable, gradient in zip(wanted, value_of(graph, found, given), strict=True):
            length = float(np.linalg.norm(gradient))
            assert length > 0, variable.name
            along = (gradient / length).astype(np.float32)
            ahead, behind = (
                float(value_of(graph, [loss], {**given, variable.name: given[variable.name] + s * along})[0])
                for s in (np.float32(STEP), np.float32(-STEP))
            )
            errors.append(abs((ahead - behind) / (2 * STEP) - length) / length)
    assert np.median(errors) <= 0.002, errors
    assert max(errors) <= 0.05, errors


@pytest.mark.parametrize("groups", [(), (6,), (4, 2)])
def test_gradients_of_batch_normalization_are_what_central_differences_say(groups: tuple[int, ...]) -> None:
    """By running statistics, by those of the batch, by those of its groups."""
    r = np.random.default_rng(len(groups))
    graph = Graph("norm")
    shapes = {"x": (BATCH, 3, 4, 5), "scale": (5,), "offset": (5,), "w": (60, CLASSES)}
    nodes = {name: graph.input(name, DType.F32, shape) for name, shape in shapes.items()}
    given = {name: values(r, *shape) for name, shape in shapes.items()}
    given["labels"] = r.integers(0, CLASSES, BATCH).astype(np.int32)
    rows = [graph.const(values(r, 5), "mean"), graph.const(np.abs(values(r, 5)) + 0.5, "variance")]
    norm = graph.add(
        BatchNorm(3, 1e-3, groups, clamp=(0.0, np.inf)), (*list(nodes.values())[:3], *rows), name="norm"
    )
    flat = graph.add(Reshape((BATCH, 60)), (norm,), name="flat")
    logits = graph.add(
        Gemm(1.0), (flat, nodes["w"], graph.const(np.zeros(CLASSES, np.float32), "b")), name="y"
    )
    labels = graph.input("labels", DType.I32, (BATCH,))
    loss = graph.add(CategoricalCrossentropy(), (logits, labels), name="loss")
    found = differentiate(graph, loss, list(nodes.values()))
    errors: list[float] = []
    for name, gradient in zip(nodes, value_of(graph, found, given), strict=True):
        length = float(np.linalg.norm(gradient))
        along = (gradient / length).astype(np.float32)
        ahead, behind = (
            float(value_of(graph, [loss], {**given, name: given[name] + s * along})[0])
            for s in (np.float32(STEP), np.float32(-STEP))
        )
        errors.append(abs((ahead - behind) / (2 * STEP) - length) / length)
    assert np.median(errors) <= 0.002, errors
    assert max(errors) <= 0.01, errors


@pytest.mark.parametrize("loss", [BinaryCrossentropy(), MeanSquaredError()])
def test_gradients_of_losses_are_what_central_differences_say(loss: TrainingLoss) -> None:
    r = np.random.default_rng(5)
    graph = Graph("loss")
    x, y = (graph.input(name, DType.F32, (BATCH, CLASSES)) for name in ("x", "labels"))
    made = graph.add(loss, (x, y), name="loss")
    (found,) = differentiate(graph, made, [x])
    given = {"x": values(r, BATCH, CLASSES), "labels": r.integers(0, 2, (BATCH, CLASSES)).astype(np.float32)}
    (gradient,) = value_of(graph, [found], given)
    length = float(np.linalg.norm(gradient))
    ahead, behind = (
        float(value_of(graph, [made], {**given, "x": given["x"] + np.float32(s / length) * gradient})[0])
        for s in (STEP, -STEP)
    )
    assert abs((ahead - behind) / (2 * STEP) - length) / length <= 0.002


def test_a_planted_fault_in_a_rule_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    before = GRADIENTS[MaxPool]

    def wrong(d: Differentiator, node: Node, operation: MaxPool, error: Node) -> Errors:
        (right,) = before(d, node, operation, error)
        assert right is not None
        return (d.add(Spread(right.shape, 1.01), (right,), node),)

    monkeypatch.setitem(GRADIENTS, MaxPool, wrong)
    with pytest.raises(AssertionError):
        test_a_gradient_is_what_central_differences_say("maxima")


def test_what_has_no_gradient_is_named_with_what_has() -> None:
    def body(r: Random, nodes: list[Any], constants: dict[str, Array]) -> tuple[str, int]:
        conv(r, nodes, constants, "x", "a", 3, 4)
        nodes += [node("Erf", "a", "b"), node("ReduceMax", "b axes", "c", keepdims=1)]
        constants["axes"] = np.array([2], np.int64)
        return "c", 4 * 6

    graph, loss, parameters = opened(body, 0)
    with pytest.raises(CompileError) as refused:
        differentiate(graph, loss, list(parameters.nodes.values()))
    said = [(d.code, d.message, d.allowed) for d in refused.value.diagnostics]
    assert [code for code, *_ in said] == ["model.untrainable"]
    assert "'c'" in said[0][1] or "reduce" in said[0][1]
    assert "mean, sum" in said[0][2]


def test_a_parameter_that_the_loss_does_not_use_is_named() -> None:
    graph, loss, _ = opened(strided, 0)
    lonely = graph.input("lonely", DType.F32, (2,))
    with pytest.raises(CompileError) as refused:
        differentiate(graph, loss, [lonely])
    assert "does not depend on 'lonely'" in str(refused.value)
