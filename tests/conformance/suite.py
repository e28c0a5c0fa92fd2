"""ONNX's own node tests, read from the wheel of onnx 1.17.0, which is never installed.

A test is a model of a few nodes, inputs and expected outputs. Inputs that are no data (weights, scales,
shapes) become initializers. The float evaluator must give what is expected as closely as ONNX asks; the
compiled binary must give what the evaluator of its integer graph gives, near what is expected.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import onnx
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from compiler.frontend.load import load_model
from compiler.ir.evaluate import outputs
from compiler.ir.graph import Input
from compiler.ir.stage import Stage
from compiler.passes.calibrate import observe
from compiler.quantize.methods import Recipe, chosen
from compiler.rules.importing import ONNX_OPERATORS
from isa import arithmetic
from isa.support.diagnostics import X1Error
from x1 import api
from x1.session import Session

VERSION: Final = "1.17.0"
FOLDER: Final = "onnx/backend/test/data/node/"
RTOL: Final = 1e-3
ATOL: Final = 1e-7
"""The tolerances of ONNX's own runner."""
DTYPES: Final = (TensorProto.FLOAT, TensorProto.INT8, TensorProto.UINT8)
SHAPE_DTYPES: Final = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
"""What shapes, axes and flags are made of."""
PARAMETERS: Final[dict[str, range]] = {
    "Conv": range(1, 3), "ConvTranspose": range(1, 3), "Gemm": range(1, 3), "BatchNormalization": range(1, 5),
    "PRelu": range(1, 2), "Clip": range(1, 3), "Pow": range(1, 2), "Pad": range(1, 4), "Resize": range(1, 4),
    "Upsample": range(1, 2), "QuantizeLinear": range(1, 3), "DequantizeLinear": range(1, 3), "QLinearConv": range(1, 9),
    "Dropout": range(1, 3), "Where": range(1),
}  # fmt: skip
"""Which inputs of an operator are no data."""
MATMUL_PARAMETERS: Final = (1, 2, 4, 5, 6, 7)
WORST_SHARE: Final = 0.05
"""How far, as a share of the range, the mean error of the binary may be."""
WRONG: Final = ("test_qlinearmatmul_2D_int8_float32", "test_qlinearmatmul_3D_int8_float32")
"""Tests whose expected codes wrap around where the operator saturates."""
Array = NDArray[Any]
DISAGREED: Final[dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "test_resize_downsample_scales_cubic_align_corners": (
        (1.0, 2.3951917, 3.7903831, 6.580766, 7.975958, 9.371149, 12.161532, 13.5567236, 14.9519157),
        (1.0, 2.5, 4.0, 7.0, 8.5, 10.0, 13.0, 14.5, 16.0),
    ),
    "test_resize_downsample_scales_linear_align_corners": ((1.0, 3.1428571), (1.0, 4.0)),
}  # fmt: skip
"""Tests of which ONNX Runtime gives other values than the file: those of the file, and those of ONNX Runtime.

It decides: align_corners with a scale that gives no whole length is what torch means by it.
"""


@dataclass(frozen=True)
class NodeTest:
    """A test: its name, the model with parameters as initializers, the data and what is expected."""

    name: str
    model: onnx.ModelProto
    data: dict[str, Array]
    expected: dict[str, Array]


def wheel() -> Path:
    """The wheel, downloaded once."""
    base = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "x1-compiler-tests"
    found = sorted(base.glob(f"onnx-{VERSION}-cp311-*.whl"))
    if found:
        return found[0]
    base.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=base) as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            f"onnx=={VERSION}",
            "-d",
            folder,
        ]
        command += ["--python-version", "3.11", "--only-binary=:all:", "--platform", "manylinux2014_x86_64"]
        subprocess.run(command, check=True, capture_output=True)
        (made,) = Path(folder).glob("*.whl")
        return made.rename(base / made.name)


