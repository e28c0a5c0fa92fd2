"""ONNX models as ONNX Runtime is to run them for a comparison: in float32, every tensor an output."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper

from compiler.frontend.onnx_file import OnnxModel
from compiler.frontend.onnx_functions import in_order, names_read
from compiler.rules.importing import OTHER_FLOATS
from x1.lab.onnx_runtime import DISABLE_ALL, Arrays, OracleFailure, OracleSession

TYPE_ATTRIBUTES: Final = ("to", "dtype")
"""Attributes that hold the type of a result."""
MOST_EXCLUDED: Final = 32
"""Nodes left out of a model before it is given up."""


def load_model(given: OnnxModel) -> ModelProto:
    """A model that the importer has taken, with its external data, its functions inlined."""
    library = cast("Any", onnx)
    model = library.load_from_string(given) if isinstance(given, bytes) else library.load(given)
    return inliner.inline_local_functions(model) if model.functions else model


def in_float32(model: ModelProto) -> ModelProto:
    """The model with float32 in place of float16, bfloat16 and float64; changed where it stands."""
    _graph_in_float32(model.graph)
    return model


def _graph_in_float32(graph: GraphProto) -> None:
    for tensor in graph.initializer:
        _tensor_in_float32(tensor)
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in OTHER_FLOATS:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _tensor_in_float32(attribute.t)
            elif attribute.type == AttributeProto.GRAPH:
                _graph_in_float32(attribute.g)
            elif attribute.name in TYPE_ATTRIBUTES and attribute.i in OTHER_FLOATS:
                attribute.i = TensorProto.FLOAT


def _tensor_in_float32(tensor: TensorProto) -> None:
    if tensor.data_type in OTHER_FLOATS:
        with np.errstate(over="ignore"):
            values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


class ToleratedModel:
    """A model in ONNX Runtime without optimizations; nodes that it refuses or dies of are left out.

    What is left out is found when it is first run on an input: the shortest run of nodes, in order of
    computation, that fails ends in one of them. What follows from it is left out too.

    Args:
        model: the whole model; its outputs become those of all its nodes that are `wanted`.
        wanted: names of tensors.
    """

    def __init__(self, model: ModelProto, wanted: Collection[str]) -> None:
        self._model = model
        self._nodes = in_order(model.graph.node)
        self._wanted = {o for node in self._nodes for o in node.output if o} & set(wanted)
        self._left = list(range(len(self._nodes)))
        self._session: OracleSession | None = None
        self._taken: set[str] = set()
        self.failures: dict[str, str] = {}
        """What was left out and why, by the name of the node."""
        self.real: frozenset[str] = frozenset()
        """The tensors given that are real numbers."""

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """The wanted tensors that ONNX Runtime gives.

        Raises:
            OracleFailure: it fails on too many nodes.
        """
        while True:
            try:
                return self._run(self._left, inputs, self._wanted)
            except OracleFailure as failure:
                if len(self.failures) == MOST_EXCLUDED or not self._left:
                    raise
                self._session = None
                self._leave_out(inputs, str(failure))

    def _run(
        self, chosen: Sequence[int], inputs: Mapping[str, NDArray[Any]], wanted: Collection[str]
    ) -> Arrays:
        if self._session is None:
            nodes = [self._nodes[i] for i in chosen]
            part = part_of(self._model, nodes, wanted)
            if not part.graph.output:
                return {}
            self._session = OracleSession(part.SerializeToString(), DISABLE_ALL)
            self._taken = {i.name for i in part.graph.input}
            self.real = self._session.real
        return self._session.run({name: v for name, v in inputs.items() if name in self._taken})

    def _leave_out(self, inputs: Mapping[str, NDArray[Any]], why: str) -> None:
        """Find the first node on which it fails, by halving, and leave it out with all that follows."""
        good, bad = 0, len(self._left)
        every = {o for node in self._nodes for o in node.output if o}
        while bad - good > 1:
            middle = (good + bad) // 2
            try:
                self._run(self._left[:middle], inputs, every)
                good = middle
            except OracleFailure as failure:
                bad, why = middle, str(failure)
            self._session = None
        culprit = self._nodes[self._left[good]]
        self.failures[culprit.name or culprit.output[0]] = f"{culprit.op_type}: {why}"
        gone = set(culprit.output)
        left: list[int] = []
        for i in self._left[:good] + self._left[good + 1 :]:
            if any(name in gone for name in self._nodes[i].input):
                gone.update(self._nodes[i].output)
            else:
                left.append(i)
        self._left = left


def part_of(model: ModelProto, nodes: Sequence[NodeProto], outputs: Collection[str]) -> ModelProto:
    """A model of some nodes, with every wanted tensor that they give as an output."""
    used = {name for node in nodes for name in names_read(node)}
    made = [o for node in nodes for o in node.output if o in outputs]
    declared = {o.name: o for o in model.graph.output}
    part = ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    graph = part.graph
    graph.name = model.graph.name or "part"
    graph.node.extend(nodes)
    graph.input.extend(i for i in model.graph.input if i.name in used)
    graph.initializer.extend(t for t in model.graph.initializer if t.name in used)
    graph.sparse_initializer.extend(t for t in model.graph.sparse_initializer if t.values.name in used)
    graph.output.extend(declared.get(name, helper.make_empty_tensor_value_info(name)) for name in made)
    return part
