"""ONNX and DSL give the same graphs and the same numbers as ONNX Runtime's float kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler import driver
from compiler.errors import CompileError
from compiler.frontend.ir_reader import parse_graph
from compiler.frontend.load import load_model
from compiler.frontend.onnx_tensors import read_tensor
from compiler.ir.evaluate import outputs
from compiler.ir.printer import print_graph
from isa.support.diagnostics import Findings, UsageError
from isa.support.locations import FileLoc
from tests.networks import calibrated, random_graph
from tests.oracle import Nodes, ort, run
from x1 import api
from x1.lab.verification import verify

random = np.random.default_rng(0)


def constant(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)


def save(folder: Path, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto], opset: int = 17,
         shape: Any = (1, 3, 9, 11)) -> Path:  # fmt: skip
    """A model file from x to y."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_empty_tensor_value_info("y")],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def node(op: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), [output], name=f"{op}_{output}", **attributes)


NETWORKS: dict[str, tuple[list[onnx.NodeProto], list[onnx.TensorProto], int]] = {
    "conv with every attribute": (
        [node("Conv", "x w b", "y", strides=[2, 1], pads=[1, 0, 2, 1], dilations=[1, 2])],
        [constant("w", 5, 3, 3, 2), constant("b", 5)], 17),
    "auto_pad same upper": ([node("Conv", "x w", "y", auto_pad="SAME_UPPER", strides=[2, 2])], [constant("w", 4, 3, 4, 3)], 17),
    "auto_pad same lower": ([node("Conv", "x w", "y", auto_pad="SAME_LOWER")], [constant("w", 4, 3, 4, 2)], 17),
    "batch norm folded": (
        [node("Conv", "x w", "c"), node("BatchNormalization", "c g b m v", "n", epsilon=0.01), node("Relu", "n", "y")],
        [constant("w", 4, 3, 3, 3), constant("g", 4), constant("b", 4), constant("m", 4),
         numpy_helper.from_array(np.array([0.5, 1, 2, 0.1], np.float32), "v")], 17),
    "clip as operands": ([node("Clip", "x lo hi", "y")], [numpy_helper.from_array(np.array(-0.5, np.float32), "lo"),
                                                          numpy_helper.from_array(np.array(0.25, np.float32), "hi")], 17),
    "clip as attributes": ([node("Clip", "x", "y", min=-0.25, max=0.5)], [], 9),
    "ceil mode": ([node("MaxPool", "x", "y", kernel_shape=[2, 3], strides=[2, 2], ceil_mode=1)], [], 17),
    "ceil mode with pads": ([node("MaxPool", "x", "y", kernel_shape=[3, 3], strides=[3, 2], pads=[1, 1, 1, 1], ceil_mode=1)], [], 17),
    "average with pads": ([node("AveragePool", "x", "y", kernel_shape=[3, 2], pads=[1, 1, 1, 0])], [], 17),
    "average counting pads": ([node("AveragePool", "x", "y", kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1)], [], 17),
    "gemm with alpha and beta": (
        [node("Flatten", "x", "f"), node("Gemm", "f w c", "y", alpha=0.5, beta=2.0, transB=1)],
        [constant("w", 7, 297), constant("c", 1, 7)], 17),
    "matmul and add": ([node("Flatten", "x", "f"), node("MatMul", "f w", "m"), node("Add", "m c", "y")],
                       [constant("w", 297, 4), constant("c", 4)], 17),
    "residual": ([node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Add", "c x", "s"), node("Relu", "s", "y")],
                 [constant("w", 3, 3, 3, 3)], 17),
    "bias as an addition": ([node("Conv", "x w", "c"), node("Add", "c b", "y")], [constant("w", 4, 3, 2, 2), constant("b", 1, 4, 1, 1)], 17),
    "constant that broadcasts": ([node("Add", "x b", "y")], [constant("b", 3, 1, 11)], 17),
    "weights that are computed": ([node("Transpose", "w", "t", perm=[1, 0, 2, 3]), node("Conv", "x t", "y")], [constant("w", 3, 4, 2, 2)], 17),
    "reshape and squeeze": (
        [node("Reshape", "x s", "r"), node("Unsqueeze", "r a", "u"), node("Squeeze", "u a", "q"),
         node("Transpose", "q", "t", perm=[1, 0]), node("Softmax", "t", "y")],
        [numpy_helper.from_array(np.array([0, -1]), "s"), numpy_helper.from_array(np.array([0]), "a")], 17),
    "identity and dropout": ([node("Identity", "x", "i"), node("Dropout", "i", "d"), node("Relu", "d", "y")], [], 17),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_imported_network_computes_what_onnx_runtime_does(name: str, tmp_path: Path) -> None:
    nodes, constants, opset = NETWORKS[name]
    if name == "reshape and squeeze":
        constants = [*constants]
    path = save(
        tmp_path, nodes, constants, opset, (3, 9, 11) if name == "reshape and squeeze" else (1, 3, 9, 11)
    )
    x = random.standard_normal((3, 9, 11) if name == "reshape and squeeze" else (1, 3, 9, 11)).astype(
        np.float32
    )
    graph = load_model(path)
    expected = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    for each in (graph, driver.prepare(graph)):
        np.testing.assert_allclose(outputs(each, {"x": x})["y"], expected, rtol=2e-5, atol=2e-5)


def test_open_dimensions_need_a_shape(tmp_path: Path) -> None:
    path = save(tmp_path, [node("Relu", "x", "y")], [], shape=("N", 3, "H", 4))
    with pytest.raises(UsageError) as refused:
        load_model(path)
    assert refused.value.diagnostics[0].remedy == "give them: --shape x=1,3,1,4"
    assert load_model(path, {"x": [2, 3, 5, 4]}).outputs[0].shape == (2, 3, 5, 4)
    with pytest.raises(UsageError):
        load_model(path, {"x": [2, 4, 5, 4]})


def test_external_data_is_read_from_the_models_folder_only(tmp_path: Path) -> None:
    path = save(tmp_path, [node("Conv", "x w", "y")], [constant("w", 4, 3, 2, 2)])
    model = onnx.ModelProto()
    model.ParseFromString(path.read_bytes())
    values = numpy_helper.to_array(model.graph.initializer[0]).tobytes()
    (tmp_path / "w.bin").write_bytes(values)
    (tmp_path.parent / "outside.bin").write_bytes(values)
    for location, sound in (
        ("w.bin", True),
        ("../outside.bin", False),
        (str(tmp_path.parent / "outside.bin"), False),
    ):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value=location)
        path.write_bytes(model.SerializeToString())
        if sound:
            assert load_model(path).outputs[0].shape == (1, 4, 8, 10)
        else:
            with pytest.raises(CompileError, match="outside the model's folder"):
                load_model(path)


@pytest.mark.parametrize(
    ("length", "sound"), [("192", True), ("-1", False), ("10", False), ("1000000000000", False), ("", False)]
)
def test_external_data_is_as_long_as_its_tensor(length: str, sound: bool, tmp_path: Path) -> None:
    path = save(tmp_path, [node("Conv", "x w", "y")], [constant("w", 4, 3, 2, 2)])
    model = onnx.ModelProto()
    model.ParseFromString(path.read_bytes())
    tensor = model.graph.initializer[0]
    (tmp_path / "w.bin").write_bytes(numpy_helper.to_array(tensor).tobytes())
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    tensor.external_data.add(key="length", value=length)
    path.write_bytes(model.SerializeToString())
    if sound:
        assert load_model(path).outputs[0].shape == (1, 4, 8, 10)
    else:
        with pytest.raises(CompileError, match=f"has '{length}' bytes of external data"):
            load_model(path)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "int32", "int64", "bool"])