def node_tests() -> Iterator[NodeTest]:
    """The tests of operators that are ours, with float32, int8 or uint8 data of rank up to 4."""
    with zipfile.ZipFile(wheel()) as archive:
        names = sorted(n.removesuffix("model.onnx") for n in archive.namelist()
                       if n.startswith(FOLDER) and n.endswith("/model.onnx"))  # fmt: skip
        for name in names:
            model = onnx.ModelProto()
            model.ParseFromString(archive.read(f"{name}model.onnx"))
            if not all(
                (_domain(n), n.op_type) in ONNX_OPERATORS or n.op_type == "Constant" for n in model.graph.node
            ):
                continue
            made = _test(archive, name, model)
            if made is not None:
                yield made


def _domain(node: onnx.NodeProto) -> str:
    return "" if node.domain in ("", "ai.onnx") else node.domain


def _test(archive: zipfile.ZipFile, name: str, model: onnx.ModelProto) -> NodeTest | None:
    values = [*model.graph.input, *model.graph.output]
    kinds = [v.type.tensor_type.elem_type for v in values]
    if any(not v.type.HasField("tensor_type") for v in values) or not set(kinds) <= {*DTYPES, *SHAPE_DTYPES}:
        return None
    data: dict[str, Array] = {}
    for index, value in enumerate(list(model.graph.input)):
        tensor = _tensor(archive, f"{name}test_data_set_0/input_{index}.pb")
        if tensor is None:
            return None
        if _is_data(model, value):
            data[value.name] = numpy_helper.to_array(tensor)
        else:
            tensor.name = value.name
            model.graph.initializer.append(tensor)
            model.graph.input.remove(value)
    expected: dict[str, Array] = {}
    for index, value in enumerate(model.graph.output):
        tensor = _tensor(archive, f"{name}test_data_set_0/output_{index}.pb")
        if tensor is None:
            return None
        expected[value.name] = numpy_helper.to_array(tensor)
    kinds = {np.dtype(np.float32), np.dtype(np.int8), np.dtype(np.uint8)}
    arrays = [*data.values(), *expected.values()]
    if not data or any(a.dtype not in kinds or not a.ndim <= 4 or not a.size for a in arrays):
        return None
    return NodeTest(name.removeprefix(FOLDER).strip("/"), model, data, expected)


def _tensor(archive: zipfile.ZipFile, place: str) -> onnx.TensorProto | None:
    tensor = onnx.TensorProto()
    try:
        tensor.ParseFromString(archive.read(place))
    except KeyError:
        return None
    return tensor


def _is_data(model: onnx.ModelProto, value: onnx.ValueInfoProto) -> bool:
    """Whether a graph input is data: of a data type, no scalar, and no parameter of any node."""
    if value.type.tensor_type.elem_type not in DTYPES or not value.type.tensor_type.shape.dim:
        return False
    for node in model.graph.node:
        chosen = PARAMETERS.get(node.op_type, MATMUL_PARAMETERS if node.op_type == "QLinearMatMul" else ())
        if any(i in chosen for i, name in enumerate(node.input) if name == value.name):
            return False
    return True


