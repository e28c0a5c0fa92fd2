"""Instructions of the vector and control engines on generated operands, ONNX Runtime as the judge.

Scales are powers of two and zero points odd, so that results land on rounding boundaries: a wrong
order of roundings, or a zero point on the wrong side of one, differs in many elements.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from isa.instructions.control import (
    Assert,
    Barrier,
    Mark,
    Relation,
    Scalar,
    ScalarOperation,
    ScalarSet,
)
from isa.instructions.records import REQUANT_RECORD, QuantRecord
from isa.instructions.vector import Requant, Requantize
from isa.instructions.vector_depthwise import DepthwiseConv
from isa.instructions.vector_elementwise import Elementwise, VectorElementwise
from isa.instructions.vector_reduce import Axis, Place, Reduce, Reduction
from isa.spec import ElementType, Instruction, Space
from isa.target import load_target
from isa.validate import instruction_faults
from runtime import MachineTrap
from tests.bench import Bench
from tests.oracle import Nodes, run, scalar, zero

Array = NDArray[Any]
TARGET = load_target("edge16")
F32 = np.float32
OUT = 1 << 16


def codes(generator: np.random.Generator, *shape: int, kind: ElementType = ElementType.S8) -> Array:
    low, high = kind.bounds
    values = generator.integers(low, high + 1, shape)
    return np.where(generator.random(shape) < 0.2, generator.choice([low, high], shape), values).astype(
        kind.dtype
    )


def dyadic(generator: np.random.Generator, low: int, high: int) -> np.float32:
    return F32(2.0 ** int(generator.integers(low, high)))


# --- depthwise convolution ------------------------------------------------------------------------------


@st.composite
def depthwise(draw: st.DrawFn) -> tuple[DepthwiseConv, int]:
    """A legal depthwise convolution and a seed for its data."""
    kh, kw = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    sh, sw = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    d = draw(st.integers(1, 3)) if kh * kw > 1 else 1
    pt, pl = draw(st.integers(0, 4)), draw(st.integers(0, 3))
    oh, ow, c = draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 37))
    ih = draw(st.integers(1, max(1, (oh - 1) * sh + (kh - 1) * d + 1 - pt)))
    iw = draw(st.integers(1, max(1, (ow - 1) * sw + (kw - 1) * d + 1 - pl)))
    ips, ops = c + draw(st.integers(0, 3)), c + draw(st.integers(0, 3))
    return DepthwiseConv(
        inp=3, wgt=1 << 15, out=OUT, prm=2, oh=oh, ow=ow, c=c, kh=kh, kw=kw, sh=sh, sw=sw, d=d, ips=ips,
        irs=ips * iw + draw(st.integers(0, 5)), ih=ih, iw=iw, pt=pt, pl=pl, ops=ops, ors=ops * ow,
    ), draw(st.integers(0, 1 << 30))  # fmt: skip


@given(depthwise())
@settings(max_examples=120)
def test_depthwise_convolution_is_qlinearconv_with_a_group_per_channel(
    case: tuple[DepthwiseConv, int],
) -> None:
    instr, seed = case
    if list(instruction_faults(instr, TARGET, {})):
        return
    generator = np.random.default_rng(seed)
    x, w = codes(generator, instr.ih, instr.iw, instr.c), codes(generator, instr.kh, instr.kw, instr.c)
    sx, sy = dyadic(generator, -6, 0), dyadic(generator, -3, 4)
    sw = np.array([dyadic(generator, -8, -2) for _ in range(instr.c)], F32)
    zx, zy = (int(v) for v in generator.integers(-64, 64, 2) * 2 + 1)
    bias = generator.integers(-5000, 5000, instr.c).astype(np.int32)
    records = np.zeros(instr.c, REQUANT_RECORD)
    records["bias"], records["m"] = bias, (sx * sw) / sy
    bench = Bench(instr, target=TARGET).put(Space.SPM, 1 << 15, w)
    bench.put(Space.PRM, 16, QuantRecord(za=zx, zo=zy).pack()).put(Space.PRM, 56, records)
    got = placed(bench, instr.inp, x, instr.ips, instr.irs).run()
    image = np.full(((instr.oh - 1) * instr.sh + (instr.kh - 1) * instr.d + 1,
                     (instr.ow - 1) * instr.sw + (instr.kw - 1) * instr.d + 1, instr.c), zx, np.int8)  # fmt: skip
    image[instr.pt : instr.pt + instr.ih, instr.pl : instr.pl + instr.iw] = x
    constants = {"sx": scalar(sx), "zx": zero(zx), "w": w.transpose(2, 0, 1)[:, None].copy(), "sw": sw,
                 "zw": np.zeros(instr.c, np.int8), "sy": scalar(sy), "zy": zero(zy), "b": bias}  # fmt: skip
    attributes = {"group": instr.c, "strides": [instr.sh, instr.sw], "dilations": [instr.d, instr.d]}
    nodes: Nodes = [("QLinearConv", ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"], "y", attributes)]
    expected = run(nodes, {"x": image.transpose(2, 0, 1)[None].copy()}, constants, "y")[0].transpose(1, 2, 0)
    result = got.get(Space.SPM, OUT, (instr.oh, instr.ow, instr.ops))[..., : instr.c]
    np.testing.assert_array_equal(result, expected)


def placed(bench: Bench, base: int, x: Array, ips: int, irs: int) -> Bench:
    """The bench with an image at its pitches."""
    image = np.zeros(irs * x.shape[0] + ips, np.uint8)
    for y in range(x.shape[0]):
        for column in range(x.shape[1]):
            place = y * irs + column * ips
            image[place : place + x.shape[2]] = x[y, column].view(np.uint8)
    return bench.put(Space.SPM, base, image)


def test_depthwise_zero_points_of_weights_and_the_table() -> None:
    generator = np.random.default_rng(1)
    x, w = codes(generator, 3, 3, 2, kind=ElementType.U8), codes(generator, 3, 3, 2, kind=ElementType.U8)
    instr = DepthwiseConv(inp=0, wgt=64, out=OUT, c=2, kh=3, kw=3, ips=2, irs=6, ih=3, iw=3, ops=2, ors=2, lut=4,
                          xt=ElementType.U8, wt=ElementType.U8)  # fmt: skip
    record = QuantRecord(za=7, zb=200, zo=0, lo=-128, hi=127)
    records = np.array([(0, 1 / 1024), (5, 1 / 512)], REQUANT_RECORD)
    table = np.arange(256)[::-1].astype(np.uint8)
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x).put(Space.SPM, 64, w)
    bench.put(Space.PRM, 0, record.pack()).put(Space.PRM, 40, records).put(Space.PRM, 1024, table).run()
    sums = ((x.astype(int) - 7) * (w.astype(int) - 200)).sum((0, 1))
    values = np.clip(np.rint(np.add(sums, [0, 5]) / [1024, 512]), -128, 127).astype(np.int8)
    np.testing.assert_array_equal(bench.get(Space.SPM, OUT, (2,), np.uint8), table[values.view(np.uint8)])


# --- reductions -----------------------------------------------------------------------------------------


def reduced(instr: Reduce, x: Array, record: QuantRecord, size: int, dtype: Any = np.int8) -> Array:
    """The result of one reduction of an image that lies dense in the scratchpad."""
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x).put(Space.PRM, 0, record.pack())
    return bench.run().get(Space.SPM, OUT, (size,), dtype)


def dense(fn: Reduction, axis: Axis, x: Array, element_bytes: int = 1, **fields: Any) -> Reduce:
    """A reduction of a dense image to a dense result."""
    h, w, c = x.shape
    ow, oc = (w if axis in (Axis.C, Axis.H) else 1), (1 if axis is Axis.C else c)
    pitch = oc * element_bytes
    return Reduce(
        fn=fn, axis=axis, out=OUT, h=h, w=w, c=c, ips=c, irs=w * c, ops=pitch, ors=ow * pitch, **fields
    )


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(0, 1 << 30))
@settings(max_examples=80)
def test_mean_over_rows_and_columns_is_qlinearglobalaveragepool(h: int, w: int, c: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = codes(generator, h, w, c)
    sx, sy = dyadic(generator, -6, 2), dyadic(generator, -6, 2)
    zx, zy = (int(v) for v in generator.integers(-64, 64, 2) * 2 + 1)
    m = sx / (sy * F32(h * w))
    got = reduced(dense(Reduction.MEAN, Axis.HW, x), x, QuantRecord((m,), za=zx, zo=zy), c)
    constants = {"sx": scalar(sx), "zx": zero(zx), "sy": scalar(sy), "zy": zero(zy)}
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
        "osp": Place.ACC,
        "ot": ElementType.S32,
        "out": 5,
    }
    parts = [Reduce(fn=Reduction.SUM, **half), Reduce(fn=Reduction.SUM, inp=4 * 96, accum=1, **half)]
    last = Requantize(acc=5, out=OUT, prm=10, c=16, lo=-128, hi=127, zp=-3)
    bench = Bench(*parts, last, target=TARGET).put(Space.SPM, 0, x).put(Space.PRM, 0, record.pack())
    bench.put(Space.PRM, 80, np.array([(0, m)], REQUANT_RECORD)).run()
    np.testing.assert_array_equal(bench.get(Space.SPM, OUT, (16,)), whole)


def test_accumulators_are_reduced_with_the_exact_sum_as_their_judge() -> None:
    acc = np.array([[2**31 - 1] * 16, [5] * 16], np.int32)
    instr = Reduce(fn=Reduction.SUM, axis=Axis.HW, isp=Place.ACC, osp=Place.ACC, out=8, h=2, c=16, irs=1,
                   xt=ElementType.S32, ot=ElementType.S32)  # fmt: skip
    bench = Bench(instr, target=TARGET).put(Space.ACC, 0, acc).put(Space.PRM, 0, QuantRecord().pack()).run()
    assert bench.get(Space.ACC, 8 * 64, (16,), np.int32).tolist() == [-(2**31) + 4] * 16
    assert bench.machine.accumulator_overflow


def test_absolute_maximum_goes_to_a_register_and_may_accumulate() -> None:
    x = np.array([[[-128, 5]], [[3, 100]]], np.int8)
    first = Reduce(fn=Reduction.ABSMAX, sreg=7, h=2, c=2, ips=2, irs=2)
    more = replace(first, accum=1, sreg=8)
    bench = Bench(ScalarSet(rd=8, imm=1000), first, more, target=TARGET).put(Space.SPM, 0, x).run()
    assert bench.get(Space.SREG, 28, (2,), np.int32).tolist() == [128, 1000]


# --- two operands --------------------------------------------------------------------------------------

BINARY = {
    Elementwise.FADD: "Add", Elementwise.FSUB: "Sub", Elementwise.FMUL: "Mul", Elementwise.FDIV: "Div",
    Elementwise.FMAX: "Max", Elementwise.FMIN: "Min",
}  # fmt: skip


@given(
    st.sampled_from(list(BINARY)),
    st.sampled_from(["all", "channel", "pixel", "scalar"]),
    st.integers(0, 1 << 30),
)
@settings(max_examples=120)
def test_real_functions_are_dequantize_function_quantize(fn: Elementwise, spread: str, seed: int) -> None:
    """Broadcasting by pitches of 0 and by bc is ONNX's; division by 0 gives infinity, and Q makes of NaN what it does."""
    generator = np.random.default_rng(seed)
    a = codes(generator, 3, 4, 5)
    b = codes(
        generator, *{"all": (3, 4, 5), "channel": (1, 1, 5), "pixel": (3, 4, 1), "scalar": (1, 1, 1)}[spread]
    )
    sa, sb, sc = dyadic(generator, -5, 0), dyadic(generator, -5, 0), dyadic(generator, -4, 1)
    za, zb, zc = (int(v) for v in generator.integers(-64, 64, 3) * 2 + 1)
    if fn is Elementwise.FDIV:  # divisions by 0, and of 0 by 0
        a[0, :2], b[0, 0] = za, zb
    pitches = {"all": (5, 20), "channel": (0, 0), "pixel": (1, 4), "scalar": (0, 0)}[spread]
    instr = VectorElementwise(
        a=0, b=512, out=OUT, fn=fn, h=3, w=4, c=5, aps=5, ars=20, bps=pitches[0], brs=pitches[1], ops=5, ors=20,
        bc=int(spread in ("pixel", "scalar")),
    )  # fmt: skip
    record = QuantRecord((sa, sb, sc), za=za, zb=zb, zo=zc)
    bench = (
        Bench(instr, target=TARGET)
        .put(Space.SPM, 0, a)
        .put(Space.SPM, 512, b)
        .put(Space.PRM, 0, record.pack())
    )
    constants = {
        "sa": scalar(sa),
        "za": zero(za),
        "sb": scalar(sb),
        "zb": zero(zb),
        "sc": scalar(sc),
        "zc": zero(zc),
    }
    nodes: Nodes = [
        ("DequantizeLinear", ["a", "sa", "za"], "ra", {}),
        ("DequantizeLinear", ["b", "sb", "zb"], "rb", {}),
        (BINARY[fn], ["ra", "rb"], "rc", {}),
        ("QuantizeLinear", ["rc", "sc", "zc"], "y", {}),
    ]
    expected = run(nodes, {"a": a, "b": b}, constants, "y")
    np.testing.assert_array_equal(bench.run().get(Space.SPM, OUT, (3, 4, 5)), expected)


