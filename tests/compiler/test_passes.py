"""What the verifier objects to, and which graphs passes leave alone; test_pass_cases.py shows each pass."""

from __future__ import annotations

import numpy as np
import pytest

from compiler import driver
from compiler.ir.evaluate import outputs
from compiler.ir.graph import Graph
from compiler.ir.stage import Stage
from compiler.ir.types import DType
from compiler.ir.verify import VerifyError, verify
from compiler.ops.activation import Clamp
from compiler.ops.add import Add
from compiler.ops.affine import Affine
from compiler.ops.conv2d import Conv2d
from compiler.ops.gemm import Gemm
from compiler.ops.max_pool import MaxPool
from compiler.ops.shapes import Identity
from compiler.passes.base import run_passes
from compiler.passes.fold_bias import FoldBias
from tests.networks import calibrated, random_inputs

INFINITY = float("inf")


def conv_graph() -> Graph:
    """x -> conv -> (identity) -> batch norm -> clamp, and a second user of the convolution's twin."""
    g = Graph("example")
    x = g.input("x", DType.F32, (1, 2, 4, 4))
    w, b = g.const(np.ones((3, 2, 1, 1), np.float32), "w"), g.const(np.zeros(3, np.float32), "b")
    conv = g.add(Conv2d((1, 1), (0, 0, 0, 0), (1, 1), "NCHW"), (x, w, b), name="conv")
    same = g.add(Identity(), (conv,), name="same")
    gain, offset = g.const(np.full(3, 2, np.float32), "gain"), g.const(np.ones(3, np.float32), "offset")
    norm = g.add(Affine(1), (same, gain, offset), name="norm")
    relu = g.add(Clamp(0.0, INFINITY), (norm,), name="relu")
    row = g.const(
        np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1) * np.ones((1, 3, 4, 4), np.float32), "row"
    )
    other = g.add(Conv2d((1, 1), (0, 0, 0, 0), (1, 1), "NCHW"), (x, w, b), name="shared")
    biased = g.add(Add(), (other, row), name="not folded: two users")
    kept = g.add(Clamp(0.0, 6.0), (other,), name="not fused: two users")
    folded = g.add(
        Add(), (g.add(Conv2d((1, 1), (0, 0, 0, 0), (1, 1), "NCHW"), (x, w, b), name="c3"), row), name="biased"
    )
    pooled = g.add(MaxPool((2, 2), (2, 2), (0, 0, 0, 0), "NCHW"), (relu,), name="pool")
    g.set_outputs([pooled, biased, kept, folded], ["pool", "biased", "kept", "folded"])
    return g


def test_verifier_objects_to_an_operation_of_another_stage() -> None:
    graph = conv_graph()
    graph.stage = Stage.Q
    with pytest.raises(VerifyError, match=r"nn\.conv2d does not belong to stage q"):
        verify(graph)


def test_verifier_objects_to_a_type_that_the_rule_does_not_give() -> None:
    from isa.support.records import replace

    graph = conv_graph()
    node = next(n for n in graph.nodes() if n.name == "relu")
    node.type = replace(node.type, shape=(1, 3, 4, 5))
    with pytest.raises(VerifyError, match="its rule gives"):
        verify(graph)


def test_verifier_objects_to_a_device_graph_in_another_layout() -> None:
    graph = calibrated(driver.prepare(conv_graph()), random_inputs(conv_graph(), 1))
    graph.stage = Stage.DEVICE
    with pytest.raises(VerifyError, match="not in the device's layout"):
        verify(graph)


def test_a_graph_output_counts_as_a_use() -> None:
    g = Graph("uses")
    x = g.input("x", DType.F32, (1, 2))
    w, b = g.const(np.ones((2, 2), np.float32)), g.const(np.zeros(2, np.float32))
    y = g.add(Gemm(), (x, w, b))
    z = g.add(Clamp(0.0, 1.0), (y,))
    g.set_outputs([z], ["z"])
    assert g.sole_user(y) is z
    g.set_outputs([z, y], ["z", "y"])
    assert g.sole_user(y) is None
    twice = g.add(Add(), (z, z))
    assert g.sole_user(z) is None
    assert g.operands(twice) == (z, z)


@pytest.mark.parametrize("shape", [(1, 3, 5, 5), (4, 3, 1, 1), (1, 3, 1, 1), (1, 1, 1, 1)])
def test_a_bias_is_folded_only_where_the_sum_has_the_shape_of_the_product(shape: tuple[int, ...]) -> None:
    g = Graph("broadcast")
    x = g.input("x", DType.F32, (1, 2, 1, 1))
    w, b = g.const(np.ones((3, 2, 1, 1), np.float32)), g.const(np.zeros(3, np.float32))
    product = g.add(Conv2d((1, 1), (0, 0, 0, 0), (1, 1), "NCHW"), (x, w, b))
    values = np.broadcast_to(np.arange(shape[1], dtype=np.float32).reshape(1, -1, 1, 1) + 1, shape)
    total = g.add(Add(), (product, g.const(np.ascontiguousarray(values))), name="y")
    g.set_outputs([total], ["y"])
    sample = {"x": np.ones((1, 2, 1, 1), np.float32)}
    before = outputs(g, sample)["y"]
    folded = run_passes(g, [FoldBias()])
    assert any(isinstance(n.op, Add) for n in folded.nodes()) == (before.shape != (1, 3, 1, 1))
    np.testing.assert_array_equal(outputs(folded, sample)["y"], before)
