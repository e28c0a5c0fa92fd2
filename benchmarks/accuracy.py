"""What quantization costs: trained networks, float against int8; written to docs/accuracy.md with --write.

    python -m benchmarks.accuracy [--write] [NET...]

Accuracy of digits is that of the compiled binary; the signal to quantization noise at the outputs is that
of its ONNX form in ONNX Runtime, which computes the same bits. The peer is ONNX Runtime's own quantizer
(S8S8, QOperator, one scale per channel, min-max) on the same calibration file. Needs the test assets beside
the repository, and Pillow.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

import x1
from compiler.quantize.methods import DEFAULT_METHOD, METHODS
from x1 import api
from x1.lab.evaluation import Evaluation, evaluate

REPOSITORY: Final = Path(__file__).resolve().parents[1]
ASSETS: Final = Path(os.environ.get("X1_ASSETS", REPOSITORY.parent / "shared" / "assets"))
PAGE: Final = REPOSITORY / "docs" / "accuracy.md"
DIGITS, CALIBRATION = 10_000, 256
PEER: Final = "ONNX Runtime"
EQUALIZED: Final = f"{DEFAULT_METHOD} --equalize"
MOST_LOST, LEAST_GAIN = 0.001, 1.0
TEXT: Final = """# Accuracy

What int8 costs networks that are trained. `python -m benchmarks.accuracy --write` writes this page; the
networks are test assets and no part of the repository.

x1 {x1}, ONNX Runtime {runtime}, {machine}. Calibrated on the first {calibration} training digits, or on 13
photographs; measured on test digits, or on 10 other photographs.

## Digits, classified by the binary

| network | digits | float | int8 | points | same class |
|---|---|---|---|---|---|
{top1}

int8 is the compiled binary in the simulator, quantized by the default method.

## Signal to quantization noise at the outputs, in dB

One figure for each output. ONNX Runtime stands for its own quantizer on the same calibration file: min-max,
int8, weights with one scale per channel. The other columns are methods of `x1 quantize`; mse is the default.

| network | pictures | {labels} |
|---|---|{rules}
{noise}

The gain of a network is that of the mean over its outputs; a mean of dB is the geometric mean of the ratios.
Figures of networks that end in a softmax vary by some dB with the pictures: a few uncertain ones decide.
"""
Array = NDArray[Any]
Outputs = dict[str, Array]


@dataclass(frozen=True)
class Net:
    """A network of the assets, and the pictures it takes; `digits` have labels."""

    file: str
    pictures: Callable[[str], Array]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    digits: Callable[[Array], Array] | None = None

    @property
    def path(self) -> Path:
        """The model."""
        return ASSETS / "models" / f"{self.file}.onnx"


@dataclass(frozen=True)
class Row:
    """A network's figures: SQNR in dB by quantizer, one per output; top-1 where there are labels."""

    file: str
    samples: int
    sqnr: dict[str, list[float]]
    top1: Evaluation | None


def digits(transform: Callable[[Array], Array]) -> Callable[[str], Array]:
    """The first training digits to calibrate on, the first test digits to measure noise on."""

    def load(split: str) -> Array:
        with np.load(ASSETS / "data" / "mnist.npz") as data:
            taken = data["x_train"][:CALIBRATION] if split == "calibration" else data["x_test"][:500]
        return transform(taken[:, None].astype(np.float32) / np.float32(255))

    return load


def photographs(
    size: int, transform: Callable[[Array], Array], *, crop: bool = False
) -> Callable[[str], Array]:
    """Photographs of that size, cropped as ImageNet networks take them or whole."""

    def load(split: str) -> Array:
        folder = {"calibration": "calibration_photos", "test": "imagenet_sample"}[split]
        paths = sorted(p for p in (ASSETS / "data" / folder).iterdir() if p.suffix in (".png", ".jpg"))
        return np.stack([np.ascontiguousarray(transform(_pixels(p, size, crop=crop))) for p in paths])

    return load


def _pixels(path: Path, size: int, *, crop: bool) -> Array:
    """(size, size, 3) float32 in 0..255."""
    picture = Image.open(path).convert("RGB")
    if not crop:
        return np.asarray(picture.resize((size, size), Image.Resampling.BICUBIC), np.float32)
    short = round(size / 0.875)
    scale = short / min(picture.size)
    width, height = (max(short, round(side * scale)) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)), np.float32)


def _as_it_is(x: Array) -> Array:
    return x


def _nhwc(x: Array) -> Array:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))


def _normalized(x: Array) -> Array:
    return (x - np.float32(0.1307)) / np.float32(0.3081)


def _lite(x: Array) -> Array:
    return (x.transpose(2, 0, 1) - np.float32(127)) / np.float32(128)


def _squeeze(x: Array) -> Array:
    mean = np.array([123.68, 116.779, 103.939], np.float32)
    return (x - mean).transpose(2, 0, 1)[::-1]


def _face(x: Array) -> Array:
    return x / np.float32(127.5) - np.float32(1)


def _mtcnn(x: Array) -> Array:
    return (x.transpose(1, 0, 2) - np.float32(127.5)) / np.float32(128)


NETS: Final = (
    Net("seed_mnist_nchw", digits(_as_it_is), digits=_as_it_is),
    Net("seed_mnist_nhwc_keraslike", digits(_nhwc), digits=_nhwc),
    Net("ccexam_mnist", digits(_normalized), digits=_normalized),
    Net("efficientnet_lite0_clean", photographs(224, _lite, crop=True)),
    Net("squeezenet1_1_ndf_imagenet_227", photographs(227, _squeeze, crop=True)),
    Net("blazeface_front_128", photographs(128, _face)),
    Net("mtcnn_pnet", photographs(112, _mtcnn), {"input_1": (1, 112, 112, 3)}),
    Net("mtcnn_rnet", photographs(24, _mtcnn), {"input_2": (1, 24, 24, 3)}),
    Net("mtcnn_onet", photographs(48, _mtcnn), {"input_3": (1, 48, 48, 3)}),
)


