"""Makes the data of stem.x1s, and the network that it is written after.

    python make_stem.py

writes stem.onnx (a convolution 7 x 7 with stride 2, ReLU, max pooling 3 x 3 with stride 2; seeded weights),
stem_calibration.npz, and the two files that stem.x1s takes its weights and records from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import x1

FOLDER = Path(__file__).resolve().parent


def write_network(folder: Path) -> tuple[Path, Path]:
    """The network and its calibration data: one picture that spans 0 to 1."""
    generator = np.random.default_rng(7)
    weights = (generator.standard_normal((64, 3, 7, 7)) / 12).astype(np.float32)
    bias = (generator.standard_normal(64) / 4).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", strides=[2, 2], pads=[3, 3, 3, 3]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node(
            "MaxPool", ["r"], ["y"], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "stem",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 224, 224])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64, 56, 56])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "stem.onnx").write_bytes(model.SerializeToString(deterministic=True))
    picture = generator.random((1, 3, 224, 224), np.float32)
    picture[0, 0, 0, :2] = (0, 1)
    np.savez(folder / "stem_calibration.npz", inputs=picture)
    return folder / "stem.onnx", folder / "stem_calibration.npz"


def main() -> None:
    """Write the files, and print the lines of stem.x1s that depend on them."""
    network, calibration = write_network(FOLDER)
    program = x1.compile(
        network, "edge32", calibrate=calibration, method="minmax", bias_correction=False
    ).program
    (FOLDER / "stem_weights.bin").write_bytes(program.weights)
    (FOLDER / "stem_params.bin").write_bytes(program.params)
    for word, (tensor,) in (("in ", program.abi.inputs), ("out", program.abi.outputs)):
        assert tensor.scale is not None
        print(f"{word} {tensor.name}: scale={float(tensor.scale).hex()} zp={tensor.zero_point}")


if __name__ == "__main__":
    main()
