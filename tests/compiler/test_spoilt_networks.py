"""Networks of every operator with one thing wrong: compiled, or refused with our own errors, no warning."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, numpy_helper

from isa.support.diagnostics import X1Error
from tests.random_onnx import random_network
from x1 import api

Random = np.random.Generator
ODD = (0, -1, 1, 2, 3, 5, 17, 100, -7, 1 << 31, 1 << 62, -(1 << 62))
REAL = (0.0, -1.0, float("nan"), float("inf"), 1e30, 1e-40)
TEXTS = (b"", b"foo", b"SAME_UPPER", b"linear", b"wrap", b"reflect", b"\xff")
OPERATORS = [
    "Add",
    "Conv",
    "Split",
    "Resize",
    "Gather",
    "MatMul",
    "ReduceMean",
    "Concat",
    "Softmax",
    "Where",
    "Expand",
    "Tile",
    "Clip",
    "PRelu",
    "ConvTranspose",
    "Pad",
    "Slice",
    "Range",
    "Cast",
    "Shape",
    "QuantizeLinear",
    "DequantizeLinear",
    "QLinearConv",
    "GlobalAveragePool",
    "DepthToSpace",
    "Flatten",
    "Squeeze",
    "Pow",
    "Mean",
]


def spoil(model: onnx.ModelProto, random: Random) -> None:
    """One attribute, constant, operand or operator of a model becomes another."""
    graph = model.graph
    node = graph.node[int(random.integers(len(graph.node)))]
    match int(random.integers(5)):
        case 0 if node.attribute:
            _spoil_attribute(node.attribute[int(random.integers(len(node.attribute)))], random)
        case 1 if graph.initializer:
            _spoil_constant(graph.initializer[int(random.integers(len(graph.initializer)))], random)
        case 2 if node.input:
            other = graph.node[int(random.integers(len(graph.node)))]
            node.input[int(random.integers(len(node.input)))] = other.input[0] if other.input else ""
        case 3 if node.input:
            del node.input[-1]
        case _:
            node.op_type = OPERATORS[int(random.integers(len(OPERATORS)))]


def _spoil_attribute(attribute: onnx.AttributeProto, random: Random) -> None:
    match attribute.type:
        case AttributeProto.INT:
            attribute.i = ODD[int(random.integers(len(ODD)))]
        case AttributeProto.INTS if len(attribute.ints):
            attribute.ints[int(random.integers(len(attribute.ints)))] = ODD[int(random.integers(len(ODD)))]
        case AttributeProto.FLOAT:
            attribute.f = REAL[int(random.integers(len(REAL)))]
        case AttributeProto.STRING:
            attribute.s = TEXTS[int(random.integers(len(TEXTS)))]
        case _:
            attribute.ints.append(3)


def _spoil_constant(tensor: onnx.TensorProto, random: Random) -> None:
    values = numpy_helper.to_array(tensor).copy()
    choices: list[np.ndarray] = [
        values.reshape(-1),
        values[None],
        values.reshape(-1)[:1],
        np.zeros(0, values.dtype),
    ]
    choice = int(random.integers(2 * len(choices)))
    if choice < len(choices):
        values = choices[choice]
    elif values.dtype == np.int64:
        values.flat[int(random.integers(values.size))] = ODD[int(random.integers(len(ODD)))]
    else:
        values.flat[int(random.integers(values.size))] = REAL[int(random.integers(len(REAL)))]
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


@pytest.mark.parametrize("count", [150, pytest.param(10_000, marks=pytest.mark.nightly)])
def test_spoilt_networks_raise_nothing_but_our_own_errors(tmp_path: Path, count: int) -> None:
    random = np.random.default_rng(5)
    place = tmp_path / "spoilt.onnx"
    compiled = refused = 0
    for _ in range(count):
        model, _ = random_network(int(random.integers(1 << 30)))
        spoil(model, random)
        place.write_bytes(model.SerializeToString())
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                network = api.load_network(place)
                compiled_by = network if network.quantized is not None else api.with_made_up_ranges(network)
                api.compile(compiled_by, "tiny8", search=1)
            compiled += 1
        except X1Error as error:
            refused += bool(error.diagnostics)
    assert compiled + refused == count
    assert min(compiled, refused) > count // 10
