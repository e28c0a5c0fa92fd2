"""Nodes with several results: built, printed, read, checked, copied and evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.errors import CompileError
from compiler.frontend.ir_reader import parse_graph
from compiler.ir.evaluate import outputs
from compiler.ir.graph import Graph
from compiler.ir.op import OPS, Op, ShapeError, op
from compiler.ir.printer import print_graph
from compiler.ir.stage import Stage
from compiler.ir.types import DType, TensorType
from compiler.ir.verify import VerifyError, verify
from compiler.passes.infer_shapes import InferShapes

X = np.array([3.0, 1.0, 2.0], np.float32)


@pytest.fixture
def sort_op() -> Iterator[type[Op]]:
    @op("nn.test_sort", "x:f32")
    class Sort(Op):
        """The values in ascending order, and where each stood."""

        def infer_all(self, types: Sequence[TensorType]) -> tuple[TensorType, ...]:
            return types[0], TensorType(DType.I32, types[0].shape)

        def evaluate_all(
            self, args: Sequence[NDArray[Any]], types: Sequence[TensorType], outs: Sequence[TensorType]
        ) -> tuple[NDArray[Any], ...]:
            del types, outs
            return np.sort(args[0]), np.argsort(args[0])

    yield Sort
    del OPS["nn.test_sort"]


def graph_of(sort: type[Op]) -> Graph:
    graph = Graph("sorted", Stage.NN)
    node = graph.add(sort(), [graph.input("x", DType.F32, (3,))], name="s")
    graph.set_outputs([node, graph.element(node, 1, name="where")], ["values", "indices"])
    return graph


def test_every_result_has_its_type_and_its_value(sort_op: type[Op]) -> None:
    graph = graph_of(sort_op)
    verify(graph)
    found = outputs(graph, {"x": X})
    assert found["values"].tolist() == [1, 2, 3]
    assert found["indices"].tolist() == [1, 2, 0]
    assert found["indices"].dtype == np.int32


def test_the_text_form_is_read_back(sort_op: type[Op]) -> None:
    graph = graph_of(sort_op)
    text = print_graph(graph, blobs=True)
    assert "%1 = nn.test_sort %0 : f32[3], i32[3] name" in text
    assert "%2 = tuple_element %1 {index=1} : i32[3] name" in text
    assert print_graph(parse_graph(text), blobs=True) == text
    assert graph.copy() == graph


def test_a_result_is_asked_for_once_and_the_first_is_the_node(sort_op: type[Op]) -> None:
    graph = graph_of(sort_op)
    node, element = graph.outputs
    assert graph.element(node, 0) is node
    assert graph.element(node, 1) is element


def test_a_result_that_is_not_there_is_refused(sort_op: type[Op]) -> None:
    graph = graph_of(sort_op)
    with pytest.raises(ShapeError, match=r"nn\.test_sort has no result 2"):
        graph.element(graph.outputs[0], 2)
    text = print_graph(graph, blobs=True)
    for before, after in (
        ("{index=1}", "{index=2}"),
        ("{index=1}", "{index=0}"),
        ("f32[3], i32[3] name", "f32[3], f32[3] name"),
        ("f32[3], i32[3] name", "f32[3] name"),
        ("= input : f32[3] name", "= input : f32[3], f32[3] name"),
        ("tuple_element %1", "tuple_element %0"),
        ("tuple_element %1", "tuple_element %1, %1"),
        ("tuple_element %1", "tuple_element"),
    ):
        assert before in text
        with pytest.raises(CompileError):
            parse_graph(text.replace(before, after))


def test_shapes_are_inferred_for_every_result(sort_op: type[Op]) -> None:
    graph = graph_of(sort_op)
    node, element = graph.outputs
    graph.retype(graph.inputs[0], TensorType(DType.F32, (5,)))
    with pytest.raises(VerifyError):
        verify(graph)
    InferShapes().run(graph)
    assert [t.shape for t in (*node.types, element.type)] == [(5,), (5,), (5,)]
    verify(graph)
