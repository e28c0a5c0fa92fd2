"""Models that are wrong in small ways: refused with the fact, never with a traceback, never half-read."""

from __future__ import annotations

import zipfile
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
from compiler.ir.printer import print_graph
from isa.support.diagnostics import UsageError
from tests.networks import calibrated, random_graph, random_inputs
from x1 import api
from x1.lab.verification import verify

Nodes = list[onnx.NodeProto]
Constants = dict[str, np.ndarray]
ONES = np.ones((4, 3, 3, 3), np.float32)


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), name=f"{op}_1", **attributes)


def save(folder: Path, nodes: Nodes, constants: Constants, outputs: str = "y", inputs: str = "x") -> Path:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, (1, 3, 8, 8)) for n in inputs.split()],
        [helper.make_empty_tensor_value_info(n) for n in outputs.split(" ")],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def with_type(attribute: str, value: Any) -> onnx.NodeProto:
    """A convolution of which an attribute has another type than its name promises."""
    made = node("Conv", "x w", "y")
    made.attribute.append(helper.make_attribute(attribute, value))
    return made


WRONG: dict[str, tuple[Nodes, Constants, str, str]] = {
    "groups of no image": ([node("Flatten", "x", "f", axis=0), node("Reshape", "f s", "r"),
                            node("InstanceNormalization", "r g g", "y")],
                           {"s": np.array([192]), "g": np.ones(4, np.float32)}, "y", "axes=[] of rank 1"),
    "a region that is no number": (
        [node("Resize", "x roi s", "y", mode="nearest", coordinate_transformation_mode="tf_crop_and_resize")],
        {"roi": np.full(8, np.nan, np.float32), "s": np.array([1, 1, 0.5, 0.5], np.float32)}, "y", "roi=[nan",
    ),
    "attribute of another type": ([with_type("strides", "two")], {"w": ONES}, "y", "'strides' is not of type INTS"),
    "attribute list of another type": ([with_type("pads", [0.5])], {"w": ONES}, "y", "'pads' is not of type INTS"),
    "unknown attribute": ([node("Relu", "x", "y", alpha=1.0)], {}, "y", "there is no attribute 'alpha'"),
    "alpha that is no number": (
        [node("Flatten", "x", "f"), node("Gemm", "f w", "y", alpha=float("nan"))],
        {"w": np.ones((192, 2), np.float32)}, "y", "alpha=nan is not allowed",
    ),
    "attribute left out": ([node("MaxPool", "x", "y")], {}, "y", "the attribute 'kernel_shape' is missing"),
    "too many operands": ([node("Relu", "x x", "y")], {}, "y", "2 operands; allowed: 1 to 1"),
    "too few operands": ([node("Conv", "x", "y")], {}, "y", "1 operands; allowed: 2 to 3"),
    "short pads": ([node("Conv", "x w", "y", pads=[1, 1])], {"w": ONES}, "y", "pads="),
    "long strides": ([node("Conv", "x w", "y", strides=[1, 1, 1])], {"w": ONES}, "y", "strides="),
    "integer weights": ([node("Conv", "x w", "y")], {"w": ONES.astype(np.int64)}, "y", "operand w of conv2d is int64"),
    "no output channels": ([node("Conv", "x w", "y")], {"w": ONES[:0]}, "y", "the weights have the shape"),
    "rank of B": ([node("Flatten", "x", "f"), node("Gemm", "f w", "y")], {"w": np.ones(192, np.float32)}, "y",
                  "B is float32[192]"),
    "integer B": ([node("Flatten", "x", "f"), node("MatMul", "f w", "y")], {"w": np.ones((192, 2), np.int32)}, "y", "MatMul of"),
    "integer operand": ([node("Relu", "w", "v"), node("Add", "x v", "y")], {"w": ONES.astype(np.int32)}, "y", "operand x of clamp"),
    "squeezed axis": ([node("Squeeze", "x a", "y")], {"a": np.array([4])}, "y", "axes=[4] are not allowed for rank 4"),
    "output twice": ([node("Relu", "x", "y")], {}, "y y", "'y' is declared twice"),
    "output without a name": ([node("Relu", "x", "y")], {}, "y ", "an output has no name"),
    "output that is not computed": ([node("Dropout", "x", "y mask")], {}, "y mask", "only the first output of Dropout"),
    "operand that is not computed": ([node("MaxPool", "x", "p i", kernel_shape=[2, 2]), node("Relu", "i", "y")], {}, "y",
                                     "the Indices output is not supported"),
    "huge sum": ([node("Add", "a b", "c"), node("Relu", "x", "y")], {"a": np.ones((1 << 15, 1), np.float32),
                                                                   "b": np.ones((1, 1 << 15), np.float32)}, "y c", "elements"),
    "dropout in training": ([node("Dropout", "x r t", "y")], {"r": np.array(0.5, np.float32), "t": np.ones((), np.bool_)}, "y",
                            "training_mode=true drops values at random"),
    "window beyond its image": ([node("AveragePool", "x", "y", kernel_shape=[2000, 2000])], {}, "y", "does not fit"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_model_that_is_wrong_is_refused_with_the_fact(name: str, tmp_path: Path) -> None:
    nodes, constants, outputs, fact = WRONG[name]
    with pytest.raises(CompileError) as refused:
        driver.prepare(load_model(save(tmp_path, nodes, constants, outputs)))
    assert fact in str(refused.value)


def test_constants_that_nothing_uses_may_be_of_any_kind(tmp_path: Path) -> None:
    unused = {"t": np.array([True]), "d": np.ones(2), "s": np.array([1 + 2j]), "h": np.ones(2, np.float16)}
    assert load_model(save(tmp_path, [node("Relu", "x", "y")], unused)).outputs[0].shape == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("nodes", "outputs", "inputs"),
    [
        ([node("Relu", "x", "y")], "y", "x unused"),
        ([node("Relu", "x", "y"), node("Identity", "y", "z"), node("Relu", "y", "r")], "y z r", "x"),
        ([node("Relu", "x", "y"), node("Flatten", "y", "z")], "z y", "x"),
        ([node("Clip", "x hi lo", "y")], "y", "x"),
        ([node("Identity", "x", "y")], "y", "x"),
        (
            [
                node("Flatten", "x", "y"),
                node("Transpose", "x", "t", perm=[0, 2, 3, 1]),
                node("Relu", "x", "r"),
            ],
            "t y r",
            "x",
        ),
        (
            [
                node("Transpose", "x", "t", perm=[0, 3, 1, 2]),
                node("Flatten", "t", "y"),
                node("MaxPool", "x", "p", kernel_shape=[2, 2]),
            ],
            "y p",
            "x",
        ),
    ],
)
def test_interfaces_of_every_shape_are_kept(nodes: Nodes, outputs: str, inputs: str, tmp_path: Path) -> None:
    """Unused inputs, one value under two names, outputs that are views of others, bounds that cross."""
    bounds = {"hi": np.array(0.5, np.float32), "lo": np.array(-0.5, np.float32)}
    network = api.load_network(save(tmp_path, nodes, bounds, outputs, inputs))
    assert network.float_graph is not None
    samples = random_inputs(network.float_graph, 2)
    model = api.quantize(network, samples)
    binary = api.compile(model)
    assert [o.name for o in binary.program.abi.outputs] == outputs.split()
    used, *unused = inputs.split()
    assert [i.name for i in binary.program.abi.inputs] == [used]
    assert [d.message for d in binary.remarks] == [
        f"the input '{n}' is left out: nothing reads it" for n in unused
    ]
    result = verify(model, binary, samples)
    assert result.mismatches == 0
    assert all(t.comparable for t in result.tensors)


@pytest.mark.parametrize("name", ["a", "x/nhwc", "c/nchw", "c/turned"])
def test_names_that_passes_use_are_free_for_models(name: str, tmp_path: Path) -> None:
    """Two live tensors of one name must not share memory."""
    nodes = [node("Softmax", "x", name, axis=3), node("Conv", "x w", "c"), node("Add", f"c {name}", "y")]
    weights = np.random.default_rng(1).standard_normal((3, 3, 1, 1)).astype(np.float32)
    network = api.load_network(save(tmp_path, nodes, {"w": weights}))
    assert network.float_graph is not None
    samples = random_inputs(network.float_graph, 1)
    model = api.quantize(network, samples)
    for target in ("tiny8", "edge32"):
        assert verify(model, api.compile(model, target), samples).mismatches == 0


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1,), (2, 1), (2, 3), (1, 1), ()])
def test_c_of_a_gemm_broadcasts_as_onnx_says(shape: tuple[int, ...], tmp_path: Path) -> None:
    from compiler.ir.evaluate import outputs
    from tests.oracle import ort

    generator = np.random.default_rng(2)
    w, c = (
        generator.standard_normal((96, 3)).astype(np.float32),
        generator.standard_normal(shape).astype(np.float32),
    )
    nodes = [node("Reshape", "x s", "f"), node("Gemm", "f w c", "y", beta=3.0)]
    path = save(tmp_path, nodes, {"w": w, "c": np.asarray(c), "s": np.array([2, 96])})
    network = api.load_network(path)
    assert network.float_graph is not None
    (sample,) = samples = random_inputs(network.float_graph, 1)
    expected = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, sample)[0]
    np.testing.assert_allclose(outputs(network.float_graph, sample)["y"], expected, rtol=1e-5, atol=1e-4)
    model = api.quantize(network, samples)
    assert verify(model, api.compile(model), samples).mismatches == 0