def in_onnx_runtime(model: Path, inputs: Array) -> Outputs:
    """The outputs for every picture, without optimizations."""
    runtime: Any = onnxruntime
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    feed = session.get_inputs()[0].name
    results = [session.run(names, {feed: inputs[i : i + 1]}) for i in range(len(inputs))]
    return {name: np.concatenate([np.atleast_1d(r[i]) for r in results]) for i, name in enumerate(names)}


def sqnr(real: Outputs, got: Outputs) -> list[float]:
    """10 log10 of signal over noise, for each output."""
    found: list[float] = []
    for name, wanted in real.items():
        signal, error = wanted.astype(np.float64), wanted.astype(np.float64) - got[name].astype(np.float64)
        found.append(10 * math.log10(float((signal**2).sum()) / float((error**2).sum())))
    return found


def by_the_peer(net: Net, calibration: Path, output: Path) -> None:
    """Quantize with ONNX Runtime."""
    tool = ASSETS / "tools" / "quantize_with_ort.py"
    options = ["--format", "qoperator", "--activations", "s8", "--calibration", str(calibration)]
    subprocess.run(
        [sys.executable, str(tool), str(net.path), str(output), *options], check=True, capture_output=True
    )


def measured(net: Net, folder: Path) -> Row:
    """All figures of a network."""
    calibration, quantized = folder / "calibration.npz", folder / "q.onnx"
    np.savez(calibration, inputs=net.pictures("calibration"))
    pictures = net.pictures("test")
    real = in_onnx_runtime(net.path, pictures)
    by_the_peer(net, calibration, quantized)
    found = {PEER: sqnr(real, in_onnx_runtime(quantized, pictures))}
    model = api.load_network(net.path, net.shapes)
    for label in (*METHODS, EQUALIZED):
        method, _, equalize = label.partition(" ")
        made = api.quantize(model, calibration, method=method, equalize=bool(equalize))
        made.save_onnx(quantized)
        found[label] = sqnr(real, in_onnx_runtime(quantized, pictures))
    return Row(net.file, len(pictures), found, _top1(net, model, calibration))


def _top1(net: Net, model: api.Model, calibration: Path) -> Evaluation | None:
    """Top-1 of float and of the binary with the default method, on all test digits."""
    if net.digits is None:
        return None
    with np.load(ASSETS / "data" / "mnist.npz") as data:
        pixels, labels = data["x_test"][:DIGITS], data["y_test"][:DIGITS]
    inputs = net.digits(pixels[:, None].astype(np.float32) / np.float32(255))
    (name,) = model.input_shapes
    samples = ({name: inputs[i : i + 1]} for i in range(len(inputs)))
    return evaluate(model, api.compile(model, calibrate=calibration), samples, labels)


def gains(rows: Sequence[Row], label: str) -> list[float]:
    """How many dB a quantizer is above the peer, for each network: the mean over its outputs."""
    return [float(np.mean(row.sqnr[label]) - np.mean(row.sqnr[PEER])) for row in rows]


def page(rows: Sequence[Row]) -> str:
    """The document."""
    labels = list(rows[0].sqnr)
    noise = [
        _cells(row.file, row.samples, *(", ".join(f"{v:.1f}" for v in row.sqnr[label]) for label in labels))
        for row in rows
    ]
    found = [gains(rows, label) for label in labels]
    noise.append(_cells("mean gain over ONNX Runtime", "", *(f"{np.mean(g):+.2f}" for g in found)))
    noise.append(_cells("least gain of a network", "", *(f"{min(g):+.2f}" for g in found)))
    top1 = [
        _cells(
            row.file,
            f"{e.samples:,}",
            f"{100 * e.float_top1:.2f} %",
            f"{100 * e.binary_top1:.2f} %",
            f"{100 * (e.binary_top1 - e.float_top1):+.2f}",
            f"{100 * e.agreement:.2f} %",
        )
        for row in rows
        if (e := row.top1) is not None
    ]
    return TEXT.format(
        x1=x1.__version__,
        runtime=onnxruntime.__version__,
        machine=platform.machine(),
        calibration=CALIBRATION,
        top1="\n".join(top1),
        labels=" | ".join(labels),
        rules="---|" * len(labels),
        noise="\n".join(noise),
    )


def _cells(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def shows_enough(rows: Sequence[Row]) -> bool:
    """Digits lose little, min-max is no worse than the peer anywhere, and the default is better."""
    lost = [row.top1.float_top1 - row.top1.binary_top1 for row in rows if row.top1 is not None]
    default = float(np.mean(gains(rows, DEFAULT_METHOD)))
    return max(lost, default=0.0) <= MOST_LOST and min(gains(rows, "minmax")) >= 0 and default >= LEAST_GAIN


def main() -> int:
    """Print the page, or write it; 1 if it shows less than it should."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.relative_to(REPOSITORY)}")
    parser.add_argument("nets", nargs="*", help="names of networks; all by default")
    options = parser.parse_args()
    rows: list[Row] = []
    for net in NETS:
        if not options.nets or net.file in options.nets:
            with tempfile.TemporaryDirectory() as folder:
                rows.append(measured(net, Path(folder)))
            print(f"{net.file} done", file=sys.stderr)
    if options.write:
        PAGE.write_text(page(rows), encoding="utf-8")
    else:
        print(page(rows))
    return 0 if shows_enough(rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
