"""The formulas of docs/lowering.md: operators as the instructions they become, ONNX Runtime as the judge.

What a single instruction computes is tested beside it; here are the operators that become several,
or one with operands that are not obvious.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from isa import arithmetic
from isa.instructions.dma import Fill, OnChip
from isa.instructions.matrix import ArrayGemm, Conv
from isa.instructions.records import QuantRecord
from isa.instructions.vector import Requantize, VectorMove
from isa.instructions.vector_elementwise import Elementwise, VectorElementwise
from isa.memory_map import REQUANT_RECORD, Space
from isa.spec import Instruction
from isa.support.records import replace
from isa.target import load_target
from tests.bench import Bench
from tests.oracle import Nodes, run, scalar, zero

Array = NDArray[Any]
F32 = np.float32
TARGET = load_target("edge16", ["spm.bytes=1048576"])
COLS = TARGET.mx.cols
WEIGHTS, OUT = 1 << 18, 1 << 19


def random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def codes(generator: np.random.Generator, *shape: int) -> Array:
    return generator.integers(-128, 128, shape).astype(np.int8)


def packed(w: Array) -> Array:
    """Weights (kh, kw, cin, cout) as the array takes them."""
    kh, kw, cin, cout = w.shape
    groups = -(-cout // COLS)
    lanes = np.zeros((kh, kw, cin, groups * COLS), np.int8)
    lanes[..., :cout] = w
    return lanes.reshape(kh, kw, cin, groups, COLS).transpose(3, 0, 1, 2, 4).copy()


def nchw(x: Array) -> Array:
    return x.transpose(2, 0, 1)[None].copy()


def nhwc(y: Array) -> Array:
    return y[0].transpose(1, 2, 0)


def conv_integer(x: Array, w: Array, zx: int, **attributes: Any) -> Array:
    """int32 sums of ONNX Runtime's ConvInteger for NHWC codes and weights (kh, kw, cin, cout)."""
    constants = {"w": (w.astype(int) + 128).astype(np.uint8).transpose(3, 2, 0, 1).copy(),
                 "zx": zero(zx + 128, np.uint8), "zw": zero(128, np.uint8)}  # fmt: skip
    nodes: Nodes = [("ConvInteger", ["x", "w", "zx", "zw"], "y", attributes)]
    return nhwc(run(nodes, {"x": nchw((x.astype(int) + 128).astype(np.uint8))}, constants, "y"))


def sums(bench: Bench, oh: int, ow: int, cout: int) -> Array:
    """The accumulators of a tile of one channel group."""
    return bench.get(Space.ACC, 0, (oh, ow, COLS), np.int32)[..., :cout]


# --- convolutions beyond one instruction -------------------------------------------------------------------