def test_values_that_vanish_in_identities_are_still_shown(tmp_path: Path) -> None:
    nodes = [
        node("Conv", "x w", "c"), node("Identity", "c", "i"), node("Relu", "i", "r"), node("Identity", "r", "j"),
        node("MaxPool", "j", "p", kernel_shape=[2, 2]), node("Dropout", "p", "y"),
    ]  # fmt: skip
    network = api.load_network(save(tmp_path, nodes, {"w": ONES}))
    assert network.float_graph is not None
    samples = random_inputs(network.float_graph, 1)
    model = api.quantize(network, samples)
    result = verify(model, api.compile(model), samples)
    assert {t.name for t in result.tensors} == {"x", "r", "j", "p", "y"}, "c and i are fused into r"
    assert result.mismatches == 0


def test_a_normalization_along_another_axis_is_not_folded() -> None:
    from compiler.ir.evaluate import outputs
    from compiler.ir.graph import Graph
    from compiler.ir.types import DType
    from compiler.ops.affine import Affine
    from compiler.ops.conv2d import Conv2d

    graph = Graph("axis")
    x = graph.input("x", DType.F32, (1, 3, 3, 3))
    generator = np.random.default_rng(3)
    constants = [
        graph.const(generator.standard_normal(s).astype(np.float32)) for s in ((3, 3, 1, 1), (3,), (3,), (3,))
    ]
    y = graph.add(Conv2d((1, 1), (0, 0, 0, 0), (1, 1), "NCHW"), (x, *constants[:2]))
    graph.set_outputs([graph.add(Affine(2), (y, *constants[2:]))], ["y"])
    (sample,) = random_inputs(graph, 1)
    expected = outputs(graph, sample)["y"]
    np.testing.assert_allclose(outputs(driver.prepare(graph), sample)["y"], expected, rtol=1e-5, atol=1e-5)