def two_codes(instr: VectorElementwise, a: Array, b: Array, record: QuantRecord) -> Array:
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, a).put(Space.SPM, 512, b)
    return bench.put(Space.PRM, 0, record.pack()).run().get(Space.SPM, OUT, a.shape)


FLAT: dict[str, Any] = {
    "a": 0,
    "b": 512,
    "out": OUT,
    "w": 256,
    "c": 1,
    "aps": 1,
    "ars": 256,
    "bps": 1,
    "brs": 256,
    "ops": 1,
    "ors": 256,
}


@pytest.mark.parametrize(("fn", "op"), [(Elementwise.IMAX, "Max"), (Elementwise.IMIN, "Min")])
def test_integer_maximum_and_minimum_are_onnx_runtimes(fn: Elementwise, op: str) -> None:
    generator = np.random.default_rng(4)
    a, b = codes(generator, 256), codes(generator, 256)
    got = two_codes(VectorElementwise(fn=fn, **FLAT), a, b, QuantRecord())
    np.testing.assert_array_equal(got, run([(op, ["a", "b"], "y", {})], {"a": a, "b": b}, {}, "y"))


def test_integer_sum_and_difference_are_clamped() -> None:
    generator = np.random.default_rng(6)
    a, b = codes(generator, 256), codes(generator, 256)
    for fn, exact in ((Elementwise.IADD, a.astype(int) + b), (Elementwise.ISUB, a.astype(int) - b)):
        got = two_codes(VectorElementwise(fn=fn, **FLAT), a, b, QuantRecord(lo=-100, hi=90))
        np.testing.assert_array_equal(got, np.clip(exact, -100, 90))


