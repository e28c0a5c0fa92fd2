"""ONNX Runtime as the source of expected values: small models, optimizations off."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ort: Any = onnxruntime
TYPES = {"float32": TensorProto.FLOAT, "int8": TensorProto.INT8, "uint8": TensorProto.UINT8,
         "int32": TensorProto.INT32}  # fmt: skip
Nodes = list[tuple[str, list[str], str, dict[str, Any]]]


def run(
    nodes: Nodes, inputs: dict[str, NDArray[Any]], constants: dict[str, NDArray[Any]], output: str
) -> Any:
    """The value of a tensor of a model; operators that begin with Q come from com.microsoft."""
    microsoft = {"QGemm", "QLinearAdd", "QLinearMul", "QLinearAveragePool", "QLinearGlobalAveragePool",
                 "QLinearSoftmax", "QLinearConcat", "QLinearLeakyRelu", "QLinearSigmoid"}  # fmt: skip
    made = [
        helper.make_node(op, ins, [out], domain="com.microsoft" if op in microsoft else None, **attributes)
        for op, ins, out, attributes in nodes
    ]
    graph = helper.make_graph(
        made,
        "expected",
        [helper.make_tensor_value_info(n, TYPES[v.dtype.name], v.shape) for n, v in inputs.items()],
        [helper.make_empty_tensor_value_info(output)],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([output], inputs)[0]


def scalar(value: float | np.float32) -> NDArray[np.float32]:
    """A float32 scalar."""
    return np.array(value, np.float32)


def zero(value: int, dtype: Any = np.int8) -> NDArray[Any]:
    """A zero point."""
    return np.array(value, dtype)