# --- the network language -----------------------------------------------------------------------------

DSL = 'model m\nweights "w.npz"\ninput x: float32[1, 4, 4, 1]\ny = Conv2D(2, 3)(x)\noutput y\n'
GOOD = {"conv2d/kernel": np.ones((3, 3, 1, 2), np.float32), "conv2d/bias": np.ones(2, np.float32)}


def dsl(folder: Path, text: str = DSL) -> Path:
    (folder / "n.net").write_text(text, newline="")
    if not (folder / "w.npz").exists():
        np.savez(folder / "w.npz", **GOOD)  # pyright: ignore[reportArgumentType]  (numpy's stub)
    return folder / "n.net"


@pytest.mark.parametrize(
    "text",
    [
        DSL.replace("3)", "(" * 5000 + "3" + ")" * 5000 + ")"),
        DSL.replace("(x)\n", "(x)\f\v\x1c$\n"),
        DSL.replace("float32[1, 4, 4, 1]", "float32[1, 4, 4, 99999999999999999999]"),
        DSL.replace("Conv2D(2, 3)", "ReLU(max_value=-1)"),
        DSL.replace("Conv2D(2, 3)", 'Reshape((4, "a\\0b"))'),
        DSL + "z = ReLU()(q)\n" * 5000,
        "",
        "output y",
    ],
)
def test_network_text_that_is_wrong_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError):
        load_model(dsl(tmp_path, text))