@pytest.mark.parametrize("seed", range(6))
def test_prelu_is_dequantize_prelu_quantize(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = codes(generator, 4, 4, 6)
    slope = generator.standard_normal(6).astype(F32)
    sx, sy = dyadic(generator, -5, 0), dyadic(generator, -5, 0)
    zx, zy = (int(v) for v in generator.integers(-64, 64, 2) * 2 + 1)
    instr = VectorElementwise(fn=Elementwise.PRELU, out=OUT, h=4, w=4, c=6, aps=6, ars=24, ops=6, ors=24)
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x)
    bench.put(Space.PRM, 0, QuantRecord((sx, F32(0), sy), za=zx, zo=zy).pack()).put(Space.PRM, 40, slope)
    constants = {"sx": scalar(sx), "zx": zero(zx), "sy": scalar(sy), "zy": zero(zy), "s": slope}
    nodes: Nodes = [
        ("DequantizeLinear", ["x", "sx", "zx"], "r", {}), ("PRelu", ["r", "s"], "p", {}),
        ("QuantizeLinear", ["p", "sy", "zy"], "y", {}),
    ]  # fmt: skip
    np.testing.assert_array_equal(
        bench.run().get(Space.SPM, OUT, (4, 4, 6)), run(nodes, {"x": x}, constants, "y")
    )