def result(test: NodeTest) -> tuple[str, str]:
    """`pass`, `refused` or `fail`, and why."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        path.write_bytes(test.model.SerializeToString())
        try:
            shapes = {name: value.shape for name, value in test.data.items()}
            return _compared(test, path, shapes)
        except X1Error as error:
            return "refused", "; ".join(d.message for d in error.diagnostics)


def _compared(test: NodeTest, path: Path, shapes: dict[str, tuple[int, ...]]) -> tuple[str, str]:
    graph = load_model(path, _open_shapes(test.model, shapes))
    wanted = _decided(test)
    if graph.stage is Stage.NN:
        real = outputs(graph, test.data)
        for name, expected in wanted.items():
            if not np.allclose(real[name], expected, RTOL, ATOL, equal_nan=True):
                return "fail", f"{name}: the float evaluator is off by {np.abs(real[name] - expected).max()}"
    network = api.load_network(path, _open_shapes(test.model, shapes))
    if network.quantized is None:
        network = api.quantize(network, [cast("Any", test.data)])
    binary = api.compile(network, search=1)
    got = dict(zip(network.integers().output_names, Session(binary).run(None, test.data), strict=True))
    integers = outputs(network.integers(), test.data)
    near = _on_quantized_values(network, test.data) if graph.stage is Stage.NN else _expected_codes(test)
    for name, expected in wanted.items():
        if got[name].tobytes() != integers[name].tobytes():
            return "fail", f"{name}: the binary is not what the integer graph gives"
        if expected.shape != got[name].shape or expected.dtype != got[name].dtype:
            return (
                "fail",
                f"{name}: {got[name].dtype}{list(got[name].shape)}, not {expected.dtype}{list(expected.shape)}",
            )
        if message := _too_far(got[name], near[name]):
            return "fail", f"{name}: {message}"
    return "pass", ""


def _on_quantized_values(network: api.Model, data: dict[str, Array]) -> dict[str, Array]:
    """The float network, every value of it rounded to what its codes can say."""
    graph = network.float_graph
    assert graph is not None
    seen = observe(graph, [cast("Any", data)], ranges_alone=True)
    values: dict[int, Array] = {}
    for node in graph.nodes():
        if node.value is not None:
            values[node.id] = node.value
            continue
        given = data[node.name] if isinstance(node.op, Input) else None
        if given is None:
            operands = [values[i.id] for i in node.inputs]
            given = node.op.evaluate(operands, [i.type for i in node.inputs], node.type)
        if node.name not in seen.tensors:  # an input that is returned as it is
            values[node.id] = given
            continue
        quant = chosen(seen.tensors[node.name], Recipe("minmax"))
        codes = arithmetic.quantize(np.nan_to_num(given), quant.scale, quant.zero_point, *quant.dtype.bounds)
        values[node.id] = arithmetic.dequantize(codes, quant.scale, quant.zero_point)
    return {name: values[n.id] for name, n in zip(graph.output_names, graph.outputs, strict=True)}


def _decided(test: NodeTest) -> dict[str, Array]:
    """What is expected: what the file says, or ONNX Runtime where the two are known to disagree."""
    if test.name not in DISAGREED:
        return test.expected
    ((name, value),) = test.expected.items()
    of_file, of_runtime = (np.asarray(v, np.float32).reshape(value.shape) for v in DISAGREED[test.name])
    np.testing.assert_allclose(value, of_file, RTOL)
    np.testing.assert_allclose(_by_onnx_runtime(test)[name], of_runtime, RTOL)
    return {name: of_runtime}


def _by_onnx_runtime(test: NodeTest) -> dict[str, Array]:
    runtime: Any = onnxruntime
    session = runtime.InferenceSession(test.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(test.expected, session.run(None, test.data), strict=True))


def _expected_codes(test: NodeTest) -> dict[str, Array]:
    """What a test on integers expects; ONNX Runtime's result where the file's is known to be wrong."""
    return _by_onnx_runtime(test) if test.name in WRONG else test.expected


def _too_far(got: Array, expected: Array) -> str:
    """Whether the mean error is more than a share of the range; of codes, than one."""
    finite = np.isfinite(expected)
    error = np.abs(got.astype(np.float64) - expected.astype(np.float64))[finite]
    if expected.dtype != np.float32:
        return f"codes differ by up to {error.max():g}" if error.size and error.max() > 1 else ""
    allowed = max(WORST_SHARE * float(np.ptp(np.append(expected[finite], 0))), ATOL)
    return (
        f"the mean error is {error.mean():.3g}, allowed {allowed:.3g}"
        if error.size and error.mean() > allowed
        else ""
    )


def _open_shapes(model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The shapes of inputs that leave dimensions open."""
    given = {
        i.name: [d.HasField("dim_value") for d in i.type.tensor_type.shape.dim] for i in model.graph.input
    }
    return {name: shape for name, shape in shapes.items() if not all(given.get(name, [True]))}