def test_carriage_returns_end_lines_too(tmp_path: Path) -> None:
    assert load_model(dsl(tmp_path, DSL.replace("\n", "\r\n"))).outputs[0].shape == (1, 2, 2, 2)


def corrupted(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(b ^ 0x5A for b in content[middle : middle + 20]) + content[middle + 20 :]


def test_weights_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    path = dsl(tmp_path)
    np.savez_compressed(tmp_path / "w.npz", **GOOD)  # pyright: ignore[reportArgumentType]  (numpy's stub)
    whole = (tmp_path / "w.npz").read_bytes()
    for content in (b"", b"PK", whole[:50], corrupted(whole), whole[:-10]):
        (tmp_path / "w.npz").write_bytes(content)
        with pytest.raises(CompileError):
            load_model(path)


def test_an_archive_that_promises_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    """A header of 8 GiB in a member of a few bytes: nothing is allocated for it."""
    header = (
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3, 1, 2147483648), }"
    )
    path = dsl(tmp_path)
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("conv2d/kernel.npy", header.ljust(127) + b"\n")
    with pytest.raises(CompileError, match="and holds 128 bytes"):
        load_model(path)


# --- dumps of graphs -------------------------------------------------------------------------------------


def quantized_text() -> str:
    graph = random_graph(0)
    return print_graph(calibrated(driver.prepare(graph), random_inputs(graph, 1)), blobs=True)


REPLACED = [
    ("strides=[", "strides=[0,"),
    ("pads=[", "pads=[-1,"),
    ('layout="NHWC"', 'layout="NWHC"'),
    ('layout="NCHW"', 'layout="NWHC"'),
    ("bounds=[-128,", "bounds=[-129,"),
    ("stage q", "stage nn"),
    ("q([0x1.", "q([0x1.0p+99999"),
    (' name "', ' name "\\ud800'),
    (' name "', ' name "\\q'),
    (' name "', ' name "\t'),
    ('view("x",[],[', 'view("x",[],[2,'),
    ('view("x",[],[', 'view("x",[[[1],[3]]],['),
    ('view("x",[],[', 'view("x",7,['),
    (",none)", ",5)"),
    ("q([0x1.", "q([-0x1."),
    ("q([0x1.", "q([0x1.0p+0,0x1."),
    ('blob sha256:', 'blob sha256:0'),
]  # fmt: skip


@pytest.mark.parametrize(("good", "bad"), REPLACED)
def test_a_dump_that_has_been_tampered_with_is_refused(good: str, bad: str) -> None:
    text = quantized_text()
    parse_graph(text)
    if good in text:
        with pytest.raises(CompileError):
            parse_graph(text.replace(good, bad, 1))


def test_every_replacement_is_of_something_that_occurs() -> None:
    text = quantized_text()
    assert sum(good in text for good, _ in REPLACED) == len(REPLACED) - 1, "one of the two layouts"