@pytest.mark.parametrize("seed", range(6))
def test_affine_is_dequantize_batchnormalization_quantize(seed: int) -> None:
    generator = np.random.default_rng(seed)
    x = codes(generator, 4, 4, 7)
    scale, offset, mean = (generator.standard_normal(7).astype(F32) for _ in range(3))
    variance = generator.uniform(0.1, 2, 7).astype(F32)
    gain = scale / np.sqrt(variance + F32(1e-5))
    sx, sy = dyadic(generator, -5, 0), dyadic(generator, -5, 0)
    zx, zy = (int(v) for v in generator.integers(-64, 64, 2) * 2 + 1)
    instr = VectorElementwise(fn=Elementwise.AFFINE, out=OUT, h=4, w=4, c=7, aps=7, ars=28, ops=7, ors=28)
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x)
    bench.put(Space.PRM, 0, QuantRecord((sx, F32(0), sy), za=zx, zo=zy).pack())
    bench.put(Space.PRM, 40, np.concatenate([gain, offset - mean * gain]))
    constants = {"sx": scalar(sx), "zx": zero(zx), "sy": scalar(sy), "zy": zero(zy), "g": scale, "o": offset,
                 "m": mean, "v": variance}  # fmt: skip
    nodes: Nodes = [
        ("DequantizeLinear", ["x", "sx", "zx"], "r", {}),
        ("BatchNormalization", ["r", "g", "o", "m", "v"], "n", {"epsilon": 1e-5}),
        ("QuantizeLinear", ["n", "sy", "zy"], "y", {}),
    ]
    expected = run(nodes, {"x": x.transpose(2, 0, 1)[None].copy()}, constants, "y")[0].transpose(1, 2, 0)
    np.testing.assert_array_equal(bench.run().get(Space.SPM, OUT, (4, 4, 7)), expected)