def test_a_kernel_beyond_16_is_a_sum_of_parts() -> None:
    generator = random(1)
    x, w = codes(generator, 20, 22, 3), codes(generator, 17, 19, 3, 5)
    parts: list[Instruction] = []
    offset = 0
    contents: list[Array] = []
    for (r0, r1), (c0, c1) in itertools.product([(0, 16), (16, 17)], [(0, 16), (16, 19)]):
        part = packed(w[r0:r1, c0:c1])
        parts.append(
            Conv(inp=r0 * 66 + c0 * 3, wgt=WEIGHTS + offset, oh=4, ow=4, cin=3, cout=5, kh=r1 - r0, kw=c1 - c0,
                 ips=3, irs=66, ih=3 + r1 - r0, iw=3 + c1 - c0, zx=7, accum=int(bool(parts)))
        )  # fmt: skip
        contents.append(part)
        offset += -(-part.size // 8) * 8
    bench = Bench(*parts, target=TARGET).put(Space.SPM, 0, x)
    place = WEIGHTS
    for part in contents:
        bench.put(Space.SPM, place, part)
        place += -(-part.size // 8) * 8
    np.testing.assert_array_equal(sums(bench.run(), 4, 4, 5), conv_integer(x, w, 7))


def test_pads_beyond_31_are_outputs_that_see_padding_alone_and_the_rest() -> None:
    """Pad 40 and kernel 3: rows 0 to 37 are a fill with 0, the others one convolution with pad 2."""
    generator = random(2)
    x, w = codes(generator, 3, 4, 2), codes(generator, 3, 1, 2, 6)
    blank, rest = 38, 5
    bench = Bench(
        Fill(space=OnChip.ACC, n0=4 * COLS, n1=blank * 4, ls1=1),
        Conv(wgt=WEIGHTS, acc=blank * 4, oh=rest, ow=4, cin=2, cout=6, kh=3, kw=1, ips=2, irs=8, ih=3, iw=4, pt=2, zx=-9),
        target=TARGET,
    ).put(Space.SPM, 0, x)  # fmt: skip
    got = sums(bench.put(Space.SPM, WEIGHTS, packed(w)).run(), blank + rest, 4, 6)
    np.testing.assert_array_equal(got, conv_integer(x, w, -9, pads=[40, 0, 2, 0]))


def test_groups_are_convolutions_at_channel_offsets() -> None:
    generator = random(3)
    x, w = codes(generator, 5, 6, 8), codes(generator, 3, 3, 4, 10)
    instrs = [
        Conv(inp=4 * group, wgt=WEIGHTS + 1024 * group, acc=12 * group, oh=3, ow=4, cin=4, cout=5, kh=3, kw=3,
             ips=8, irs=48, ih=5, iw=6, zx=3)
        for group in range(2)
    ]  # fmt: skip
    bench = Bench(*instrs, target=TARGET).put(Space.SPM, 0, x)
    for group in range(2):
        bench.put(Space.SPM, WEIGHTS + 1024 * group, packed(w[..., 5 * group : 5 * group + 5]))
    both = bench.run().get(Space.ACC, 0, (2, 3, 4, COLS), np.int32)[..., :5]
    expected = conv_integer(x, w, 3, group=2)
    np.testing.assert_array_equal(np.concatenate([both[0], both[1]], axis=-1), expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(3, 2, 1), (4, 2, 1), (2, 2, 0), (5, 3, 2), (3, 1, 1), (2, 3, 0)]
)
def test_transposed_convolution_is_a_convolution_of_every_phase(kernel: int, stride: int, pad: int) -> None:
    """Output y = stride*i + phase sees the taps k with k = phase + pad modulo stride, each at input i + const.

    The judge is ONNX Runtime's integer convolution of the image with zeros between its pixels.
    """
    generator = random(4)
    zx, h, cin, cout = 11, 5, 3, 4
    x, w = codes(generator, h, h, cin), codes(generator, kernel, kernel, cin, cout)
    spread = np.full((h * stride - stride + 1,) * 2 + (cin,), zx, np.int8)
    spread[::stride, ::stride] = x
    edge = kernel - 1 - pad
    expected = conv_integer(spread, w[::-1, ::-1].copy(), zx, pads=[edge] * 4)
    size = (h - 1) * stride + kernel - 2 * pad
    assert expected.shape[:2] == (size, size)
    got = np.zeros_like(expected)
    for py, px in itertools.product(range(stride), repeat=2):
        rows, columns = (phase_geometry(p, kernel, stride, pad, size) for p in (py, px))
        if rows is None or columns is None:
            continue  # a phase that no tap reaches: sums of nothing, an ldf of 0
        (taps_y, top, oh), (taps_x, left, ow) = rows, columns
        kernel_part = w[np.ix_(taps_y, taps_x)]
        reach = (max(0, min(h, oh + len(taps_y) - 1 - top)), max(0, min(h, ow + len(taps_x) - 1 - left)))
        instr = Conv(wgt=WEIGHTS, oh=oh, ow=ow, cin=cin, cout=cout, kh=len(taps_y), kw=len(taps_x), ips=cin,
                     irs=h * cin, ih=reach[0], iw=reach[1], pt=top, pl=left, zx=zx)  # fmt: skip
        bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x).put(Space.SPM, WEIGHTS, packed(kernel_part))
        got[py::stride, px::stride] = sums(bench.run(), oh, ow, cout)
    np.testing.assert_array_equal(got, expected)