def test_data_in_the_model_and_beside_it_is_what_onnx_reads(dtype: str, tmp_path: Path) -> None:
    shape = (2, 0, 3) if dtype == "int8" else (2, 3)
    tensor = numpy_helper.from_array(random.integers(0, 100, shape).astype(dtype), "t")
    found = read(tensor, tmp_path)
    assert found is not None
    expected = numpy_helper.to_array(tensor)
    assert found.dtype == ("uint8" if dtype == "bool" else dtype)
    np.testing.assert_array_equal(found, expected.astype(found.dtype))
    (tmp_path / "t.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="t.bin")
    beside = read(tensor, tmp_path)
    assert beside is not None
    assert beside.dtype == found.dtype
    np.testing.assert_array_equal(beside, found)


def test_data_that_is_short_or_a_part_is_refused(tmp_path: Path) -> None:
    tensor = constant("w", 4, 3)
    whole = tensor.raw_data
    for content in (b"", whole[:-1], whole + b"\0"):
        tensor.raw_data = content
        assert read(tensor, tmp_path) is None
    tensor.raw_data = whole
    assert read(tensor, tmp_path) is not None
    tensor.segment.begin = 0
    assert read(tensor, tmp_path) is None


def read(tensor: TensorProto, folder: Path) -> np.ndarray | None:
    findings = Findings(CompileError)
    values = read_tensor(tensor, "it", FileLoc("m.onnx"), folder, findings)
    assert (values is None) == (len(findings.found) == 1)
    return values


DSL = """\
model branches
weights "w.npz"
input x: float32[2, 8, 6, 3]
a = Conv2D(4, (3, 2), strides=2, padding="same", activation="relu")(x)
b = Conv2D(4, 1, use_bias=false, name="side")(a)
n = BatchNormalization(epsilon=0.01)(b)
s = Add()([a, n])           # a residual
p = AveragePooling2D(2, strides=1)(s)
f = Flatten()(p)
y = Dense(5, activation="softmax")(f)
output y
"""


def test_dsl_means_what_the_same_onnx_does(tmp_path: Path) -> None:
    """The same network by hand as ONNX, NCHW, with padding as TensorFlow counts it."""
    w = {"conv2d/kernel": (3, 2, 3, 4), "conv2d/bias": (4,), "side/kernel": (1, 1, 4, 4), "dense/kernel": (24, 5),
         "dense/bias": (5,)}  # fmt: skip
    arrays = {k: random.standard_normal(v).astype(np.float32) for k, v in w.items()}
    for kind in ("gamma", "beta", "moving_mean"):
        arrays[f"batch_normalization/{kind}"] = random.standard_normal(4).astype(np.float32)
    arrays["batch_normalization/moving_variance"] = random.uniform(0.5, 2, 4).astype(np.float32)
    np.savez(tmp_path / "w.npz", **arrays)  # pyright: ignore[reportArgumentType]  (numpy's stub)
    (tmp_path / "n.net").write_text(DSL)
    graph = load_model(tmp_path / "n.net")
    assert graph.name == "branches"
    assert "n.net:4:5" in graph.nodes()[3].loc.describe()
    x = random.standard_normal((2, 8, 6, 3)).astype(np.float32)
    np.testing.assert_allclose(
        outputs(driver.prepare(graph), {"x": x})["y"], _by_hand(arrays, x), rtol=1e-5, atol=1e-5
    )


def _by_hand(w: dict[str, np.ndarray], x: np.ndarray) -> Any:
    norm = "batch_normalization/"
    constants = {
        "k": w["conv2d/kernel"].transpose(3, 2, 0, 1).copy(), "b": w["conv2d/bias"],
        "k2": w["side/kernel"].transpose(3, 2, 0, 1).copy(), "g": w[f"{norm}gamma"], "o": w[f"{norm}beta"],
        "m": w[f"{norm}moving_mean"], "v": w[f"{norm}moving_variance"], "d": w["dense/kernel"], "e": w["dense/bias"],
        "s": np.array([2, -1]),
    }  # fmt: skip
    nodes: Nodes = [
        ("Transpose", ["x"], "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["t", "k", "b"], "c", {"strides": [2, 2], "pads": [0, 0, 1, 0]}),
        ("Relu", ["c"], "a", {}),
        ("Conv", ["a", "k2"], "c2", {}),
        ("BatchNormalization", ["c2", "g", "o", "m", "v"], "n", {"epsilon": 0.01}),
        ("Add", ["a", "n"], "sum", {}),
        ("AveragePool", ["sum"], "p", {"kernel_shape": [2, 2]}),
        ("Transpose", ["p"], "q", {"perm": [0, 2, 3, 1]}),
        ("Reshape", ["q", "s"], "f", {}),
        ("Gemm", ["f", "d", "e"], "l", {}),
        ("Softmax", ["l"], "y", {}),
    ]
    return run(nodes, {"x": x}, constants, "y")


LAYERS = """\
model layers
weights "w.npz"
input x: float32[1, 9, 8, 4]
a = Conv2D(6, 3, groups=2, padding="same", activation="silu", name="grouped")(x)
b = DepthwiseConv2D((3, 2), strides=2, depth_multiplier=2, activation="hard_sigmoid", name="depthwise")(a)
p = ZeroPadding2D(((0, 0), (1, 2)))(b)
c = Cropping2D(((1, 1), (1, 2)))(p)
d = Permute((3, 1, 2))(c)
e = ELU(0.5)(d)
f = Activation("gelu")(d)
g = Average()([e, f])
output a, g
"""


def test_further_layers_mean_what_onnx_operators_do(tmp_path: Path) -> None:
    shapes = {
        "grouped/kernel": (3, 3, 2, 6),
        "grouped/bias": (6,),
        "depthwise/kernel": (3, 2, 6, 2),
        "depthwise/bias": (12,),
    }
    w = {k: random.standard_normal(v).astype(np.float32) for k, v in shapes.items()}
    np.savez(tmp_path / "w.npz", **w)  # pyright: ignore[reportArgumentType]  (numpy's stub)
    (tmp_path / "n.net").write_text(LAYERS)
    graph = driver.prepare(load_model(tmp_path / "n.net"))
    x = random.standard_normal((1, 9, 8, 4)).astype(np.float32)
    depthwise = w["depthwise/kernel"].transpose(2, 3, 0, 1).reshape(12, 1, 3, 2)
    constants = {
        "k": w["grouped/kernel"].transpose(3, 2, 0, 1).copy(), "b": w["grouped/bias"],
        "d": depthwise.copy(), "e": w["depthwise/bias"], "starts": np.array([1]), "ends": np.array([-1]),
        "axes": np.array([2]), "half": np.array(0.5, np.float32),
    }  # fmt: skip
    nodes: Nodes = [
        ("Transpose", ["x"], "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["t", "k", "b"], "c", {"pads": [1, 1, 1, 1], "group": 2}),
        ("Sigmoid", ["c"], "s", {}),
        ("Mul", ["c", "s"], "m", {}),
        ("Conv", ["m", "d", "e"], "v", {"strides": [2, 2], "group": 6}),
        ("HardSigmoid", ["v"], "h", {"alpha": 1 / 6, "beta": 0.5}),
        ("Slice", ["h", "starts", "ends", "axes"], "q", {}),
        ("Elu", ["q"], "u", {"alpha": 0.5}),
        ("Erf", ["r"], "erf", {}),
        ("Mul", ["q", "root"], "r", {}),
        ("Add", ["erf", "one"], "p", {}),
        ("Mul", ["q", "p"], "n", {}),
        ("Mul", ["n", "half"], "o", {}),
        ("Add", ["u", "o"], "z", {}),
        ("Mul", ["z", "half"], "y", {}),
    ]
    nodes[8], nodes[9] = nodes[9], nodes[8]
    constants |= {"root": np.array(0.5**0.5, np.float32), "one": np.array(1, np.float32)}
    expected = run(nodes, {"x": x}, constants, "y")
    np.testing.assert_allclose(outputs(graph, {"x": x})["g"], expected, rtol=1e-5, atol=1e-5)
    model = api.quantize(api.Model("layers", graph), [{"x": x}])
    assert verify(model, api.compile(model, "tiny8"), [{"x": x}]).mismatches == 0


@pytest.mark.parametrize("seed", range(15))
def test_parsing_undoes_printing_at_every_stage(seed: int) -> None:
    from tests.networks import random_inputs

    graph = random_graph(seed)
    quantized = calibrated(driver.prepare(graph), random_inputs(graph, 1))
    for each in (random_graph(seed), quantized, driver.lower(quantized)):
        text = print_graph(each, blobs=True)
        parsed = parse_graph(text)
        assert parsed == each
        assert print_graph(parsed, blobs=True) == text


BAD_IR = {
    "syntax": ('input : f32[1,2] name "x"', "input f32[1,2]"),
    "operation": ("nn.clamp", "nn.clmp"),
    "attribute": ("low=", "lo="),
    "type": ("f32[1,3,4] name \"y\"", "f32[1,3,5] name \"y\""),
    "stage": ("stage nn", "stage zz"),
    "use": ("nn.clamp %0", "nn.clamp %7"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_IR)
def test_ir_text_that_is_wrong_is_refused_at_its_line(name: str) -> None:
    text = ('graph "g" stage nn {\n  %0 = input : f32[1,3,4] name "x" loc()\n  %1 = nn.clamp %0 {low=0x0p+0, high=inf} '
            ': f32[1,3,4] name "y" loc()\n  return %1 as "y"\n}\n').replace("f32[1,2]", "f32[1,3,4]")  # fmt: skip
    good, bad = BAD_IR[name]
    good = good.replace("f32[1,2]", "f32[1,3,4]")
    assert good in text
    text = text.replace("0x0p+0", "0x0.0p+0")
    parse_graph(text)
    with pytest.raises(CompileError):
        parse_graph(text.replace(good, bad))


@pytest.mark.parametrize("channels", [1, 4])
def test_networks_as_tensorflow_exports_them_show_every_tensor(channels: int, tmp_path: Path) -> None:
    """A source transpose that vanishes leaves its tensor to the value it turned."""
    from tests.networks import random_inputs
    from x1 import api
    from x1.lab.verification import verify

    nodes = [
        node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
        node("Conv", "t w", "c", kernel_shape=[3, 3]),
        node("Transpose", "c", "u", perm=[0, 2, 3, 1]),
        node("Transpose", "u", "v", perm=[0, 3, 1, 2]),
        node("Relu", "v", "y"),
    ]
    path = save(tmp_path, nodes, [constant("w", 5, channels, 3, 3)], shape=(1, 6, 7, channels))
    network = api.load_network(path)
    assert network.float_graph is not None
    samples = random_inputs(network.float_graph, 2)
    model = api.quantize(network, samples)
    result = verify(model, api.compile(model, "tiny8"), samples)
    assert {t.name for t in result.tensors if t.comparable} >= {"x", "t", "c", "u", "v", "y"}
    assert result.mismatches == 0


def test_a_constant_shares_its_name_with_nothing_that_matters(tmp_path: Path) -> None:
    """A tensor called like the bias that the importer derives keeps its own scale."""
    from tests.networks import random_inputs
    from x1 import api
    from x1.session import Session

    nodes = [
        node("Conv", "x w", "c"),
        node("MaxPool", "c", "c.bias", kernel_shape=[2, 2]),
        node("Add", "c.bias c.bias", "y"),
    ]
    path = save(tmp_path, nodes, [constant("w", 5, 3, 3, 3)])
    network = api.load_network(path)
    assert network.float_graph is not None
    samples = random_inputs(network.float_graph, 2)
    model = api.quantize(network, samples)
    expected = outputs(network.float_graph, samples[0])["y"]
    (got,) = Session(api.compile(model)).run(None, samples[0])
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_values_of_nine_dimensions_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, [node("Reshape", "x s", "r"), node("Relu", "r", "y")],
                [numpy_helper.from_array(np.array([1, 3, 3, 3, 11, 1, 1, 1, 1]), "s")])  # fmt: skip
    with pytest.raises(CompileError, match="at most 8 dimensions"):
        load_model(path)


def test_nan_in_calibration_is_refused(tmp_path: Path) -> None:
    from x1 import api

    network = api.load_network(save(tmp_path, [node("Relu", "x", "y")], []))
    sample = np.zeros((1, 3, 9, 11), np.float32)
    sample[0, 0, 0, 0] = np.nan
    with pytest.raises(UsageError, match="not finite"):
        api.quantize(network, [{"x": sample}])


def test_constants_that_are_quantized_twice_are_codes_of_the_second_scale(tmp_path: Path) -> None:
    from tests import models

    nodes = [
        models.node("DequantizeLinear", "w s z", "f"),
        models.node("QuantizeLinear", "f t z", "q"),
        models.node("DequantizeLinear", "q t z", "g"),
        models.node("QuantizeLinear", "x s z", "xq"),
        models.node("DequantizeLinear", "xq s z", "xd"),
        models.node("Add", "xd g", "a"),
        models.node("QuantizeLinear", "a t z", "aq"),
        models.node("DequantizeLinear", "aq t z", "y"),
    ]
    constants = {
        "w": np.array([4, -8, 100], np.int8),
        "s": np.float32(0.05),
        "t": np.float32(0.1),
        "z": np.int8(0),
    }
    path = models.save(models.model(nodes, {"x": (1, 3)}, "y", constants), tmp_path)
    body = models.verified(path, tmp_path)
    models.assert_equal_to_onnx_runtime(body)
