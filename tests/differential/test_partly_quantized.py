"""Quantized models that leave results open: ranges that follow from codes, and ranges that samples give."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.errors import CompileError
from isa.support.diagnostics import UsageError
from x1 import api
from x1.lab.verification import verify

SHAPE = (1, 8, 9, 9)


def model(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    """Operators on x (1, 3, 9, 9) and two convolution kernels, to y (1, 8, 9, 9)."""
    generator = np.random.default_rng(0)
    kernels = [
        numpy_helper.from_array(generator.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5, name)
        for name in ("w", "v")
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 9, 9))]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)]
    graph = helper.make_graph(nodes, "partial", inputs, outputs, kernels)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def without(quantized: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """A QDQ model whose results of these names are used as the real numbers that they are."""
    producers = {o: n for n in quantized.graph.node for o in n.output}
    for node in list(quantized.graph.node):
        if node.op_type != "DequantizeLinear" or node.input[0] not in names:
            continue
        real = producers[node.input[0]].input[0]
        for user in quantized.graph.node:
            user.input[:] = [real if i == node.output[0] else i for i in user.input]
        quantized.graph.node.remove(node)
    for name in names:
        quantized.graph.node.remove(producers[name])
    return quantized


def quantized(tmp_path: Path, nodes: list[onnx.NodeProto], open_results: set[str]) -> Path:
    """The model in QDQ form, without quantization of some results."""
    place = tmp_path / "net.onnx"
    place.write_bytes(model(nodes).SerializeToString())
    api.quantize(place, samples()).save_onnx(tmp_path / "q.onnx", "qdq")
    written = onnx.ModelProto.FromString((tmp_path / "q.onnx").read_bytes())
    opened = without(written, {f"{name}_quantized" for name in open_results})
    (tmp_path / "q.onnx").write_bytes(opened.SerializeToString())
    return tmp_path / "q.onnx"


def samples() -> list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]]:
    generator = np.random.default_rng(1)
    return [{"x": generator.standard_normal((1, 3, 9, 9)).astype(np.float32)} for _ in range(4)]


def conv(weight: str, output: str) -> onnx.NodeProto:
    return helper.make_node("Conv", ["x", weight], [output], pads=[1, 1, 1, 1])


GATED = [
    conv("w", "a"),
    helper.make_node("HardSigmoid", ["a"], ["h"], alpha=1 / 6),
    helper.make_node("Sin", ["h"], ["s"]),
    helper.make_node("Mul", ["a", "s"], ["y"]),
]
DIFFERENCE = [
    conv("w", "a"),
    conv("v", "b"),
    helper.make_node("Sub", ["a", "b"], ["d"]),
    helper.make_node("Max", ["d", "a"], ["y"]),
]


def test_functions_of_codes_need_no_scale_of_the_model(tmp_path: Path) -> None:
    network = api.load_network(quantized(tmp_path, GATED, {"h"}))
    result = verify(network, api.compile(network), samples())
    assert result.mismatches == 0
    comparable = {t.name: t.comparable for t in result.tensors}
    assert comparable["a_quantized"]
    assert not comparable["s_quantized"], "ONNX Runtime computes it from real numbers"


def test_other_results_without_a_scale_are_refused_by_name_and_then_calibrated(tmp_path: Path) -> None:
    place = quantized(tmp_path, DIFFERENCE, {"d"})
    network = api.load_network(place)
    with pytest.raises(CompileError, match="has no scale") as refused:
        api.compile(network)
    assert "--calibrate" in refused.value.diagnostics[0].remedy
    completed = api.quantize(network, samples())
    result = verify(completed, api.compile(completed), samples())
    assert result.mismatches == 0
    rows = {t.name: t for t in result.tensors}
    assert rows["b_quantized"].comparable
    assert not rows["y_quantized"].comparable
    assert rows["y_quantized"].max_lsb <= 3


def test_scales_that_the_model_has_are_not_calibrated(tmp_path: Path) -> None:
    place = quantized(tmp_path, DIFFERENCE, {"d"})
    loud = [{"x": 100 * s["x"]} for s in samples()]
    found = [api.quantize(api.load_network(place), data).integers() for data in (samples(), loud)]
    scales = [{n.name: n.type.quant for n in graph.nodes() if n.type.quant is not None} for graph in found]
    differing = {name for name, quant in scales[0].items() if quant != scales[1][name]}
    assert len(differing) == 1


def test_a_scheme_goes_before_what_samples_give_and_is_saved(tmp_path: Path) -> None:
    from compiler.ir.types import Quant
    from compiler.quantize.scheme import Scheme

    network = api.load_network(quantized(tmp_path, DIFFERENCE, {"d"}))
    calibrated = api.quantize(network, samples())
    assert calibrated.scheme is not None
    (name,) = calibrated.scheme.tensors
    chosen = Scheme({name: Quant((0.0625,), 5)})
    for given in (api.quantize(network, scheme=chosen), api.quantize(network, samples(), scheme=chosen)):
        assert given.scheme is not None
        assert given.scheme.tensors == chosen.tensors
    with pytest.raises(UsageError, match="does not have"):
        api.quantize(network, samples(), scheme=Scheme({"none": Quant((0.5,), 0)}))
    with pytest.raises(UsageError, match="quantized already"):
        api.quantize(network, samples(), equalize=True)