def phase_geometry(
    phase: int, kernel: int, stride: int, pad: int, size: int
) -> tuple[list[int], int, int] | None:
    """Taps of a phase in the order in which input advances, padding before it, and how many outputs it has."""
    taps = [k for k in range(kernel) if (k - phase - pad) % stride == 0]
    outputs = len(range(phase, size, stride))
    if not taps or not outputs:
        return None
    # output stride*i + phase reads input i + (phase + pad - k) / stride through tap k
    first = (phase + pad - max(taps)) // stride
    assert first <= 0, "a positive first input is an address shift"
    return taps[::-1], -first, outputs


# --- pooling, resizing, moving -----------------------------------------------------------------------------


def test_dilated_max_pooling_is_the_maximum_of_shifted_views() -> None:
    x = codes(random(5), 9, 9, 4)
    taps = [(ky * 2, kx * 3) for ky, kx in itertools.product(range(3), range(2))]
    oh, ow = 5, 6
    view = {"h": oh, "w": ow, "c": 4, "aps": 4, "ars": 36, "bps": 4, "brs": 36, "ops": 4, "ors": 24}
    stream: list[Instruction] = []
    for index, (y, column) in enumerate(taps[1:]):
        left = {"a": taps[0][0] * 36 + taps[0][1] * 4} if index == 0 else {"a": OUT, "aps": 4, "ars": 24}
        stream.append(
            VectorElementwise(fn=Elementwise.IMAX, **{**view, **left, "b": y * 36 + column * 4, "out": OUT})  # pyright: ignore[reportArgumentType]
        )
    bench = Bench(*stream, target=TARGET).put(Space.SPM, 0, x).put(Space.PRM, 0, QuantRecord().pack()).run()
    nodes: Nodes = [("MaxPool", ["x"], "y", {"kernel_shape": [3, 2], "dilations": [2, 3]})]
    expected = nhwc(run(nodes, {"x": nchw(x)}, {}, "y"))
    np.testing.assert_array_equal(bench.get(Space.SPM, OUT, (oh, ow, 4)), expected)


def test_nearest_resize_by_whole_factors_is_a_copy_with_pitches_of_0() -> None:
    x = codes(random(6), 3, 4, 5)
    stream = [
        VectorMove(src=y * 20, dst=OUT + (2 * y + up) * 60, n0=5, n1=3, n2=4, ss1=0, ss2=5, dd1=5, dd2=15)
        for y, up in itertools.product(range(3), range(2))
    ]
    bench = Bench(*stream, target=TARGET).put(Space.SPM, 0, x).run()
    attributes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    nodes: Nodes = [("Resize", ["x", "", "s"], "y", attributes)]
    expected = nhwc(run(nodes, {"x": nchw(x)}, {"s": np.array([1, 1, 2, 3], F32)}, "y"))
    np.testing.assert_array_equal(bench.get(Space.SPM, OUT, (6, 12, 5)), expected)


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space_is_a_copy_per_row_of_a_block(mode: str) -> None:
    x = codes(random(7), 2, 3, 12)
    nodes: Nodes = [("DepthToSpace", ["x"], "y", {"blocksize": 2, "mode": mode})]
    expected = nhwc(run(nodes, {"x": nchw(x).astype(F32)}, {}, "y")).astype(np.int8)
    # channel of (by, bx, c): (by*2 + bx)*3 + c for DCR, c*4 + by*2 + bx for CRD
    stream: list[Instruction] = []
    for by in range(2):
        first, run_length, levels = (by * 6, 6, ()) if mode == "DCR" else (by * 2, 1, (("n1", 3), ("n2", 2)))
        for y in range(2):
            source, target = y * 36 + first, OUT + (2 * y + by) * 18
            if levels:
                stream.append(VectorMove(src=source, dst=target, n0=run_length, n1=3, n2=2, n3=3, ss1=4, ss2=1, ss3=12,
                                         dd1=1, dd2=3, dd3=6))  # fmt: skip
            else:
                stream.append(VectorMove(src=source, dst=target, n0=run_length, n1=3, ss1=12, dd1=6))
    bench = Bench(*stream, target=TARGET).put(Space.SPM, 0, x).run()
    np.testing.assert_array_equal(bench.get(Space.SPM, OUT, (4, 6, 3)), expected)


