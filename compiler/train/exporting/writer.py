"""What both forms of a trained network have in common: a model of one input and an open batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import CompileError
from compiler.export.qoperator import IR_VERSION, OPSETS
from compiler.ir.graph import Graph, Node
from compiler.ir.op import Op
from compiler.ops.conv2d import Conv2d
from compiler.ops.depth_to_space import Take
from compiler.ops.max_pool import MaxPool
from compiler.ops.sliding_window import TO_NCHW, TO_NHWC, Pads, Pair
from compiler.train.integer.convolution import StepConv2d
from compiler.train.network import host_shape
from isa.support.diagnostics import Diagnostic

Array = NDArray[Any]
BATCH: Final = "N"
"""The name of the open dimension."""


class ModelWriter:
    """Collects nodes and initializers of a model of one input, its samples, in the layout of its source.

    `perm` says how the host permutes the axes of a batch for the device.
    """

    def __init__(self, graph: Graph, perm: tuple[int, ...]) -> None:
        self.graph, self.perm = graph, perm
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}

    def add(self, kind: str, inputs: list[str], output: str, domain: str = "", **attributes: Any) -> str:
        """A node; gives back its output."""
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], name=name, domain=domain, **attributes))
        return output

    def constant(self, name: str, value: Array) -> str:
        """An initializer."""
        self.constants[name] = value
        return name

    def turned(self, source: Node) -> str:
        """The samples in the device's layout."""
        if self.perm == tuple(range(len(self.perm))):
            return source.name
        name = self.graph.unused_name(f"{source.name}_turned")
        return self.add("Transpose", [source.name], name, perm=list(self.perm))

    def images(self, x: str, output: str, write: Callable[[str, str], object]) -> None:
        """Write what ONNX has in its own layout only."""
        given = self.add("Transpose", [x], f"{output}_in", perm=list(TO_NCHW))
        write(given, f"{output}_nchw")
        self.add("Transpose", [f"{output}_nchw"], output, perm=list(TO_NHWC))

    def window(
        self, kind: str, x: str, output: str, geometry: tuple[Pair, Pair, Pads], **attributes: Any
    ) -> None:
        """A pooling: kernel, strides, pads."""
        kernel, strides, pads = (list(part) for part in geometry)

        def pool(given: str, result: str) -> None:
            options: dict[str, Any] = {"kernel_shape": kernel, "strides": strides, "pads": pads, **attributes}
            self.add(kind, [given], result, **options)

        self.images(x, output, pool)

    def maxima(self, x: str, node: Node, operation: MaxPool) -> None:
        """A pooling by the maximum."""
        geometry, dilations = (operation.kernel, operation.strides, operation.pads), list(operation.dilations)
        self.window("MaxPool", x, node.name, geometry, dilations=dilations)

    def padded(self, x: str, output: str, pads: tuple[Sequence[int], Sequence[int]], value: str) -> None:
        """A constant before and after every axis."""
        before, after = pads
        extents = self.constant(f"{output}_pads", np.array([*before, *after], np.int64))
        self.add("Pad", [x, extents, value], output)

    def reshaped(self, x: str, node: Node) -> None:
        """Another shape, the batch as it is."""
        shape = self.constant(f"{node.name}_shape", np.array([0, *node.shape[1:]], np.int64))
        self.add("Reshape", [x, shape], node.name)

    def taken(self, x: str, node: Node, operation: Take) -> None:
        """Elements along an axis."""
        indices = self.constant(f"{node.name}_indices", np.array(operation.indices, np.int64))
        self.add("Gather", [x, indices], node.name, axis=operation.axis)

    def finished(self, source: Node, outputs: Mapping[str, int]) -> onnx.ModelProto:
        """The model; outputs by name with the number of their classes."""
        host = host_shape(source.shape, self.perm)
        real = TensorProto.FLOAT
        body = helper.make_graph(
            self.nodes,
            self.graph.name,
            [helper.make_tensor_value_info(source.name, real, [BATCH, *host[1:]])],
            [helper.make_tensor_value_info(name, real, [BATCH, n]) for name, n in outputs.items()],
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        imports = [helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        return helper.make_model(body, opset_imports=imports, ir_version=IR_VERSION, producer_name="x1")


def convolution_attributes(operation: Conv2d | StepConv2d) -> dict[str, Any]:
    """The attributes of a convolution, but for its kernel's shape."""
    return {
        "strides": list(operation.strides),
        "pads": list(operation.pads),
        "dilations": list(operation.dilations),
        "group": operation.groups,
    }


def unwritable(node: Node, operation: Op) -> CompileError:
    """The refusal of an operation that has no form in ONNX."""
    kind = operation.name.rpartition(".")[2]
    text = f"'{node.name}' ({kind}) has no form in ONNX yet"
    return CompileError(Diagnostic("export.unsupported", text, node.loc))
