"""Signal to quantization noise of operators that are made of others, beside ONNX Runtime's quantizer.

    python -m benchmarks.decomposed [--models N] [KIND...]

The models are the kinds of tests/kinds.py: the same model, the same calibration samples, other samples to
measure on. The peer is `quantize_static` (QDQ, S8S8, min-max, one scale per tensor: its other mode fails
on LayerNormalization), run by ONNX Runtime; what it leaves in float costs it nothing, and is counted. Each
figure is the median over N models.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime  # pyright: ignore[reportMissingTypeStubs]
import onnxruntime.quantization as quantization_library  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

import tests.kinds_of_windows  # noqa: F401  # pyright: ignore[reportUnusedImport]  (declares)
import x1
from tests.kinds import KINDS, Sort
from tests.models import samples

MADE_OF_OTHERS: Final = (
    "layer normalizations",
    "normalizations of channels",
    "variances made one",
    "statistics of the batch",
    "norms and their quotients",
    "logarithms of softmax",
    "responses of neighbours",
    "slopes of every shape",
    "logical combinations",
    "computed choices",
    "powers by element",
    "computed powers",
    "remainders",
    "masks before a softmax",
    "convolutions of volumes",
    "poolings of volumes",
)
CALIBRATED, MEASURED = 100, 20
Array = NDArray[Any]
runtime: Any = onnxruntime
quantization: Any = quantization_library


class Reader(quantization.CalibrationDataReader):  # pyright: ignore[reportUntypedBaseClass]
    """The calibration samples, one at a time."""

    def __init__(self, given: Sequence[dict[str, Array]]) -> None:
        self.left = list(given)

    def get_next(self) -> dict[str, Array] | None:
        """The next one."""
        return self.left.pop() if self.left else None


def batches(sort: Sort, seed: int, count: int) -> list[dict[str, Array]]:
    """Samples as the kind spreads them."""
    found: list[dict[str, Array]] = []
    for i in range(count):
        drawn = samples(sort.made, 1, 1000 * seed + i, sort.shapes)
        found.append({k: (v * sort.spread).astype(v.dtype) for k, v in drawn.items()})
    return found


def decibels(real: Sequence[Sequence[Array]], got: Sequence[Sequence[Array]]) -> float:
    """Signal to noise over all outputs of all samples."""
    pairs = [(r.astype(np.float64).ravel(), g.astype(np.float64).ravel())
             for rs, gs in zip(real, got, strict=True) for r, g in zip(rs, gs, strict=True)]  # fmt: skip
    signal = sum(float(r[np.isfinite(r)] @ r[np.isfinite(r)]) for r, _ in pairs)
    noise = sum(float(((r - g)[np.isfinite(r)] ** 2).sum()) for r, g in pairs)
    return 10 * np.log10(signal / noise) if noise and signal else float("inf")


def run(model: bytes, given: Sequence[dict[str, Array]]) -> list[list[Array]]:
    """The outputs in ONNX Runtime."""
    runtime.set_default_logger_severity(3)
    session = runtime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return [session.run(None, sample) for sample in given]


def peer(sort: Sort, calibrate: Sequence[dict[str, Array]]) -> tuple[bytes, int]:
    """ONNX Runtime's quantized model, and how many of its operators are left in float."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "f.onnx", Path(folder) / "q.onnx"
        source.write_bytes(sort.made.SerializeToString())
        logging.disable(logging.WARNING)
        quantization.quantize_static(
            str(source), str(target), Reader(calibrate), quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QInt8, weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
        logging.disable(logging.NOTSET)
        content = target.read_bytes()
    nodes = onnx.load_from_string(content).graph.node
    codes = {n.output[0] for n in nodes if n.op_type == "DequantizeLinear"}
    return content, sum(not (set(n.input) & codes) for n in nodes if "Linear" not in n.op_type)


def figures(name: str, seed: int) -> tuple[float, float, int] | None:
    """Ours, the peer's, and what the peer leaves in float; None where the peer fails."""
    sort = KINDS[name](np.random.default_rng([seed, len(name)]))
    calibrate, measure = batches(sort, seed, CALIBRATED), batches(sort, seed + 500, MEASURED)
    try:
        real = run(sort.made.SerializeToString(), measure)
    except runtime.capi.onnxruntime_pybind11_state.Fail:
        return None  # training_mode=1 with one result is refused
    session = x1.Session(x1.compile(sort.made, calibrate=calibrate, method="minmax", search=1))
    ours = decibels(real, [session.run(None, sample) for sample in measure])
    try:
        quantized, left = peer(sort, calibrate)
    except (ValueError, RuntimeError, KeyError, AttributeError) as error:
        print(f"{name}, model {seed}: the peer fails: {error}")
        return None
    return ours, decibels(real, run(quantized, measure)), left


def main() -> None:
    """Print a line for each kind."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kinds", nargs="*", default=MADE_OF_OTHERS)
    parser.add_argument("--models", type=int, default=5)
    options = parser.parse_args()
    print(f"{'kind':36} {'x1 dB':>7} {'peer dB':>8} {'x1 - peer':>10} {'float nodes of the peer':>24}")
    for name in options.kinds:
        found = [f for seed in range(options.models) if (f := figures(name, seed)) is not None]
        ours, theirs = (statistics.median(f[i] for f in found) for i in (0, 1))
        left = statistics.median(f[2] for f in found)
        print(f"{name:36} {ours:7.1f} {theirs:8.1f} {ours - theirs:10.1f} {left:24g}")


if __name__ == "__main__":
    main()
