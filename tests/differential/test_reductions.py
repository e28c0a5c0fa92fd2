"""Reductions on generated operands, ONNX Runtime as the judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.instructions.control import (
    ScalarSet,
)
from isa.instructions.records import QuantRecord
from isa.instructions.vector import Requantize
from isa.instructions.vector_reduce import Axis, OperandPlace, Reduction, VectorReduce
from isa.memory_map import REQUANT_RECORD, Space
from isa.spec import ElementType
from isa.support.records import replace
from isa.target import load_target
from tests.bench import Bench
from tests.operands import F32, Array, clamped, codes, dyadic, odd
from tests.oracle import Nodes, run, scalar, zero

TARGET = load_target("edge16")
OUT = 1 << 16


def reduced(instr: VectorReduce, x: Array, record: QuantRecord, size: int, dtype: Any = np.int8) -> Array:
    """The result of one reduction of an image that lies dense in the scratchpad."""
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x).put(Space.PRM, 0, record.pack())
    return bench.run().get(Space.SPM, OUT, (size,), dtype)


def dense(fn: Reduction, axis: Axis, x: Array, element_bytes: int = 1, **fields: Any) -> VectorReduce:
    """A reduction of a dense image to a dense result."""
    h, w, c = x.shape
    ow, oc = (w if axis in (Axis.C, Axis.H) else 1), (1 if axis is Axis.C else c)
    pitch = oc * element_bytes
    return VectorReduce(
        fn=fn, axis=axis, out=OUT, h=h, w=w, c=c, ips=c, irs=w * c, ops=pitch, ors=ow * pitch, **fields
    )


@given(
    st.sampled_from([ElementType.S8, ElementType.U8]),
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40)),
    st.integers(0, 1 << 30),
)
@settings(max_examples=80)
def test_mean_over_rows_and_columns_is_qlinearglobalaveragepool(
    kind: ElementType, shape: tuple[int, int, int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    x = codes(generator, *shape, kind=kind)
    sx, sy = dyadic(generator, -6, 2), dyadic(generator, -6, 2)
    zx, zy = odd(generator, 2, kind)
    m = sx / (sy * F32(shape[0] * shape[1]))
    instr = dense(Reduction.MEAN, Axis.HW, x, xt=kind, ot=kind)
    got = reduced(instr, x, clamped(kind, m, za=zx, zo=zy), shape[2], kind.dtype)
    constants = {"sx": scalar(sx), "zx": zero(zx, kind.dtype), "sy": scalar(sy), "zy": zero(zy, kind.dtype)}
    nodes: Nodes = [("QLinearGlobalAveragePool", ["x", "sx", "zx", "sy", "zy"], "y", {"channels_last": 0})]
    expected = run(nodes, {"x": x.transpose(2, 0, 1)[None].copy()}, constants, "y").ravel()
    np.testing.assert_array_equal(got, expected)


AXES: dict[Axis, tuple[int, ...]] = {Axis.HW: (0, 1), Axis.C: (2,), Axis.W: (1,), Axis.H: (0,)}


@given(
    st.sampled_from(list(Axis)),
    st.integers(1, 5),
    st.integers(1, 6),
    st.integers(1, 20),
    st.integers(0, 1 << 30),
)
@settings(max_examples=100)
def test_sums_over_every_axis_are_products_with_ones(axis: Axis, h: int, w: int, c: int, seed: int) -> None:
    """ONNX Runtime adds in integers where the sum is written as QLinearMatMul with a vector of ones."""
    generator = np.random.default_rng(seed)
    x = codes(generator, h, w, c)
    sx, sy = dyadic(generator, -5, 1), dyadic(generator, -2, 5)
    zx, zy = (int(v) for v in generator.integers(-64, 64, 2) * 2 + 1)
    rows = np.moveaxis(x, AXES[axis], range(-len(AXES[axis]), 0))
    kept = rows.shape[: 3 - len(AXES[axis])]
    flat = np.ascontiguousarray(rows).reshape(int(np.prod(kept)), -1)
    got = reduced(
        dense(Reduction.SUM, axis, x), x, QuantRecord((F32(sx) / F32(sy),), za=zx, zo=zy), len(flat)
    )
    constants = {"sx": scalar(sx), "zx": zero(zx), "w": np.ones((flat.shape[1], 1), np.int8), "one": scalar(1),
                 "zw": zero(0), "sy": scalar(sy), "zy": zero(zy)}  # fmt: skip
    nodes: Nodes = [("QLinearMatMul", ["x", "sx", "zx", "w", "one", "zw", "sy", "zy"], "y", {})]
    np.testing.assert_array_equal(got, run(nodes, {"x": flat}, constants, "y").ravel())


@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 70), st.integers(0, 1 << 30))
@settings(max_examples=80)
def test_real_mean_over_channels_is_dequantize_reducemean_quantize(h: int, w: int, c: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = codes(generator, h, w, c)
    sx, sy = F32(generator.uniform(0.001, 1)), dyadic(generator, -6, -1)
    zx, zy = (int(v) for v in generator.integers(-64, 64, 2) * 2 + 1)
    record = QuantRecord((sx, sy), za=zx, zo=zy)
    got = reduced(dense(Reduction.MEANF, Axis.C, x), x, record, h * w)
    constants = {"sx": scalar(sx), "zx": zero(zx), "sy": scalar(sy), "zy": zero(zy)}
    nodes: Nodes = [
        ("DequantizeLinear", ["x", "sx", "zx"], "r", {}),
        ("ReduceMean", ["r"], "m", {"axes": [1], "keepdims": 1}),
        ("QuantizeLinear", ["m", "sy", "zy"], "y", {}),
    ]
    expected = run(nodes, {"x": x.transpose(2, 0, 1)[None].copy()}, constants, "y").ravel()
    np.testing.assert_array_equal(got, expected)


@given(st.sampled_from([Axis.C, Axis.W, Axis.H]), st.booleans(), st.booleans(), st.integers(0, 1 << 30))
@settings(max_examples=80)
def test_argmax_is_onnx_runtimes_with_ties_to_either_end(
    axis: Axis, last: bool, unsigned: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    kind = ElementType.U8 if unsigned else ElementType.S8
    x = generator.integers(0, 4, (3, 4, 5)).astype(kind.dtype)  # few values, many ties
    instr = dense(Reduction.ARGMAX, axis, x, 4, xt=kind, ot=ElementType.S32, last=int(last))
    (number,) = AXES[axis]
    nodes: Nodes = [("ArgMax", ["x"], "y", {"axis": number, "keepdims": 1, "select_last_index": int(last)})]
    expected = run(nodes, {"x": x}, {}, "y").ravel()
    np.testing.assert_array_equal(reduced(instr, x, QuantRecord(), expected.size, np.int32), expected)


@pytest.mark.parametrize("axis", list(Axis))
def test_maximum_over_every_axis_is_reducemax(axis: Axis) -> None:
    x = codes(np.random.default_rng(3), 4, 5, 6)
    nodes: Nodes = [("ReduceMax", ["x"], "y", {"axes": list(AXES[axis]), "keepdims": 1})]
    expected = run(nodes, {"x": x}, {}, "y").ravel()
    got = reduced(dense(Reduction.MAX, axis, x), x, QuantRecord(), expected.size)
    np.testing.assert_array_equal(got, expected)


def test_a_map_of_two_tiles_is_summed_in_the_accumulators_and_requantized() -> None:
    """Partial sums with accum, then vreq: the bits of one reduction over the whole map."""
    generator = np.random.default_rng(5)
    x = codes(generator, 8, 6, 16)
    record, m = QuantRecord((F32(2.0**-6),), za=9, zo=-3), F32(2.0**-6)
    whole = reduced(dense(Reduction.MEAN, Axis.HW, x), x, record, 16)
    half: dict[str, Any] = {
        "h": 4,
        "w": 6,
        "c": 16,
        "ips": 16,
        "irs": 96,
        "osp": OperandPlace.ACC,
        "ot": ElementType.S32,
        "out": 5,
    }
    parts = [
        VectorReduce(fn=Reduction.SUM, **half),
        VectorReduce(fn=Reduction.SUM, inp=4 * 96, accum=1, **half),
    ]
    last = Requantize(acc=5, out=OUT, prm=10, c=16, lo=-128, hi=127, zp=-3)
    bench = Bench(*parts, last, target=TARGET).put(Space.SPM, 0, x).put(Space.PRM, 0, record.pack())
    bench.put(Space.PRM, 80, np.array([(0, m)], REQUANT_RECORD)).run()
    np.testing.assert_array_equal(bench.get(Space.SPM, OUT, (16,)), whole)


def test_accumulators_are_reduced_with_the_exact_sum_as_their_judge() -> None:
    acc = np.array([[2**31 - 1] * 16, [5] * 16], np.int32)
    instr = VectorReduce(fn=Reduction.SUM, axis=Axis.HW, isp=OperandPlace.ACC, osp=OperandPlace.ACC, out=8, h=2, c=16, irs=1,
                   xt=ElementType.S32, ot=ElementType.S32)  # fmt: skip
    bench = Bench(instr, target=TARGET).put(Space.ACC, 0, acc).put(Space.PRM, 0, QuantRecord().pack()).run()
    assert bench.get(Space.ACC, 8 * 64, (16,), np.int32).tolist() == [-(2**31) + 4] * 16
    assert bench.state.accumulator_overflow


def test_absolute_maximum_goes_to_a_register_and_may_accumulate() -> None:
    x = np.array([[[-128, 5]], [[3, 100]]], np.int8)
    first = VectorReduce(fn=Reduction.ABSMAX, sreg=7, h=2, c=2, ips=2, irs=2)
    more = replace(first, accum=1, sreg=8)
    bench = Bench(ScalarSet(rd=8, imm=1000), first, more, target=TARGET).put(Space.SPM, 0, x).run()
    assert bench.get(Space.SREG, 28, (2,), np.int32).tolist() == [128, 1000]
