"""Instructions of the vector and control engines on generated operands, ONNX Runtime as the judge.

Scales are powers of two and zero points odd, so that results land on rounding boundaries: a wrong
order of roundings, or a zero point on the wrong side of one, differs in many elements.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isa.faults import MachineTrap
from isa.instructions.control import (
    Assert,
    Barrier,
    Mark,
    Relation,
    Scalar,
    ScalarOperation,
    ScalarSet,
)
from isa.instructions.records import QuantRecord
from isa.instructions.vector import Requant, Requantize
from isa.instructions.vector_depthwise import DepthwiseConv
from isa.instructions.vector_elementwise import Elementwise, VectorElementwise
from isa.memory_map import REQUANT_RECORD, Space
from isa.spec import ElementType, Instruction
from isa.target import load_target
from isa.validate import instruction_faults
from tests.bench import Bench
from tests.operands import F32, Array, clamped, codes, dyadic, odd
from tests.oracle import Nodes, run, scalar, zero

TARGET = load_target("edge16")
OUT = 1 << 16


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
    kind = draw(st.sampled_from([ElementType.S8, ElementType.U8]))
    return DepthwiseConv(
        inp=3, wgt=1 << 15, out=OUT, prm=2, oh=oh, ow=ow, c=c, kh=kh, kw=kw, sh=sh, sw=sw, d=d, ips=ips,
        irs=ips * iw + draw(st.integers(0, 5)), ih=ih, iw=iw, pt=pt, pl=pl, ops=ops, ors=ops * ow,
        xt=kind, ot=kind,
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
    kind = instr.xt
    x = codes(generator, instr.ih, instr.iw, instr.c, kind=kind)
    w = codes(generator, instr.kh, instr.kw, instr.c)
    sx, sy = dyadic(generator, -6, 0), dyadic(generator, -3, 4)
    sw = np.array([dyadic(generator, -8, -2) for _ in range(instr.c)], F32)
    zx, zy = odd(generator, 2, kind)
    bias = generator.integers(-5000, 5000, instr.c).astype(np.int32)
    records = np.zeros(instr.c, REQUANT_RECORD)
    records["bias"], records["m"] = bias, (sx * sw) / sy
    bench = Bench(instr, target=TARGET).put(Space.SPM, 1 << 15, w)
    bench.put(Space.PRM, 16, clamped(kind, za=zx, zo=zy).pack()).put(Space.PRM, 56, records)
    got = placed(bench, instr.inp, x, instr.ips, instr.irs).run()
    image = np.full(((instr.oh - 1) * instr.sh + (instr.kh - 1) * instr.d + 1,
                     (instr.ow - 1) * instr.sw + (instr.kw - 1) * instr.d + 1, instr.c), zx, kind.dtype)  # fmt: skip
    image[instr.pt : instr.pt + instr.ih, instr.pl : instr.pl + instr.iw] = x
    constants = {"sx": scalar(sx), "zx": zero(zx, kind.dtype), "w": w.transpose(2, 0, 1)[:, None].copy(),
                 "sw": sw, "zw": np.zeros(instr.c, np.int8), "sy": scalar(sy), "zy": zero(zy, kind.dtype),
                 "b": bias}  # fmt: skip
    attributes = {"group": instr.c, "strides": [instr.sh, instr.sw], "dilations": [instr.d, instr.d]}
    nodes: Nodes = [("QLinearConv", ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"], "y", attributes)]
    expected = run(nodes, {"x": image.transpose(2, 0, 1)[None].copy()}, constants, "y")[0].transpose(1, 2, 0)
    result = got.get(Space.SPM, OUT, (instr.oh, instr.ow, instr.ops), kind.dtype)[..., : instr.c]
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


QLINEAR = {Elementwise.ADD: "QLinearAdd", Elementwise.MUL: "QLinearMul"}


@given(
    st.sampled_from([*QLINEAR, Elementwise.FADD, Elementwise.FSUB, Elementwise.FMAX]),
    st.sampled_from([ElementType.S8, ElementType.U8]),
    st.integers(0, 1 << 30),
)
@settings(max_examples=80)
def test_both_types_of_codes_combine_as_onnx_runtime_does(
    fn: Elementwise, kind: ElementType, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    a, b = codes(generator, 256, kind=kind), codes(generator, 256, kind=kind)
    sa, sb, sc = dyadic(generator, -5, 0), dyadic(generator, -5, 0), dyadic(generator, -4, 1)
    za, zb, zc = odd(generator, 3, kind)
    constants = {"sa": scalar(sa), "za": zero(za, kind.dtype), "sb": scalar(sb), "zb": zero(zb, kind.dtype),
                 "sc": scalar(sc), "zc": zero(zc, kind.dtype)}  # fmt: skip
    if fn in QLINEAR:
        nodes: Nodes = [(QLINEAR[fn], ["a", "sa", "za", "b", "sb", "zb", "sc", "zc"], "y", {})]
    else:
        nodes = [
            ("DequantizeLinear", ["a", "sa", "za"], "ra", {}),
            ("DequantizeLinear", ["b", "sb", "zb"], "rb", {}),
            (BINARY[fn], ["ra", "rb"], "rc", {}),
            ("QuantizeLinear", ["rc", "sc", "zc"], "y", {}),
        ]
    match fn:
        case Elementwise.ADD:
            pa, pb = sa / sc, sb / sc
            scales = (pa, pb, F32(zc - float(pa) * za - float(pb) * zb))  # exact: all are short dyadics
        case Elementwise.MUL:
            scales = ((sa * sb) / sc,)
        case _:
            scales = (sa, sb, sc)
    instr = VectorElementwise(fn=fn, at=kind, bt=kind, ot=kind, **FLAT)
    got = two_codes(instr, a, b, clamped(kind, *scales, za=za, zb=zb, zo=zc))
    np.testing.assert_array_equal(got, run(nodes, {"a": a, "b": b}, constants, "y"))


def two_codes(instr: VectorElementwise, a: Array, b: Array, record: QuantRecord) -> Array:
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, a).put(Space.SPM, 512, b)
    return bench.put(Space.PRM, 0, record.pack()).run().get(Space.SPM, OUT, a.shape, instr.ot.dtype)


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
    half = F32(0.5)  # beyond the last column both neighbours are that column, each weighs a half
    record = QuantRecord((sx, near * half, near * half, far * half, far * half, sy), za=zx, zo=zy)
    edge = VectorElementwise(fn=Elementwise.LERP0, a=18, b=39, out=OUT, h=5, w=1, c=3, aps=3, ars=21, brs=21, ops=3,
                             ors=3)  # fmt: skip
    bench = Bench(edge, target=TARGET).put(Space.SPM, 0, x).put(Space.PRM, 0, record.pack()).run()
    np.testing.assert_array_equal(bench.get(Space.SPM, OUT, (5, 3)), expected[1:-1:2, -1])


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
    assert bench.state.marks == [(0, 3), (2, 9)]


def test_the_shift_of_a_requantization_may_come_from_a_register() -> None:
    acc = np.array([[-7, 5, 6, 250]], np.int32)
    fixed = Requantize(mode=Requant.SHR, shift=2, lo=-100, hi=100, out=OUT, c=4)
    dynamic = Requantize(mode=Requant.SHR, sreg=9, lo=-100, hi=100, out=OUT + 64, c=4)
    bench = Bench(ScalarSet(rd=9, imm=2), fixed, dynamic, target=TARGET).put(Space.ACC, 0, acc)
    bench.put(Space.PRM, 0, np.array([(0, 1)], REQUANT_RECORD)).run()
    assert (
        bench.get(Space.SPM, OUT, (4,)).tolist()
        == bench.get(Space.SPM, OUT + 64, (4,)).tolist()
        == [-2, 1, 2, 62]
    )
