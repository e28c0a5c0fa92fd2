"""`x1 verify` judges the importer: ONNX Runtime runs the source file, and a wrong import is found and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compiler.ops import interpolate, resize
from compiler.ops.activation import QTable
from compiler.rules.importing import ONNX_OPERATORS, OnnxNode
from tests.models import assert_equal_to_onnx_runtime, model, node, samples, save, save_samples, verified
from x1.lab.import_check import difference

CASES = Path(__file__).resolve().parents[1] / "cases"


def chain(*nodes: Any, shape: tuple[int, ...] = (1, 4, 6, 6), **constants: Any) -> Any:
    made = [node("Relu", "x", "r"), *nodes, node("Mul", "m two", "y")]
    return model(made, {"x": shape}, "y", {"two": np.float32(2), **constants})


RESIZE = chain(node("Resize", "r - s", "m", mode="linear", coordinate_transformation_mode="align_corners"),
               s=np.array([1, 1, 1.7, 1.3], np.float32))  # fmt: skip
NEAREST = chain(node("Resize", "r - s", "m", mode="nearest", nearest_mode="floor"),
                s=np.array([1, 1, 1.7, 1.3], np.float32))  # fmt: skip
LEAKY = chain(node("Neg", "r", "n"), node("LeakyRelu", "n", "m", alpha=0.3))
BLOCKS = model([node("Relu", "x", "r"), node("SpaceToDepth", "r", "m", blocksize=2, mode="CRD"),
                node("Abs", "m", "y")], {"x": (1, 4, 6, 6)}, "y", opset=28)  # fmt: skip


def plant_coordinates(monkeypatch: pytest.MonkeyPatch) -> None:
    """The length that the scale gives, not the whole one that the result has."""
    right = interpolate.Interpolation._coordinate  # pyright: ignore[reportPrivateUsage]

    def wrong(
        self: interpolate.Interpolation, i: int, extent: int, size: int, scale: float, roi: Any
    ) -> float:
        if self.transform == "align_corners":
            return i * (extent - 1) / (extent * scale - 1)
        return right(self, i, extent, size, scale, roi)

    monkeypatch.setattr(interpolate.Interpolation, "_coordinate", wrong)


def plant_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a pixel forgotten."""
    right = resize.original
    monkeypatch.setattr(resize, "original", lambda _, *place: right("asymmetric", *place))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]


def plant_attribute(name: str, operator: str) -> Any:
    """The rule of an operator does not see an attribute."""

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        rule = ONNX_OPERATORS["", operator]

        def wrong(n: OnnxNode) -> Any:
            from isa.support.records import replace

            return rule(replace(n, attributes={k: v for k, v in n.attributes.items() if k != name}))

        monkeypatch.setitem(ONNX_OPERATORS, ("", operator), wrong)

    return plant


def plant_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    """Concatenation along the columns, whatever the axis."""
    rule = ONNX_OPERATORS["", "Concat"]

    def wrong(n: OnnxNode) -> Any:
        from isa.support.records import replace

        return rule(replace(n, attributes={**n.attributes, "axis": 3 if n.attributes["axis"] == 2 else 1}))

    monkeypatch.setitem(ONNX_OPERATORS, ("", "Concat"), wrong)


FAULTS: dict[str, tuple[Any, Any, str]] = {
    "a wrong coordinate formula": (RESIZE, plant_coordinates, "Resize_m"),
    "half a pixel forgotten": (NEAREST, plant_nearest, "Resize_m"),
    "an ignored slope": (LEAKY, plant_attribute("alpha", "LeakyRelu"), "LeakyRelu_m"),
    "an ignored mode": (BLOCKS, plant_attribute("mode", "SpaceToDepth"), "SpaceToDepth_m"),
    "a wrong axis": (model([node("Relu", "x", "r"), node("Neg", "r", "n"), node("Concat", "r n", "m", axis=2),
                            node("Abs", "m", "y")], {"x": (1, 4, 6, 6)}, "y"), plant_axis, "Concat_m"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_import_fails_verify_and_its_node_is_named(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, plant, where = FAULTS[fault]
    path = save(made, tmp_path)
    assert_equal_to_onnx_runtime(verified(path, tmp_path))
    plant(monkeypatch)
    body = verified(path, tmp_path)
    assert body["exit_code"] == 1
    assert body["mismatches"] == 0, "the binary is what was imported"
    assert body["first_divergence"] == "m"
    assert body["import"]["differences"][0]["node"] == where
    assert len(body["import"]["differences"]) == (2 if fault == "a wrong axis" else 1), (
        "others get right operands"
    )


def test_the_table_names_the_node_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.command_line import x1

    path = save(LEAKY, tmp_path)
    save_samples(tmp_path / "d.npz", samples(LEAKY))
    plant_attribute("alpha", "LeakyRelu")(monkeypatch)
    done = x1(["verify", str(path), "--calibrate", "d.npz", "--input", "@d.npz"], tmp_path)
    assert done.returncode == 1
    assert (
        "import: 1 of 4 float tensors differ from the file, the first in 'm' of node 'LeakyRelu_m'"
        in done.stdout
    )


def test_a_wrong_evaluator_is_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = QTable.evaluate
    path = save(LEAKY, tmp_path)
    monkeypatch.setattr(QTable, "evaluate", lambda *a: np.minimum(right(*a), 3))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    body = verified(path, tmp_path)
    assert body["exit_code"] == 1
    assert body["mismatches"] == 0
    assert body["evaluator_mismatches"] > 0


def test_a_network_without_a_source_file_says_that_its_import_is_not_judged(tmp_path: Path) -> None:
    (tmp_path / "n.net").write_text(
        'model n\ninput x: float32[1, 4, 4, 2]\ny = Activation("relu")(x)\noutput y\n'
    )
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).standard_normal((2, 4, 4, 2)).astype(np.float32))
    body = verified(tmp_path / "n.net", tmp_path, tmp_path / "d.npz", calibrate=True)
    assert (body["exit_code"], body["import"]) == (0, None)


def test_a_death_of_the_oracle_is_a_message_and_the_rest_is_compared(tmp_path: Path) -> None:
    body = verified(CASES / "qdq_split_unused.onnx", tmp_path)
    assert_equal_to_onnx_runtime(body)
    assert any("died" in failure for failure in body["oracle"]["failures"])
    assert [d["code"] for d in body["diagnostics"]] == ["oracle.failed"] * len(body["diagnostics"])
    assert body["diagnostics"]


def test_what_onnx_runtime_refuses_at_run_time_is_not_comparable_and_the_rest_is_compared(
    tmp_path: Path,
) -> None:
    body = verified(CASES / "gap_range.onnx", tmp_path, CASES / "gap_range.npz")
    assert_equal_to_onnx_runtime(body, comparable=2)
    assert [t["name"] for t in body["tensors"] if not t["comparable"]] == ["y"]
    assert "RUNTIME_EXCEPTION" in body["oracle"]["failures"][0]


def test_sums_that_cancel_are_no_difference_and_values_that_are_wrong_are() -> None:
    expected = np.array([1.0, -2.0, 0.0], np.float32)
    assert difference(expected, expected * np.float32(1 + 2e-5)) is None
    assert difference(expected, expected + np.float32(3e-4)) == pytest.approx((3e-4, 2.0), rel=1e-2)
    assert difference(expected, expected.reshape(3, 1)) is not None
    nothing = np.array([np.nan, np.inf], np.float32)
    assert difference(nothing, nothing) is None
    assert difference(nothing, nothing[::-1]) is not None