def test_slices_with_negative_steps_are_copies_with_negative_pitches() -> None:
    x = codes(random(8), 5, 7, 3)
    instr = VectorMove(src=4 * 21 + 6 * 3, dst=OUT, n0=3, n1=4, n2=3, ss1=-6, ss2=-42, dd1=3, dd2=12)
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x).run()
    axes = {
        "s": np.array([4, 6]),
        "e": np.array([-100, -100]),
        "a": np.array([2, 3]),
        "t": np.array([-2, -2]),
    }
    nodes: Nodes = [("Slice", ["x", "s", "e", "a", "t"], "y", {})]
    np.testing.assert_array_equal(
        bench.get(Space.SPM, OUT, (3, 4, 3)), nhwc(run(nodes, {"x": nchw(x)}, axes, "y"))
    )


# --- products of two computed operands ------------------------------------------------------------------------


def test_a_product_of_two_computed_operands_is_qlinearmatmul() -> None:
    generator = random(9)
    a, b = codes(generator, 5, 12), codes(generator, 12, 9)
    za, zb, zy = 7, -5, 3
    sa, sb, sy = F32(0.25), F32(0.5), F32(8)
    records = np.array([(0, (sa * sb) / sy)], REQUANT_RECORD)
    bench = Bench(
        ArrayGemm(a=0, b=WEIGHTS, m=5, n=9, k=12, ap=12, bp=9, bg=COLS, zx=za, zw=zb),
        Requantize(out=OUT, w=5, c=9, ops=9, lo=-128, hi=127, zp=zy),
        target=TARGET,
    )
    bench.put(Space.SPM, 0, a).put(Space.SPM, WEIGHTS, b).put(Space.PRM, 0, records).run()
    constants = {
        "sa": scalar(sa),
        "za": zero(za),
        "sb": scalar(sb),
        "zb": zero(zb),
        "sy": scalar(sy),
        "zy": zero(zy),
    }
    nodes: Nodes = [("QLinearMatMul", ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"], "y", {})]
    np.testing.assert_array_equal(
        bench.get(Space.SPM, OUT, (5, 9)), run(nodes, {"a": a, "b": b}, constants, "y")
    )


# --- tables ---------------------------------------------------------------------------------------------------

erf = np.vectorize(math.erf)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


UNARY: dict[str, tuple[Callable[[Array], Array], dict[str, Any]]] = {
    "Relu": (lambda x: np.maximum(x, 0), {}),
    "LeakyRelu": (lambda x: np.where(x < 0, F32(0.1) * x, x), {"alpha": 0.1}),
    "Sigmoid": (sigmoid, {}),
    "Tanh": (np.tanh, {}),
    "HardSigmoid": (lambda x: np.clip(F32(0.2) * x + F32(0.5), 0, 1), {"alpha": 0.2, "beta": 0.5}),
    "HardSwish": (lambda x: x * np.clip(x * F32(1 / 6) + F32(0.5), 0, 1), {}),
    "Elu": (lambda x: np.where(x < 0, np.expm1(x), x), {}),
    "Selu": (
        lambda x: F32(1.0507009873554805) * np.where(x < 0, F32(1.6732632423543772) * np.expm1(x), x),
        {},
    ),
    "Softplus": (lambda x: np.log1p(np.exp(x)), {}),
    "Softsign": (lambda x: x * (F32(1) / (F32(1) + np.abs(x))), {}),
    "Erf": (erf, {}),
    "Exp": (np.exp, {}),
    "Abs": (np.abs, {}),
    "Neg": (np.negative, {}),
    "Floor": (np.floor, {}),
    "Ceil": (np.ceil, {}),
    "Round": (np.rint, {}),
    "Sign": (np.sign, {}),
    "Sin": (np.sin, {}),
    "Cos": (np.cos, {}),
    "Celu": (lambda x: np.maximum(x, 0) + np.minimum(0, np.expm1(x)), {}),
}


STEPWISE = {"Relu", "LeakyRelu", "HardSigmoid", "HardSwish", "Softsign"}


@pytest.mark.parametrize("op", sorted(UNARY))
def test_a_function_of_one_value_is_a_table_of_its_256_codes(op: str) -> None:
    """t[i] = rne(clamp(f(sx*(i - zx)) / sy)) + zy.

    Functions of products and sums round every step to float32, as ONNX Runtime does; the others are
    computed in float64 and rounded once, and ONNX Runtime's approximations are within a few units.
    """
    function, attributes = UNARY[op]
    every = np.arange(-128, 128).astype(np.int8)
    for sx, zx, sy, zy in [(0.03, 5, 0.01, -7), (0.05, -120, 0.02, 3), (0.0117, 0, 0.0078, 0)]:
        real = arithmetic.dequantize(every, sx, zx)
        given = real if op in STEPWISE else real.astype(np.float64)
        table = arithmetic.quantize(function(given).astype(F32), sy, zy, -128, 127)
        constants = {"sx": scalar(F32(sx)), "zx": zero(zx), "sy": scalar(F32(sy)), "zy": zero(zy)}
        nodes: Nodes = [
            ("DequantizeLinear", ["x", "sx", "zx"], "r", {}),
            (op, ["r"], "f", attributes),
            ("QuantizeLinear", ["f", "sy", "zy"], "y", {}),
        ]
        np.testing.assert_array_equal(table, run(nodes, {"x": every}, constants, "y"))


def test_a_concatenation_with_other_scales_is_a_table_per_operand() -> None:
    """QLinearConcat rescales as DequantizeLinear, QuantizeLinear do; equal scales are copies."""
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    sx, zx, sy, zy = F32(0.25), 3, F32(0.375), -9
    table = arithmetic.quantize(arithmetic.dequantize(every, sx, zx), sy, zy, -128, 127)
    constants = {"sy": scalar(sy), "zy": zero(zy), "sx": scalar(sx), "zx": zero(zx)}
    nodes: Nodes = [("QLinearConcat", ["sy", "zy", "x", "sx", "zx", "b", "sy", "zy"], "y", {"axis": 0})]
    got = run(nodes, {"x": every, "b": every}, constants, "y")
    np.testing.assert_array_equal(got, np.concatenate([table.astype(np.int8), every]))


def test_a_maximum_of_two_scales_is_the_integer_maximum_of_rescaled_codes() -> None:
    """Requantizing is monotone: Q(max(DQ a, DQ b)) = max(Q DQ a, Q DQ b), for every pair of codes."""
    every = np.arange(-128, 128).astype(np.int8)
    sa, za, sb, zb, sc, zc = F32(0.25), 3, F32(0.11), -20, F32(0.17), 9
    a, b = (
        arithmetic.quantize(arithmetic.dequantize(every, s, z), sc, zc, -128, 127)
        for s, z in ((sa, za), (sb, zb))
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
        ("DequantizeLinear", ["a", "sa", "za"], "ra", {}), ("DequantizeLinear", ["b", "sb", "zb"], "rb", {}),
        ("Max", ["ra", "rb"], "r", {}), ("QuantizeLinear", ["r", "sc", "zc"], "y", {}),
    ]  # fmt: skip
    expected = run(nodes, {"a": every[:, None].copy(), "b": every[None].copy()}, constants, "y")
    np.testing.assert_array_equal(np.maximum(a[:, None], b[None]), expected)


def test_a_power_with_a_constant_exponent_is_a_table() -> None:
    every = np.arange(-128, 128).astype(np.int8)
    sx, zx, sy, zy = F32(0.05), -128, F32(0.25), -128
    real = arithmetic.dequantize(every, sx, zx)
    table = arithmetic.quantize((real.astype(np.float64) ** 2.5).astype(F32), sy, zy, -128, 127)
    constants = {"sx": scalar(sx), "zx": zero(zx), "sy": scalar(sy), "zy": zero(zy), "e": scalar(2.5)}
    nodes: Nodes = [
        ("DequantizeLinear", ["x", "sx", "zx"], "r", {}), ("Pow", ["r", "e"], "p", {}),
        ("QuantizeLinear", ["p", "sy", "zy"], "y", {}),
    ]  # fmt: skip
    np.testing.assert_array_equal(table, run(nodes, {"x": every}, constants, "y"))


def test_a_requantizing_copy_is_a_table_through_vmov() -> None:
    every = np.arange(-128, 128).astype(np.int8)
    codes_out = arithmetic.quantize(
        arithmetic.dequantize(every, F32(0.3), 4), F32(0.2), -1, -128, 127
    ).astype(np.int8)
    table = np.empty(256, np.int8)
    table[every.view(np.uint8)] = codes_out
    bench = Bench(VectorMove(dst=OUT, n0=256, lut=2), target=TARGET).put(Space.SPM, 0, every)
    got = bench.put(Space.PRM, 512, table).run().get(Space.SPM, OUT, (256,))
    constants = {"s": scalar(F32(0.3)), "z": zero(4), "t": scalar(F32(0.2)), "u": zero(-1)}
    nodes: Nodes = [
        ("DequantizeLinear", ["x", "s", "z"], "r", {}),
        ("QuantizeLinear", ["r", "t", "u"], "y", {}),
    ]
    np.testing.assert_array_equal(got, run(nodes, {"x": every}, constants, "y"))


def test_softmax_over_other_axes_is_softmax_of_the_turned_tensor() -> None:
    generator = random(10)
    x = codes(generator, 4, 6, 5)
    constants = {"sx": scalar(F32(0.1)), "zx": zero(0), "sy": scalar(F32(1 / 256)), "zy": zero(-128)}

    def softmax(value: Array, axis: int) -> Array:
        attributes = {"axis": axis, "opset": 13}
        nodes: Nodes = [("QLinearSoftmax", ["x", "sx", "zx", "sy", "zy"], "y", attributes)]
        return run(nodes, {"x": value}, constants, "y")

    turned = softmax(np.ascontiguousarray(x.transpose(1, 2, 0)), 2).transpose(2, 0, 1)
    np.testing.assert_array_equal(turned, softmax(x, 0))


def test_a_convolution_of_one_dimension_is_one_of_two_with_one_row() -> None:
    generator = random(11)
    x, w = codes(generator, 1, 14, 3), codes(generator, 1, 5, 3, 4)
    expected = conv_integer(x, w, 5, strides=[1, 2], dilations=[1, 2], pads=[0, 4, 0, 1])
    oh, ow, _ = expected.shape
    instr = Conv(wgt=WEIGHTS, ow=ow, cin=3, cout=4, kw=5, sw=2, dw=2, ips=3, irs=42, iw=14, pl=4, zx=5)
    reach = (ow - 1) * 2 + 9 - 4
    bench = Bench(replace(instr, iw=min(14, reach)), target=TARGET).put(Space.SPM, 0, x)
    np.testing.assert_array_equal(sums(bench.put(Space.SPM, WEIGHTS, packed(w)).run(), oh, ow, 4), expected)
