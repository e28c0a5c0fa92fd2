"""isa.arithmetic and the instructions, bit for bit against ONNX Runtime, on adversarial operands.

Random operands hardly ever meet a rounding boundary. These are built around boundaries: dyadic
scales with odd zero points, accumulators within one of a tie, magnitudes above 2^24, saturation,
subnormal and overflowing scales. Each test names the wrong formula that it would catch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compiler.ops.softmax import divisor, exponentials
from isa import arithmetic
from isa.arithmetic import F32
from isa.instructions.records import QuantRecord
from isa.instructions.vector import Pool, Pooling, Requantize, VectorSoftmax
from isa.instructions.vector_elementwise import Elementwise, VectorElementwise
from isa.memory_map import REQUANT_RECORD, Space
from isa.spec import ElementType
from tests.bench import Bench
from tests.oracle import Nodes, run, scalar, zero

Array = NDArray[Any]
SCALES = [2.0**-7, 2.0**-3, 0.75, 3 * 2.0**-9, 0.0078125 * 1.1, 0.037, 1 / 255, 7.62939453125e-06]
"""Dyadic ones, where ties are exact, beside ones that are not."""


@pytest.fixture(autouse=True)
def _overflow_is_part_of_the_arithmetic() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def near_ties(m: Array, generator: np.random.Generator) -> Array:
    """int32 accumulators within one of a rounding tie of acc * m, saturating ones and huge ones."""
    k = generator.integers(-140, 141, m.shape)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        tie = np.nan_to_num((k + 0.5) / m.astype(np.float64), nan=0, posinf=0, neginf=0)
    acc = np.rint(tie) + generator.integers(-1, 2, m.shape)
    large = generator.integers(-(2**31), 2**31, m.shape)
    acc = np.where(generator.random(m.shape) < 0.15, large, acc)
    return np.clip(acc, -(2**31), 2**31 - 1).astype(np.int64).astype(np.int32)


def weight_scales(count: int, generator: np.random.Generator) -> Array:
    """Scales per channel: powers of two, small odd multiples of them, arbitrary, extreme."""
    powers = 2.0 ** generator.integers(-18, 2, count)
    odd = powers * (2 * generator.integers(0, 8, count) + 1)
    arbitrary = np.exp(generator.uniform(-12, 0, count))
    extreme = np.where(generator.random(count) < 0.5, 1e-38, 1e35)
    kind = generator.choice(4, count, p=[0.35, 0.35, 0.27, 0.03])
    return np.choose(kind, [powers, odd, arbitrary, extreme]).astype(np.float32)


@pytest.mark.parametrize("y_zero", [-128, -1, 3, 127])
@pytest.mark.parametrize("scales", [(0.25, 0.5), (0.0375, 0.0112), (1 / 255, 3 * 2.0**-9)])
def test_requantization_is_qlinearconv(scales: tuple[float, float], y_zero: int) -> None:
    """Catches a double product, sx * (sw / sy), the zero point before rounding, half away from zero.

    And an accumulator that is multiplied in float64.
    """
    generator = np.random.default_rng(y_zero + 1000)
    count = 20_000
    sx, sy = np.float32(scales[0]), np.float32(scales[1])
    sw = weight_scales(count, generator)
    m = arithmetic.convolution_multiplier(sx, sw, sy)
    usable = np.isfinite(m)
    sw, m = sw[usable], m[usable]
    bias = near_ties(m, generator)
    x = zero(5) * np.ones((1, 1, 1, 1), np.int8)
    w = np.ones((sw.size, 1, 1, 1), np.int8)
    nodes: Nodes = [("QLinearConv", ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy", "b"], "y", {})]
    constants = {"sx": scalar(sx), "zx": zero(5), "w": w, "sw": sw, "zw": np.zeros(sw.size, np.int8),
                 "sy": scalar(sy), "zy": zero(y_zero), "b": bias}  # fmt: skip
    expected = run(nodes, {"x": x}, constants, "y").ravel()
    got = arithmetic.requantize(np.zeros(sw.size, np.int32), bias, m, y_zero, -128, 127)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(_requantized_on_the_machine(bias, m, y_zero), expected)


def _requantized_on_the_machine(bias: Array, m: Array, zero_point: int) -> Array:
    """`vreq` with a record per channel, in blocks that fit the parameter memory."""
    out: list[Array] = []
    for start in range(0, bias.size, 4096):
        part = slice(start, start + 4096)
        count = bias[part].size
        records = np.zeros(count, REQUANT_RECORD)
        records["bias"], records["m"] = bias[part], m[part]
        instr = Requantize(h=1, w=1, c=count, ags=1, lo=-128, hi=127, zp=zero_point, perch=1)
        bench = Bench(instr).put(Space.PRM, 0, records).put(Space.ACC, 0, bytes(4096 * 4))
        out.append(bench.run().get(Space.SPM, 0, (count,)))
    return np.concatenate(out)


@pytest.mark.parametrize(
    ("alpha", "scales"), [(1.0, (0.25, 0.5)), (0.3, (0.0375, 0.0112)), (0.7, (0.1, 0.3))]
)
def test_requantization_is_qgemm(alpha: float, scales: tuple[float, float]) -> None:
    """Catches alpha multiplied in another order than (alpha * sa) * sb."""
    generator = np.random.default_rng(7)
    sa, sy = np.float32(scales[0]), np.float32(scales[1])
    sb = weight_scales(20_000, generator)
    m = arithmetic.gemm_multiplier(alpha, sa, sb, sy)
    usable = np.isfinite(m)
    sb, m = sb[usable], m[usable]
    bias = near_ties(m, generator)
    nodes: Nodes = [("QGemm", ["a", "sa", "za", "b", "sb", "zb", "c", "sy", "zy"], "y", {"alpha": alpha})]
    constants = {"sa": scalar(sa), "za": zero(9), "b": np.ones((1, sb.size), np.int8), "sb": sb,
                 "zb": np.zeros(sb.size, np.int8), "c": bias, "sy": scalar(sy), "zy": zero(-7)}  # fmt: skip
    expected = run(nodes, {"a": np.full((1, 1), 9, np.int8)}, constants, "y").ravel()
    got = arithmetic.requantize(np.zeros(sb.size, np.int32), bias, m, -7, -128, 127)
    np.testing.assert_array_equal(got, expected)


def test_bias_wraps_modulo_two_to_the_32() -> None:
    """Catches a saturating addition of the bias."""
    x = np.full((1, 1, 1, 1), 127, np.int8)
    w = np.array([127, -128, 127], np.int8).reshape(3, 1, 1, 1)
    bias = np.array([2**31 - 1, -(2**31), 2**31 - 16129], np.int32)
    nodes: Nodes = [("QLinearConv", ["x", "s", "z", "w", "sw", "zw", "sy", "z", "b"], "y", {})]
    constants = {"s": scalar(1), "z": zero(0), "w": w, "sw": np.full(3, 2.0**-25, np.float32),
                 "zw": np.zeros(3, np.int8), "sy": scalar(1), "b": bias}  # fmt: skip
    expected = run(nodes, {"x": x}, constants, "y").ravel()
    acc = np.array([127 * 127, 127 * -128, 127 * 127], np.int32)
    got = arithmetic.requantize(acc, bias, np.full(3, 2.0**-25, np.float32), 0, -128, 127)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("zero_point", [-128, -3, 0, 127])
@pytest.mark.parametrize("scale", SCALES)
def test_quantize_linear(scale: float, zero_point: int) -> None:
    """Catches multiplication by 1/s, the zero point before rounding, half away from zero."""
    s = np.float32(scale)
    ties = ((np.arange(-300, 301) + 0.5) * s).astype(np.float32)
    x = np.concatenate([ties, np.nextafter(ties, F32(np.inf)), np.nextafter(ties, F32(-np.inf)),
                        np.array([3e38, -3e38, 1e-45, -0.0], np.float32)])  # fmt: skip
    nodes: Nodes = [("QuantizeLinear", ["x", "s", "z"], "y", {})]
    expected = run(nodes, {"x": x}, {"s": scalar(scale), "z": zero(zero_point)}, "y")
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(arithmetic.quantize(x, s, zero_point, -128, 127), expected)


def all_pairs() -> tuple[Array, Array]:
    """Every pair of int8 codes."""
    codes = np.arange(-128, 128).astype(np.int8)
    return np.repeat(codes, 256), np.tile(codes, 256)


PAIR_CASES = [
    (2.0**-7, -128, 2.0**-6, 3, 2.0**-6, -5),
    (2.0**-3, 1, 3 * 2.0**-4, -7, 2.0**-3, 11),
    (0.0078125 * 1.1, 0, 0.037, -128, 0.041, -128),
    (0.021, -11, 0.0137, 127, 0.03, 19),
    (1.0, 0, 2.0**-24, 127, 1.0, 0),
]
BINARY = {
    Elementwise.FADD: "Add",
    Elementwise.FSUB: "Sub",
    Elementwise.FMUL: "Mul",
    Elementwise.FMAX: "Max",
    Elementwise.FMIN: "Min",
}
Case = tuple[float, int, float, int, float, int]


def on_the_vector_unit(fn: Elementwise, a: Array, b: Array, record: QuantRecord, table: bytes = b"") -> Array:
    """`vew` on flat operands, 4096 channels at a time."""
    out: list[Array] = []
    for start in range(0, a.size, 4096):
        left, right = a[start : start + 4096], b[start : start + 4096]
        operands: dict[str, Any] = {"b": 4096} if not table else {}
        instr = VectorElementwise(fn=fn, a=0, out=8192, c=left.size, **operands)
        bench = Bench(instr).put(Space.SPM, 0, left).put(Space.SPM, 4096, right)
        bench.put(Space.PRM, 0, record.pack() + table).run()
        out.append(bench.get(Space.SPM, 8192, (left.size,)))
    return np.concatenate(out)


@pytest.mark.parametrize("case", PAIR_CASES)
def test_addition_is_qlinearadd(case: Case) -> None:
    """Catches products rounded apart from the sum, and another order of the two fmas."""
    sa, za, sb, zb, sc, zc = case
    a, b = all_pairs()
    nodes: Nodes = [("QLinearAdd", ["a", "sa", "za", "b", "sb", "zb", "sc", "zc"], "y", {})]
    constants = {"sa": scalar(sa), "za": zero(za), "sb": scalar(sb), "zb": zero(zb), "sc": scalar(sc),
                 "zc": zero(zc)}  # fmt: skip
    expected = run(nodes, {"a": a, "b": b}, constants, "y")
    p = arithmetic.add_constants(sa, za, sb, zb, sc, zc)
    np.testing.assert_array_equal(arithmetic.add(a, b, *p, -128, 127), expected)
    np.testing.assert_array_equal(on_the_vector_unit(Elementwise.ADD, a, b, QuantRecord(p)), expected)


@pytest.mark.parametrize("case", PAIR_CASES)
def test_multiplication_is_qlinearmul(case: Case) -> None:
    """Catches the zero point added after rounding."""
    sa, za, sb, zb, sc, zc = case
    a, b = all_pairs()
    nodes: Nodes = [("QLinearMul", ["a", "sa", "za", "b", "sb", "zb", "sc", "zc"], "y", {})]
    constants = {"sa": scalar(sa), "za": zero(za), "sb": scalar(sb), "zb": zero(zb), "sc": scalar(sc),
                 "zc": zero(zc)}  # fmt: skip
    expected = run(nodes, {"a": a, "b": b}, constants, "y")
    ratio = (F32(sa) * F32(sb)) / F32(sc)
    np.testing.assert_array_equal(arithmetic.multiply(a, za, b, zb, ratio, zc, -128, 127), expected)
    record = QuantRecord((ratio,), za=za, zb=zb, zo=zc)
    np.testing.assert_array_equal(on_the_vector_unit(Elementwise.MUL, a, b, record), expected)


@pytest.mark.parametrize("fn", list(BINARY))
@pytest.mark.parametrize("case", PAIR_CASES)
def test_float_functions_are_dequantize_operate_quantize(case: Case, fn: Elementwise) -> None:
    """Catches a reciprocal instead of the division by sc, and fused rounding."""
    sa, za, sb, zb, sc, zc = case
    a, b = all_pairs()
    expected = run(_dequantized([(BINARY[fn], ["fa", "fb"], "v", {})]), {"a": a, "b": b}, _pair(case), "y")
    record = QuantRecord((F32(sa), F32(sb), F32(sc)), za=za, zb=zb, zo=zc)
    np.testing.assert_array_equal(on_the_vector_unit(fn, a, b, record), expected)


@pytest.mark.parametrize("case", PAIR_CASES)
def test_division_is_dequantize_divide_quantize(case: Case) -> None:
    """Divisors of zero are left out: ONNX gives their results no meaning."""
    sa, za, sb, zb, sc, zc = case
    a, b = all_pairs()
    a, b = a[b != zb], b[b != zb]
    expected = run(_dequantized([("Div", ["fa", "fb"], "v", {})]), {"a": a, "b": b}, _pair(case), "y")
    record = QuantRecord((F32(sa), F32(sb), F32(sc)), za=za, zb=zb, zo=zc)
    np.testing.assert_array_equal(on_the_vector_unit(Elementwise.FDIV, a, b, record), expected)


def _pair(case: Case) -> dict[str, Array]:
    sa, za, sb, zb, sc, zc = case
    return {"sa": scalar(sa), "za": zero(za), "sb": scalar(sb), "zb": zero(zb), "sc": scalar(sc),
            "zc": zero(zc)}  # fmt: skip


def _dequantized(middle: Nodes) -> Nodes:
    """DQ of a and b, the middle from fa and fb to v, Q."""
    return [
        ("DequantizeLinear", ["a", "sa", "za"], "fa", {}),
        ("DequantizeLinear", ["b", "sb", "zb"], "fb", {}),
        *middle,
        ("QuantizeLinear", ["v", "sc", "zc"], "y", {}),
    ]


@pytest.mark.parametrize("case", PAIR_CASES[:4])
def test_prelu_and_affine_follow_their_float_forms(case: Case) -> None:
    """Catches a slope applied to the code instead of the value, and v*g + h in one rounding."""
    sa, za, _, _, sc, zc = case
    a = np.arange(-128, 128).astype(np.int8)
    generator = np.random.default_rng(3)
    gain = generator.choice([0.5, 0.25, 1.1, -0.3, 3.7], 256).astype(np.float32)
    offset = generator.choice([0.0, 0.125, -0.3, 1e-7], 256).astype(np.float32)
    constants = {**_pair((sa, za, sa, za, sc, zc)), "g": gain, "h": offset}
    inputs = {"a": a, "b": a}
    prelu = run(_dequantized([("PRelu", ["fa", "g"], "v", {})]), inputs, constants, "y")
    affine = run(
        _dequantized([("Mul", ["fa", "g"], "p", {}), ("Add", ["p", "h"], "v", {})]), inputs, constants, "y"
    )
    record = QuantRecord((F32(sa), F32(0), F32(sc)), za=za, zo=zc)
    got = on_the_vector_unit(Elementwise.PRELU, a, a, record, gain.tobytes())
    np.testing.assert_array_equal(got, prelu)
    table = np.concatenate([gain, offset]).tobytes()
    np.testing.assert_array_equal(on_the_vector_unit(Elementwise.AFFINE, a, a, record, table), affine)


@pytest.mark.parametrize(
    "weights", [(0.25, 0.25, 0.25, 0.25), (0.5625, 0.1875, 0.1875, 0.0625), (0.1, 0.2, 0.3, 0.4)]
)
def test_interpolation_adds_in_the_order_of_its_corners(weights: tuple[float, ...]) -> None:
    """Catches another order of the three additions, and products fused with them."""
    generator = np.random.default_rng(11)
    pixels, channels = 9, 64
    upper, lower = (generator.integers(-128, 128, (pixels, channels)).astype(np.int8) for _ in range(2))
    sa, za, sc, zc = 0.021, -11, 0.0173, 5
    corners = {"a": upper[:-1], "b": upper[1:], "c": lower[:-1], "d": lower[1:]}
    nodes: Nodes = [("DequantizeLinear", [n, "sa", "za"], f"f{n}", {}) for n in corners]
    nodes += [("Mul", [f"f{n}", f"w{n}"], f"p{n}", {}) for n in corners]
    nodes += [("Add", ["pa", "pb"], "s1", {}), ("Add", ["s1", "pc"], "s2", {})]
    nodes += [("Add", ["s2", "pd"], "v", {}), ("QuantizeLinear", ["v", "sc", "zc"], "y", {})]
    constants: dict[str, Array] = {"sa": scalar(sa), "za": zero(za), "sc": scalar(sc), "zc": zero(zc)}
    constants |= {f"w{n}": scalar(w) for n, w in zip(corners, weights, strict=True)}
    expected = run(nodes, corners, constants, "y")
    record = QuantRecord((F32(sa), *map(F32, weights), F32(sc)), za=za, zo=zc)
    instr = VectorElementwise(fn=Elementwise.LERP1, b=1024, out=2048, w=pixels - 1, c=channels, aps=channels,
                              ops=channels)  # fmt: skip
    bench = Bench(instr).put(Space.SPM, 0, upper).put(Space.SPM, 1024, lower).put(Space.PRM, 0, record.pack())
    np.testing.assert_array_equal(bench.run().get(Space.SPM, 2048, (pixels - 1, channels)), expected)


@pytest.mark.parametrize("fn", ["IMAX", "IMIN", "IADD", "ISUB"])
def test_integer_functions_clamp(fn: str) -> None:
    a, b = all_pairs()
    operate = {"IMAX": np.maximum, "IMIN": np.minimum, "IADD": np.add, "ISUB": np.subtract}[fn]
    expected = np.clip(operate(a.astype(int), b.astype(int)), -100, 90)
    record = QuantRecord(lo=-100, hi=90)
    np.testing.assert_array_equal(on_the_vector_unit(Elementwise[fn], a, b, record), expected)


@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize(
    ("sx", "zx", "sy", "zy"), [(2.0**-7, 3, 2.0**-6, -7), (2.0**-5, 3, 2.0**-6, -7), (0.031, -128, 0.0271, 5)]
)
def test_average_pooling_is_qlinearaveragepool(sx: float, zx: int, sy: float, zy: int, include: int) -> None:
    """Catches an integer sum, pairwise summation, the zero point after rounding, padding that counts."""
    generator = np.random.default_rng(5)
    x = generator.integers(-128, 128, (1, 16, 13, 11)).astype(np.int8)
    x[0, :8] = (x[0, :8] // 32) * 32  # many ties
    nodes: Nodes = [("QLinearAveragePool", ["x", "sx", "zx", "sy", "zy"], "y",
                     {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 1, 1, 0],
                      "count_include_pad": include})]  # fmt: skip
    constants = {"sx": scalar(sx), "zx": zero(zx), "sy": scalar(sy), "zy": zero(zy)}
    expected = run(nodes, {"x": x}, constants, "y")[0].transpose(1, 2, 0)
    record = QuantRecord((F32(sx), F32(sy)), za=zx, zo=zy)
    oh, ow, c = expected.shape
    instr = Pooling(
        fn=Pool.AVG, out=65536, oh=oh, ow=ow, c=c, kh=3, kw=2, sh=2, sw=1, ips=16, irs=16 * 11, ih=13,
        iw=11, pt=1, pl=1, ops=16, ors=16 * ow, cip=include,
    )  # fmt: skip
    bench = Bench(instr).put(Space.SPM, 0, x[0].transpose(1, 2, 0)).put(Space.PRM, 0, record.pack())
    np.testing.assert_array_equal(bench.run().get(Space.SPM, 65536, (oh, ow, c)), expected)


def test_a_mean_over_41_equal_values_is_exact() -> None:
    """Catches a product with 1/count: 41 * (1/41) is not 1 in float32.

    One row more than the window, since ONNX Runtime takes a window over the whole image for a
    global average, which it computes in another way.
    """
    codes = np.arange(-127, 128, 2).astype(np.int8)
    x = np.broadcast_to(codes[:, None, None], (codes.size, 42, 1)).copy()
    nodes: Nodes = [("QLinearAveragePool", ["x", "sx", "z", "sy", "z"], "y", {"kernel_shape": [41, 1]})]
    constants = {"sx": scalar(0.5), "z": zero(0), "sy": scalar(1.0)}
    expected = run(nodes, {"x": x[None]}, constants, "y")[0, :, 0]
    real = arithmetic.dequantize(x[:, :41], 0.5, 0).transpose(1, 0, 2)
    got = arithmetic.average(real, np.full((codes.size, 1), 41), 1.0, 0, -128, 127)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(
    ("length", "steps"), [(4, 10), (6, 27), (8, 20), (14, 21), (26, 91), (30, 45), (38, 57), (50, 75)]
)
def test_equal_probabilities_on_a_tie(length: int, steps: int) -> None:
    """Catches a quotient in float32, in any order, and a logarithm in float64 in the table."""
    sy = np.nextafter(np.float32(1 / steps), np.float32(0))
    x = np.full((1, length), 50, np.int8)
    nodes: Nodes = [("QLinearSoftmax", ["x", "sx", "z", "sy", "zy"], "y", {"axis": 1, "opset": 13})]
    constants = {"sx": scalar(0.125), "z": zero(0), "sy": scalar(sy), "zy": zero(-128)}
    expected = run(nodes, {"x": x}, constants, "y")
    table = np.asarray(exponentials(0.125, length))
    got = arithmetic.softmax(x.astype(np.int32) + 128, table, divisor(float(sy)), -128, -128, 127)
    assert divisor(float(sy)) == steps
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("sy", [1 / 256, 0.0107])
@pytest.mark.parametrize(("scale", "length"), [(0.1, 10), (0.7, 1000), (2.0**-6, 33), (4.0, 5), (0.05, 3)])
def test_softmax_is_qlinearsoftmax(scale: float, length: int, sy: float, dtype: Any) -> None:
    """Catches a libm table, a missing head-room, division by the scale instead of floor(1/sy)."""
    generator = np.random.default_rng(length)
    info = np.iinfo(dtype)
    x = generator.integers(info.min, info.max + 1, (200, length)).astype(dtype)
    x[:20] = info.max
    x[20:40, 0] = info.max
    x[40:60] = x[40:60] // 16
    zy = int(info.min)
    nodes: Nodes = [("QLinearSoftmax", ["x", "sx", "zx", "sy", "zy"], "y", {"axis": 1, "opset": 13})]
    constants = {"sx": scalar(scale), "zx": zero(3, dtype), "sy": scalar(sy), "zy": zero(zy, dtype)}
    expected = run(nodes, {"x": x}, constants, "y")
    table = exponentials(float(np.float32(scale)), length)
    record = QuantRecord((F32(divisor(sy)),), zo=zy, lo=int(info.min), hi=int(info.max))
    kind = ElementType.U8 if dtype is np.uint8 else ElementType.S8
    out = 1 << 19
    instr = VectorSoftmax(
        out=out, tab=0, prm=128, h=1, w=200, c=length, ips=length, ops=length, xt=kind, ot=kind
    )
    bench = Bench(instr).put(Space.SPM, 0, x).put(Space.PRM, 0, table).put(Space.PRM, 1024, record.pack())
    np.testing.assert_array_equal(bench.run().get(Space.SPM, out, (200, length), dtype), expected)


def test_fma_rounds_once() -> None:
    """Against exact rational arithmetic; catches float64 that is rounded to float32 a second time."""
    from fractions import Fraction

    generator = np.random.default_rng(1)
    a = generator.integers(-255, 256, 3000)
    b = (2.0 ** generator.integers(-8, 4, 3000) * (1 + generator.integers(0, 2**23, 3000) * 2.0**-23)).astype(
        np.float32
    )
    c = (np.float32(1) + generator.integers(0, 4, 3000).astype(np.float32)) * np.float32(2.0**-30)
    c = np.where(np.arange(3000) % 2, c, -c).astype(np.float32)
    got = arithmetic.fma(a, b, c)
    for x, y, z, result in zip(a.tolist(), b.tolist(), c.tolist(), got, strict=True):
        exact = Fraction(x) * Fraction(y) + Fraction(z)
        below, above = np.nextafter(result, F32(-np.inf)), np.nextafter(result, F32(np.inf))
        error = abs(Fraction(float(result)) - exact)
        assert error <= abs(Fraction(float(below)) - exact)
        assert error <= abs(Fraction(float(above)) - exact)


def test_rounding_shift_is_half_to_even() -> None:
    values = np.array([-6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6, 7], np.int32)
    np.testing.assert_array_equal(arithmetic.shift_right_rounding(values, 1), np.rint(values / 2))
    np.testing.assert_array_equal(arithmetic.shift_right_rounding(values, 2), np.rint(values / 4))
    np.testing.assert_array_equal(
        arithmetic.shift_right_rounding(values, -30)[[0, -1]], [-(2**31), 2**31 - 1]
    )
