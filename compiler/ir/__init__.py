"""The intermediate representation: typed operations on tensors, in a graph."""

from compiler.ir.graph import Graph, Node, SourceView
from compiler.ir.op import Op, op
from compiler.ir.types import DType, Quant, TensorType

__all__ = ["DType", "Graph", "Node", "Op", "Quant", "SourceView", "TensorType", "op"]
