"""What the rules that write quantized operations as ONNX QOperator nodes see."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from compiler.ir.graph import Node
from compiler.ir.op import Op
from compiler.ir.types import Quant
from isa.support.records import Struct, field

MICROSOFT: Final = "com.microsoft"
OnnxNodeText = tuple[str, str, list[str], list[str], dict[str, Any]]
"""Operator, domain, inputs, outputs, attributes."""


class OnnxWriter(Struct):
    """Collects nodes and initializers; a node's tensor is called as `tensor(node)` says."""

    names: dict[int, str]
    nodes: list[OnnxNodeText] = field(default_factory=list[OnnxNodeText])
    initializers: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    outputs: list[str] = field(default_factory=list[str])
    """The ONNX names of the graph's outputs."""

    def tensor(self, node: Node) -> str:
        """The ONNX name of a node's value."""
        if node.is_constant:
            return self.initializer(node.constant, f"{node.name}_quantized")
        return self.names[node.id]

    def initializer(self, value: NDArray[Any], name: str) -> str:
        """An initializer of that value; a name that is taken by another value gets a number."""
        candidate, number = name, 0
        while candidate in self.initializers and not _same(self.initializers[candidate], value):
            number += 1
            candidate = f"{name}_{number}"
        self.initializers[candidate] = value
        return candidate

    def scale(self, node: Node, quant: Quant | None = None) -> str:
        """The scale of a tensor: a scalar, or one per channel."""
        q = quant or node.type.quant
        assert q is not None
        value = np.asarray(q.scales if q.axis is not None else q.scales[0], np.float32)
        return self.initializer(value, f"{node.name}_scale")

    def zero_point(self, node: Node) -> str:
        """The zero point of a tensor, of its type and as many as its scales."""
        q = node.type.quant
        assert q is not None
        value = np.full(len(q.scales) if q.axis is not None else (), q.zero_point, node.type.dtype.numpy)
        return self.initializer(value, f"{node.name}_zero_point")

    def quantized(self, node: Node) -> list[str]:
        """Tensor, scale, zero point: the triple that QLinear operators take."""
        return [self.tensor(node), self.scale(node), self.zero_point(node)]

    def add(
        self, op_type: str, inputs: Sequence[str], output: str, *, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node; gives back its output."""
        self.nodes.append((op_type, domain, list(inputs), [output], attributes))
        return output

    def pair(
        self, op_type: str, node: Node, domain: str = "", *, turned: bool = False
    ) -> Callable[[str], str]:
        """What writes a QLinear operator of two operands, or of these in the other order."""
        a, b = reversed(node.inputs) if turned else node.inputs
        inputs = [*self.quantized(a), *self.quantized(b), self.scale(node), self.zero_point(node)]
        return lambda output: self.add(op_type, inputs, output, domain=domain)

    def in_reals(self, node: Node, compute: Callable[[Sequence[str], str], str], operands: int = 1) -> None:
        """Write DequantizeLinear of the operands, `compute(reals, output)`, and QuantizeLinear."""
        name = self.tensor(node)
        reals = [
            self.add("DequantizeLinear", self.quantized(x), f"{name}_real_{i}")
            for i, x in enumerate(node.inputs[:operands])
        ]
        computed = compute(reals, f"{name}_real")
        self.add("QuantizeLinear", [computed, self.scale(node), self.zero_point(node)], name)

    def reshaped(self, name: str, shape: Sequence[int], output: str) -> str:
        """The tensor under another shape."""
        constant = self.initializer(np.array(shape, np.int64), f"{output}_shape")
        return self.add("Reshape", [name, constant], output)

    def transposed(self, name: str, perm: Sequence[int], output: str = "") -> str:
        """The tensor with its dimensions permuted."""
        return self.add("Transpose", [name], output or f"{name}_t{''.join(map(str, perm))}", perm=list(perm))


def _same(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def write_clip(w: OnnxWriter, x: str, output: str, bounds: tuple[int, int], dtype: np.dtype[Any]) -> None:
    """Write an integer Clip."""
    low, high = (w.initializer(np.array(b, dtype), f"{output}_clamp_{i}") for i, b in enumerate(bounds))
    w.add("Clip", [x, low, high], output)


OpT = TypeVar("OpT", bound=Op)
WriteRule = Callable[[OnnxWriter, Node, OpT], None]
"""(writer, node, its operation)."""
WRITERS: Final[dict[type[Op], WriteRule[Any]]] = {}


def written_as_onnx(*kinds: type[OpT]) -> Callable[[WriteRule[OpT]], WriteRule[OpT]]:
    """Register how quantized operations are written as ONNX nodes."""

    def declare(rule: WriteRule[OpT]) -> WriteRule[OpT]:
        for kind in kinds:
            assert kind not in WRITERS
            WRITERS[kind] = rule
        return rule

    return declare