def test_linear_resize_by_two_is_four_weighted_corners_a_phase() -> None:
    """Resize linear, half_pixel, scale 2: interior outputs of the phase (1, 1) against ONNX Runtime."""
    generator = np.random.default_rng(8)
    x = codes(generator, 6, 7, 3)
    sx, sy, zx, zy = F32(0.25), F32(0.125), 5, -3
    constants = {"sx": scalar(sx), "zx": zero(zx), "sy": scalar(sy), "zy": zero(zy),
                 "sizes": np.array([1, 1, 2, 2], F32)}  # fmt: skip
    nodes: Nodes = [
        ("DequantizeLinear", ["x", "sx", "zx"], "r", {}),
        (
            "Resize",
            ["r", "", "sizes"],
            "z",
            {"mode": "linear", "coordinate_transformation_mode": "half_pixel"},
        ),
        ("QuantizeLinear", ["z", "sy", "zy"], "y", {}),
    ]
    expected = run(nodes, {"x": x.transpose(2, 0, 1)[None].copy()}, constants, "y")[0].transpose(1, 2, 0)
    near, far = F32(0.75), F32(0.25)  # of output 2i+1: input i weighs 0.75, input i+1 0.25
    record = QuantRecord((sx, near * near, near * far, far * near, far * far, sy), za=zx, zo=zy)
    instr = VectorElementwise(fn=Elementwise.LERP1, a=0, b=21, out=OUT, h=5, w=6, c=3, aps=3, ars=21, brs=21, ops=3,
                              ors=18)  # fmt: skip
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x).put(Space.PRM, 0, record.pack()).run()
    np.testing.assert_array_equal(bench.get(Space.SPM, OUT, (5, 6, 3)), expected[1:-1:2, 1:-1:2])


# --- scalar registers ------------------------------------------------------------------------------------

