"""Networks that ONNX Runtime's own quantizer has quantized: twenty patterns in every form that it writes."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.models import model, node, save

Array = NDArray[Any]
Pattern = tuple[list[onnx.NodeProto], dict[str, Any]]
FORMATS: Final = ("QDQ", "QOperator")
TYPES: Final = {"u8s8": ("QUInt8", "QInt8"), "s8s8": ("QInt8", "QInt8"), "u8u8": ("QUInt8", "QUInt8")}
PARTIAL: Final[dict[str, list[str] | None]] = {"all": None, "products": ["Conv", "MatMul", "Gemm"],
                                             "no sums": ["Conv", "MatMul", "Gemm", "MaxPool", "Relu", "Clip", "Mul"]}  # fmt: skip
SHAPE: Final = (1, 8, 8, 8)


@dataclass(frozen=True)
class Variant:
    """A pattern and how it is quantized."""

    pattern: str
    form: str
    types: str
    per_channel: bool
    partial: str

    def __str__(self) -> str:
        return f"{self.pattern}.{self.form}.{self.types}.{'channel' if self.per_channel else 'tensor'}.{self.partial}"


def variants() -> list[Variant]:
    """All of them, in an order in which every part takes from everywhere."""
    found = [Variant(*v) for v in itertools.product(PATTERNS, FORMATS, TYPES, (False, True), PARTIAL)]
    order = np.random.default_rng(5).permutation(len(found))
    return [found[i] for i in order]


def write(variant: Variant, folder: Path) -> Path:
    """The quantized model of a variant, as a file."""
    import onnxruntime.quantization as library  # pyright: ignore[reportMissingTypeStubs]

    quantization: Any = library
    logging.disable(logging.WARNING)
    nodes, constants = PATTERNS[variant.pattern]
    float_path = save(model(nodes, {"x": SHAPE}, "y", constants, opset=17), folder, "float.onnx")
    path = folder / "quantized.onnx"
    activations, weights = TYPES[variant.types]
    quantization.quantize_static(
        str(float_path), str(path), _reader(quantization), quant_format=getattr(quantization.QuantFormat, variant.form),
        activation_type=getattr(quantization.QuantType, activations), per_channel=variant.per_channel,
        weight_type=getattr(quantization.QuantType, weights), op_types_to_quantize=PARTIAL[variant.partial],
    )  # fmt: skip
    logging.disable(logging.NOTSET)
    return path


def _reader(quantization: Any) -> Any:
    class Reader(quantization.CalibrationDataReader):  # pyright: ignore[reportUntypedBaseClass]
        def __init__(self) -> None:
            generator = np.random.default_rng(1)
            self.left = [{"x": generator.standard_normal(SHAPE).astype(np.float32)} for _ in range(4)]

        def get_next(self) -> dict[str, Array] | None:
            return self.left.pop() if self.left else None

    return Reader()


def open_results(path: Path, supported: set[str]) -> list[str]:
    """Float results of supported operators that no QuantizeLinear takes, from the file alone."""
    loaded: Any = onnx
    graph = loaded.load(str(path)).graph
    floats = _floats(graph)
    users: dict[str, list[Any]] = {}
    for made in graph.node:
        for name in made.input:
            users.setdefault(name, []).append(made)
    return [
        name
        for made in graph.node
        if made.op_type in supported and made.op_type != "DequantizeLinear"
        for name in made.output
        if name in floats and not any(u.op_type == "QuantizeLinear" for u in users.get(name, []))
    ]


def _floats(graph: Any) -> set[str]:
    """The float tensors that depend on an input: what is not quantized, of these operators."""
    constants = {t.name for t in graph.initializer}
    found = {i.name for i in graph.input}
    for made in graph.node:
        codes = made.op_type == "QuantizeLinear" or made.op_type.startswith(("QLinear", "QGemm"))
        constant = all(name in constants for name in made.input if name)
        if constant:
            constants.update(made.output)
        from_codes = made.op_type != "DequantizeLinear" and any(
            name not in found and name not in constants for name in made.input if name
        )
        if not codes and not constant and not from_codes:
            found.update(made.output)
        if made.op_type == "DequantizeLinear" and not constant:
            found.update(made.output)
    return found


def _w(*shape: int, seed: int = 0) -> Array:
    fan = max(int(np.prod(shape[1:])), 1)
    return (np.random.default_rng(seed).standard_normal(shape) / np.sqrt(fan)).astype(np.float32)


def _i(*values: int) -> Array:
    return np.array(values, np.int64)


def _conv(x: str, y: str, w: str = "w", **attributes: Any) -> onnx.NodeProto:
    return node("Conv", f"{x} {w} b", y, pads=[1, 1, 1, 1], **attributes)


BASE: Final[dict[str, Any]] = {"w": _w(8, 8, 3, 3, seed=1), "b": _w(8, seed=2)}


def _patterns() -> Iterator[tuple[str, Pattern]]:
    yield "conv-relu", ([_conv("x", "c"), node("Relu", "c", "y")], BASE)
    yield (
        "conv-clip",
        ([_conv("x", "c"), node("Clip", "c lo hi", "y")], {**BASE, "lo": np.float32(0), "hi": np.float32(6)}),
    )
    yield "residual", ([_conv("x", "c"), node("Add", "c x", "s"), node("Relu", "s", "y")], BASE)
    yield (
        "depthwise",
        (
            [
                node("Conv", "x d b", "c", pads=[1, 1, 1, 1], group=8),
                node("Relu", "c", "r"),
                node("Conv", "r p b", "y"),
            ],
            {"d": _w(8, 1, 3, 3, seed=3), "p": _w(8, 8, 1, 1, seed=4), "b": BASE["b"]},
        ),
    )
    yield (
        "pooled-gemm",
        (
            [
                _conv("x", "c"),
                node("GlobalAveragePool", "c", "g"),
                node("Flatten", "g", "f"),
                node("Gemm", "f m n", "y", transB=1),
            ],
            {**BASE, "m": _w(5, 8, seed=5), "n": _w(5, seed=6)},
        ),
    )
    yield "maxpool", ([_conv("x", "c"), node("MaxPool", "c", "y", kernel_shape=[2, 2], strides=[2, 2])], BASE)
    yield (
        "averagepool",
        ([_conv("x", "c"), node("AveragePool", "c", "y", kernel_shape=[2, 2], strides=[2, 2])], BASE),
    )
    yield (
        "concat",
        (
            [_conv("x", "c"), node("Concat", "c x", "k", axis=1), node("Conv", "k q b", "y")],
            {**BASE, "q": _w(8, 16, 1, 1, seed=7)},
        ),
    )
    yield "sigmoid-gate", ([_conv("x", "c"), node("Sigmoid", "c", "s"), node("Mul", "c s", "y")], BASE)
    yield (
        "matmul-bias",
        (
            [node("Flatten", "x", "f"), node("MatMul", "f m", "t"), node("Add", "t n", "y")],
            {"m": _w(512, 6, seed=8), "n": _w(6, seed=9)},
        ),
    )
    yield (
        "matmul-3d",
        (
            [node("Reshape", "x s", "r"), node("MatMul", "r m", "t"), node("Add", "t n", "y")],
            {"s": _i(2, 16, 16), "m": _w(16, 6, seed=8), "n": _w(6, seed=9)},
        ),
    )
    yield (
        "attention",
        (
            [
                node("Reshape", "x s", "r"),
                node("Transpose", "r", "t", perm=[0, 2, 1]),
                node("MatMul", "r t", "a"),
                node("Softmax", "a", "p", axis=-1),
                node("MatMul", "p r", "y"),
            ],
            {"s": _i(2, 16, 16)},
        ),
    )
    yield "hardswish", ([_conv("x", "c"), node("HardSwish", "c", "h"), _conv("h", "y")], BASE)
    yield "leaky", ([_conv("x", "c"), node("LeakyRelu", "c", "y", alpha=0.1)], BASE)
    yield (
        "gelu",
        (
            [
                _conv("x", "c"),
                node("Div", "c q", "d"),
                node("Erf", "d", "e"),
                node("Add", "e o", "f"),
                node("Mul", "c f", "g"),
                node("Mul", "g h", "y"),
            ],
            {**BASE, "q": np.float32(1.4142135), "o": np.float32(1), "h": np.float32(0.5)},
        ),
    )
    yield (
        "transposed",
        (
            [_conv("x", "c"), node("ConvTranspose", "c t u", "y", strides=[2, 2])],
            {**BASE, "t": _w(8, 4, 2, 2, seed=10), "u": _w(4, seed=11)},
        ),
    )
    yield (
        "resize-nearest",
        (
            [_conv("x", "c"), node("Resize", "c - z", "r", mode="nearest"), _conv("r", "y")],
            {**BASE, "z": np.array([1, 1, 2, 2], np.float32)},
        ),
    )
    yield (
        "resize-linear",
        (
            [_conv("x", "c"), node("Resize", "c - z", "r", mode="linear"), _conv("r", "y")],
            {**BASE, "z": np.array([1, 1, 2, 2], np.float32)},
        ),
    )
    yield (
        "shuffle",
        (
            [
                _conv("x", "c"),
                node("Reshape", "c s", "r"),
                node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]),
                node("Reshape", "t e", "u"),
                _conv("u", "y"),
            ],
            {**BASE, "s": _i(1, 2, 4, 8, 8), "e": _i(1, 8, 8, 8)},
        ),
    )
    yield (
        "split-pad",
        (
            [
                _conv("x", "c"),
                node("Split", "c k", "l r", axis=1),
                node("Pad", "l d", "p"),
                node("Conv", "p v", "o"),
                node("Relu", "o", "y"),
            ],
            {**BASE, "k": _i(4, 4), "d": _i(0, 0, 1, 1, 0, 0, 1, 1), "v": _w(4, 4, 3, 3, seed=12)},
        ),
    )
    yield (
        "normalized",
        (
            [_conv("x", "c"), node("Relu", "c", "r"), node("BatchNormalization", "r s h e v", "y")],
            {
                **BASE,
                "s": _w(8, seed=13) + 1,
                "h": _w(8, seed=14),
                "e": _w(8, seed=15),
                "v": np.abs(_w(8, seed=16)) + np.float32(0.5),
            },
        ),
    )
    yield (
        "conv-1d",
        (
            [node("Reshape", "x s", "r"), node("Conv", "r w b", "c", pads=[1, 1]), node("Relu", "c", "y")],
            {"s": _i(1, 8, 64), "w": _w(6, 8, 3, seed=17), "b": _w(6, seed=18)},
        ),
    )


PATTERNS: Final[dict[str, Pattern]] = dict(_patterns())
