"""Writes batch.onnx: four small residual 1x1 convolutions on [batch, 5, 2, 1]. Usage: python batch_growth.py BATCH OUT.onnx."""

import sys
from typing import Any, cast

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

batch, out = int(sys.argv[1]), sys.argv[2]
rng = np.random.default_rng(0)
nodes: list[Any] = []
weights: list[Any] = []
x = "x"
for i in range(4):
    weights.append(numpy_helper.from_array(rng.standard_normal((5, 5, 1, 1)).astype(np.float32), f"w{i}"))
    nodes += [
        helper.make_node("Conv", [x, f"w{i}"], [f"c{i}"]),
        helper.make_node("Add", [f"c{i}", x], [f"y{i}"]),
    ]
    x = f"y{i}"
shape = [batch, 5, 2, 1]
graph = helper.make_graph(
    nodes,
    "batch",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
    [helper.make_tensor_value_info(x, TensorProto.FLOAT, shape)],
    weights,
)
cast("Any", onnx).save(
    helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), out
)