WORDS = st.one_of(st.integers(-(2**31), 2**31 - 1), st.sampled_from([0, 1, -1, 31, 32, -(2**31), 2**31 - 1]))


def expected_scalar(fn: Scalar, a: int, b: int, imm: int) -> int:
    """The result on 64-bit numpy integers, an implementation of its own."""
    total = np.int64(b) + np.int64(imm)
    second = int(total.astype(np.int32)) if fn is not Scalar.SEL else b
    shift = int(np.clip(second, 0, 31))
    match fn:
        case Scalar.MOV:
            value = second
        case Scalar.ADD:
            value = a + second
        case Scalar.SUB:
            value = a - second
        case Scalar.MIN:
            value = min(a, second)
        case Scalar.MAX:
            value = max(a, second)
        case Scalar.SHL:
            value = a * 2**shift
        case Scalar.SHR:
            value = a // 2**shift
        case Scalar.CLZ:
            value = f"{a & 0xFFFFFFFF:032b}".find("1") if a else 32
        case Scalar.SEL:
            value = b if a != 0 else imm
    return int(np.array(value, np.int64).astype(np.int32))


@given(st.sampled_from(list(Scalar)), WORDS, WORDS, WORDS)
@settings(max_examples=200)
def test_scalar_functions_are_those_of_wider_integers(fn: Scalar, a: int, b: int, imm: int) -> None:
    fields: dict[str, Any] = {"ra": 1, "rb": 2, "imm": imm}
    for name in ScalarOperation(fn=fn).unused():
        fields[name] = 0
    stream: tuple[Instruction, ...] = (
        ScalarSet(rd=1, imm=a),
        ScalarSet(rd=2, imm=b),
        ScalarOperation(rd=3, fn=fn, **fields),
    )
    bench = Bench(*stream, target=TARGET).run()
    expected = expected_scalar(fn, a, b if fields["rb"] else 0, fields["imm"])
    assert bench.get(Space.SREG, 12, (1,), np.int32)[0] == expected


@pytest.mark.parametrize(("fn", "holds"), [(Relation.EQ, 5), (Relation.NE, 4), (Relation.LT, 6), (Relation.LE, 5),
                                           (Relation.GT, 4), (Relation.GE, 5)])  # fmt: skip
def test_asserts_trap_unless_they_hold(fn: Relation, holds: int) -> None:
    fails = {Relation.EQ: 4, Relation.NE: 5, Relation.LT: 5, Relation.LE: 4, Relation.GT: 5, Relation.GE: 6}[
        fn
    ]
    Bench(ScalarSet(rd=1, imm=5), Assert(fn=fn, ra=1, imm=holds), target=TARGET).run()
    with pytest.raises(MachineTrap) as trap:
        Bench(ScalarSet(rd=1, imm=5), Assert(fn=fn, ra=1, imm=fails), target=TARGET).run()
    assert trap.value.record.code == "ASSERT"
    assert trap.value.record.pc == 1


def test_marks_are_noted_in_order_and_a_barrier_of_one_core_passes() -> None:
    bench = Bench(Mark(tag=3), Barrier(mask=1), Mark(tag=9), target=TARGET).run()
    assert bench.machine.marks == [(0, 3), (2, 9)]


def test_the_shift_of_a_requantization_may_come_from_a_register() -> None:
    acc = np.array([[-7, 5, 6, 250]], np.int32)
    fixed = Requantize(mode=Requant.SHR, shift=2, lo=-100, hi=100, out=OUT, c=4)
    dynamic = Requantize(mode=Requant.SHR, sreg=9, lo=-100, hi=100, out=OUT + 64, c=4)
    bench = Bench(ScalarSet(rd=9, imm=2), fixed, dynamic, target=TARGET).put(Space.ACC, 0, acc)
    bench.put(Space.PRM, 0, np.zeros(1, REQUANT_RECORD)).run()
    assert (
        bench.get(Space.SPM, OUT, (4,)).tolist()
        == bench.get(Space.SPM, OUT + 64, (4,)).tolist()
        == [-2, 1, 2, 62]
    )
