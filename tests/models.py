"""Small ONNX models for tests, and what `x1 verify` says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from compiler.frontend.onnx_functions import names_read
from tests.command_line import x1

Array = NDArray[Any]
OPSET = 20


def node(op: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    """A node; a dash stands for an operand or a result that is left out."""
    names = ([n.replace("-", "") for n in text.split()] for text in (inputs, outputs))
    return helper.make_node(
        op, *names, name=f"{op}_{outputs.split(maxsplit=1)[0]}", domain=domain or None, **attributes
    )


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int]],
    outputs: str,
    constants: Mapping[str, Any] | None = None,
    opset: int = OPSET,
    dtypes: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """A model of float32 inputs, unless `dtypes` says another type."""
    kinds = dtypes or {}
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in inputs.items()],
        [helper.make_empty_tensor_value_info(n) for n in outputs.split()],
        [numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def save(made: onnx.ModelProto, folder: Path, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(made.SerializeToString())
    return path


def samples(made: onnx.ModelProto, count: int = 2, seed: int = 0, shapes: Mapping[str, Sequence[int]] | None = None
            ) -> dict[str, Array]:  # fmt: skip
    """Random values for every input that is read, `count` batches one after another; other floats as float32."""
    generator = np.random.default_rng(seed)
    initialized = {t.name for t in made.graph.initializer}
    read = {name for n in made.graph.node for name in names_read(n)} | {o.name for o in made.graph.output}
    found: dict[str, Array] = {}
    for value in made.graph.input:
        if value.name in initialized or value.name not in read:
            continue
        kind = value.type.tensor_type
        dims = list((shapes or {}).get(value.name, [d.dim_value for d in kind.shape.dim]))
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        shape = [count * dims[0], *dims[1:]] if dims else []
        if np.issubdtype(dtype, np.integer):
            low, high = (0, 8) if dtype.itemsize > 2 else (np.iinfo(dtype).min, np.iinfo(dtype).max + 1)
            found[value.name] = generator.integers(low, high, shape).astype(dtype)
        else:
            found[value.name] = generator.standard_normal(shape).astype(np.float32)
    return found


def save_samples(path: Path, given: Mapping[str, Array]) -> None:
    save: Any = np.savez
    save(path, **given)


def is_quantized(made: onnx.ModelProto) -> bool:
    """Whether an operator says how its result is quantized."""
    return any(
        n.op_type == "QuantizeLinear" or n.op_type.startswith(("QLinear", "QGemm")) for n in made.graph.node
    )


def verified(
    path: Path, folder: Path, data: Mapping[str, Array] | Path | None = None, *options: str,
    calibrate: bool | None = None, target: str = "edge32",
) -> dict[str, Any]:  # fmt: skip
    """The JSON of `x1 verify` of a file; float models are calibrated on the data that they are verified on."""
    made: Any = cast("Any", onnx).load(path, load_external_data=False) if path.suffix == ".onnx" else None
    if not isinstance(data, Path):
        given = data if data is not None else samples(made) if made is not None else {}
        data = folder / "data.npz"
        save_samples(data, given)
    needed = calibrate if calibrate is not None else made is None or not is_quantized(made)
    how = ["--calibrate", str(data)] if needed else []
    done = x1(
        ["verify", str(path), *how, "--input", f"@{data}", "--target", target, *options, "--json"], folder
    )
    body = json.loads(done.stdout)
    assert body["exit_code"] == done.returncode
    return body


def assert_equal_to_onnx_runtime(
    body: Mapping[str, Any], *, compared: float = 0.95, comparable: int = 1
) -> None:
    """Nothing differs, the import was judged where there is a float file, and something was comparable."""
    said = [d["message"] for d in body["diagnostics"]]
    assert body["exit_code"] == 0, (said, body.get("import"), body.get("first_divergence"))
    assert body["mismatches"] == body["evaluator_mismatches"] == 0
    if (judged := body["import"]) is not None:
        assert judged["differences"] == []
        assert judged["compared"] >= compared * judged["tensors"], judged
    assert sum(t["comparable"] for t in body["tensors"]) >= comparable