def test_bytes_that_are_not_base64_are_refused() -> None:
    with pytest.raises(CompileError, match="is not base64"):
        parse_graph(quantized_text().removesuffix('"\n') + '!"\n')


def test_deep_lists_in_a_dump_are_refused() -> None:
    deep = quantized_text().replace("strides=[", "strides=[" + "[" * 20_000 + "]" * 20_000, 1)
    with pytest.raises(CompileError):
        parse_graph(deep)


def test_a_graph_of_the_device_compiles_and_cannot_be_compared(tmp_path: Path) -> None:
    graph = random_graph(0)
    samples = random_inputs(graph, 1)
    model = api.quantize(api.Model("r", driver.prepare(graph)), samples)
    (tmp_path / "d.x1ir").write_text(print_graph(driver.lower(model.integers()), blobs=True))
    device = api.load_network(tmp_path / "d.x1ir")
    assert api.compile(device).program.instructions == api.compile(model).program.instructions
    with pytest.raises(UsageError, match="stage device"):
        verify(device, api.compile(device), samples)


def test_real_numbers_inside_an_integer_graph_are_refused() -> None:
    text = quantized_text()
    last = text[: text.index("  return")].rsplit("\n", 2)[-2]
    number = int(last.split()[0][1:])
    with pytest.raises(CompileError, match="is returned and is not dequantized"):
        parse_graph(text.replace(f"return %{number} as", "return %1 as"))


def test_a_dump_compiles_to_the_same_bytes(tmp_path: Path) -> None:
    path = save(tmp_path, [node("Conv", "x w", "c"), node("Relu", "c", "y")], {"w": ONES})
    np.savez(tmp_path / "c.npz", x=np.random.default_rng(1).random((2, 3, 8, 8), np.float32))
    model = api.quantize(path, tmp_path / "c.npz")
    whole = api.compile(path, calibrate=tmp_path / "c.npz")
    assert whole.program.note.calibration == "mse on 2 samples"
    for graph in (model.integers(), driver.lower(model.integers())):
        (tmp_path / "d.x1ir").write_text(print_graph(graph, blobs=True))
        assert api.compile(tmp_path / "d.x1ir").data == whole.data


@pytest.mark.parametrize(("axis", "shape"), [(1, (3,)), (2, (8,)), (1, (3, 8)), (3, (8,)), (-1, (8,))])
def test_additions_before_opset_7_lay_b_along_an_axis(
    axis: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    from compiler.ir.evaluate import outputs

    b = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    content = save(tmp_path, [node("Add", "x b", "y", broadcast=1, axis=axis)], {"b": b})
    model = onnx.ModelProto.FromString(content.read_bytes())
    model.opset_import[0].version = 6
    content.write_bytes(model.SerializeToString())
    graph = load_model(content)
    (sample,) = random_inputs(graph, 1)
    first = axis % 4
    expected = sample["x"] + b.reshape((1,) * first + shape + (1,) * (4 - first - len(shape)))
    np.testing.assert_array_equal(outputs(graph, sample)["y"], expected)


def test_a_missing_file_and_an_unknown_kind_are_usage_errors(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("x")
    for name in ("none.onnx", "m.txt", "nul\0.onnx", "x" * 5000 + ".onnx"):
        with pytest.raises(UsageError):
            load_model(tmp_path / name)


def test_names_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    """The protobuf library takes any bytes for a text."""
    content = save(tmp_path, [node("Conv", "x w", "y", auto_pad="VALID")], {"w": ONES}).read_bytes()
    for good in (b"Conv_1", b"VALID", b"Conv", b"auto_pad"):
        assert good in content
        (tmp_path / "m.onnx").write_bytes(content.replace(good, b"\xff" * len(good)))
        with pytest.raises(CompileError):
            load_model(tmp_path / "m.onnx")


def test_a_blob_with_letters_of_other_alphabets_is_refused() -> None:
    with pytest.raises(CompileError, match="is not base64"):
        parse_graph(quantized_text().removesuffix('"\n') + 'é"\n')
