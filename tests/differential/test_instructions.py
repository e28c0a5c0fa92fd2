"""Instructions on generated operands: the matrix array against ONNX Runtime's integer operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from isa.instructions.dma import Fill, Load, OnChip, Store
from isa.instructions.matrix import ArrayGemm, Conv
from isa.instructions.vector import Pooling, Requant, Requantize, VectorMove
from isa.memory_map import REQUANT_RECORD, Region, Space
from isa.program import Program
from isa.spec import ElementType
from isa.target import load_target
from isa.validate import instruction_faults
from runtime.executors.reference import step
from runtime.state import CoreState
from tests.bench import Bench, execute
from tests.oracle import Nodes, run, scalar, zero

Array = NDArray[Any]
TARGET = load_target("edge16")
COLS = TARGET.mx.cols
KINDS = {ElementType.S8: np.int8, ElementType.U8: np.uint8}
WEIGHTS, ACC_ROWS = 1 << 17, 1024


def codes(generator: np.random.Generator, kind: ElementType, shape: tuple[int, ...]) -> Array:
    """Random codes, the extreme ones often."""
    low, high = kind.bounds
    values = generator.integers(low, high + 1, shape)
    return np.where(generator.random(shape) < 0.2, generator.choice([low, high], shape), values).astype(
        KINDS[kind]
    )


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Conv, int]:
    """A legal convolution and a seed for its data."""
    kh, kw, sh, sw = (draw(st.integers(1, n)) for n in (4, 3, 3, 3))
    dh, dw = (draw(st.integers(1, 3)) if k > 1 else 1 for k in (kh, kw))
    pt, pl = draw(st.integers(0, 3)), draw(st.integers(0, 2))
    oh, ow = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    ih = draw(st.integers(1, max(1, (oh - 1) * sh + (kh - 1) * dh + 1 - pt)))
    iw = draw(st.integers(1, max(1, (ow - 1) * sw + (kw - 1) * dw + 1 - pl)))
    cin, cout = draw(st.integers(1, 9)), draw(st.integers(1, 2 * COLS + 3))
    ips = cin + draw(st.integers(0, 3))
    kinds = st.sampled_from(list(KINDS))
    xt, wt = draw(kinds), draw(kinds)
    instr = Conv(
        inp=5, wgt=WEIGHTS, oh=oh, ow=ow, cin=cin, cout=cout, kh=kh, kw=kw, sh=sh, sw=sw, dh=dh, dw=dw, ips=ips,
        irs=ips * iw + draw(st.integers(0, 5)), ih=ih, iw=iw, pt=pt, pl=pl, zx=draw(st.integers(*xt.bounds)),
        zw=draw(st.integers(*wt.bounds)), xt=xt, wt=wt, ags=oh * ow, acc=3,
    )  # fmt: skip
    return instr, draw(st.integers(0, 1 << 30))


def reference(instr: Conv, x: Array, w: Array) -> Array:
    """Sums by ONNX Runtime's ConvInteger, which knows uint8: signed codes and zero points are moved up by 128."""
    high = (instr.oh - 1) * instr.sh + (instr.kh - 1) * instr.dh + 1
    wide = (instr.ow - 1) * instr.sw + (instr.kw - 1) * instr.dw + 1
    up_x, up_w = (128 if k is ElementType.S8 else 0 for k in (instr.xt, instr.wt))
    image = np.full((high, wide, instr.cin), instr.zx + up_x, np.uint8)
    image[instr.pt : instr.pt + instr.ih, instr.pl : instr.pl + instr.iw] = x.astype(int) + up_x
    weights = (w.astype(int) + up_w).astype(np.uint8)
    attributes = {"strides": [instr.sh, instr.sw], "dilations": [instr.dh, instr.dw]}
    constants = {"w": weights.transpose(3, 2, 0, 1).copy(), "zx": zero(instr.zx + up_x, np.uint8),
                 "zw": zero(instr.zw + up_w, np.uint8)}  # fmt: skip
    nodes = [("ConvInteger", ["x", "w", "zx", "zw"], "y", attributes)]
    return run(nodes, {"x": image.transpose(2, 0, 1)[None].copy()}, constants, "y")[0].transpose(1, 2, 0)


@given(convolutions())
@settings(max_examples=150)
def test_convolution_sums_what_convinteger_sums(case: tuple[Conv, int]) -> None:
    instr, seed = case
    if list(instruction_faults(instr, TARGET, {})):
        return
    generator = np.random.default_rng(seed)
    x = codes(generator, instr.xt, (instr.ih, instr.iw, instr.cin))
    w = codes(generator, instr.wt, (instr.kh, instr.kw, instr.cin, instr.cout))
    acc = accumulators(loaded(instr, x, w).run(), instr.cout, instr.oh * instr.ow)
    np.testing.assert_array_equal(acc.reshape(instr.oh, instr.ow, -1), reference(instr, x, w))


def loaded(instr: Conv, x: Array, w: Array, *more: Conv) -> Bench:
    """A machine with the image at its pitches and the weights as they are packed."""
    bench = Bench(instr, *more, target=TARGET)
    image = np.zeros(instr.irs * instr.ih + instr.ips, np.uint8)
    for y in range(instr.ih):
        for column in range(instr.iw):
            place = y * instr.irs + column * instr.ips
            image[place : place + instr.cin] = x[y, column].view(np.uint8)
    groups = -(-instr.cout // COLS)
    packed = np.zeros((groups, instr.kh, instr.kw, instr.cin, COLS), w.dtype)
    for n in range(instr.cout):
        packed[n // COLS, ..., n % COLS] = w[..., n]
    return bench.put(Space.SPM, instr.inp, image).put(Space.SPM, WEIGHTS, packed)


def accumulators(bench: Bench, channels: int, pitch: int, first: int = 3) -> Array:
    """Accumulators of a tile as (rows, channels)."""
    everything = bench.get(Space.ACC, 0, (ACC_ROWS, COLS), np.int32)
    columns = [
        everything[first + n // COLS * pitch : first + n // COLS * pitch + pitch, n % COLS]
        for n in range(channels)
    ]
    return np.stack(columns, axis=1)


def test_a_sum_in_two_parts_equals_the_whole() -> None:
    generator = np.random.default_rng(3)
    whole = Conv(
        inp=5,
        wgt=WEIGHTS,
        oh=3,
        ow=4,
        cin=8,
        cout=20,
        kh=1,
        kw=1,
        ips=8,
        irs=32,
        ih=3,
        iw=4,
        zx=7,
        ags=12,
        acc=3,
    )
    x, w = codes(generator, ElementType.S8, (3, 4, 8)), codes(generator, ElementType.S8, (1, 1, 8, 20))
    from isa.support.records import replace

    expected = accumulators(loaded(whole, x, w).run(), 20, 12)
    doubled = loaded(whole, x, w, replace(whole, accum=1)).run()
    np.testing.assert_array_equal(accumulators(doubled, 20, 12), 2 * expected)


@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 1500), st.booleans(), st.booleans(), st.booleans(),
       st.integers(0, 1 << 30))  # fmt: skip
@settings(max_examples=80)
def test_products_are_those_of_matmulinteger(
    m: int, n: int, k: int, ta: bool, tb: bool, unsigned: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    kind = ElementType.U8 if unsigned else ElementType.S8
    up = 0 if unsigned else 128
    zx, zw = (int(v) for v in generator.integers(kind.bounds[0], kind.bounds[1] + 1, 2))
    a, b = codes(generator, kind, (m, k)), codes(generator, kind, (k, n))
    groups = -(-n // COLS)
    packed = np.zeros((groups, k, COLS), b.dtype)
    for column in range(n):
        packed[column // COLS, :, column % COLS] = b[:, column]
    instr = ArrayGemm(
        a=0, b=WEIGHTS, acc=3, m=m, n=n, k=k, ap=m if ta else k, bp=k if tb else COLS, bg=0 if tb else k * COLS,
        ta=int(ta), tb=int(tb), zx=zx, zw=zw, xt=kind, wt=kind, ags=m,
    )  # fmt: skip
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, a.T.copy() if ta else a)
    bench.put(Space.SPM, WEIGHTS, b.T.copy() if tb else packed).run()
    constants = {"za": zero(zx + up, np.uint8), "zb": zero(zw + up, np.uint8)}
    inputs = {"a": (a.astype(int) + up).astype(np.uint8), "b": (b.astype(int) + up).astype(np.uint8)}
    expected = run([("MatMulInteger", ["a", "b", "za", "zb"], "y", {})], inputs, constants, "y")
    np.testing.assert_array_equal(accumulators(bench, n, m), expected)


def test_packing_changes_cycles_and_nothing_else() -> None:
    from isa.support.records import replace

    generator = np.random.default_rng(9)
    plain = Conv(
        inp=5, wgt=WEIGHTS, oh=4, ow=5, cin=3, cout=9, kh=3, kw=3, ips=3, irs=21, ih=6, iw=7, ags=20, acc=3
    )
    x, w = codes(generator, ElementType.S8, (6, 7, 3)), codes(generator, ElementType.S8, (3, 3, 3, 9))
    packed = replace(plain, pack=1)
    results = [accumulators(loaded(i, x, w).run(), 9, 20).tobytes() for i in (plain, packed)]
    assert results[0] == results[1]
    assert packed.cycles(TARGET) < plain.cycles(TARGET)


def test_max_pooling_is_onnx_runtimes_with_padding_that_never_wins() -> None:
    generator = np.random.default_rng(2)
    for kind in KINDS:
        x = codes(generator, kind, (7, 9, 5))
        nodes = [("MaxPool", ["x"], "y", {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 1, 1]})]
        expected = run(nodes, {"x": x.transpose(2, 0, 1)[None].copy()}, {}, "y")[0].transpose(1, 2, 0)
        oh, ow, c = expected.shape
        instr = Pooling(out=4096, oh=oh, ow=ow, c=c, kh=3, kw=2, sh=2, sw=3, ips=5, irs=45, ih=7,
                        iw=min(9, (ow - 1) * 3 + 2), pt=1, ops=8, ors=8 * ow, xt=kind, ot=kind)  # fmt: skip
        bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x).run()
        got = bench.get(Space.SPM, 4096, (oh, ow, 8), KINDS[kind])[..., :5]
        np.testing.assert_array_equal(got, expected)


@given(st.sampled_from(list(KINDS)), st.booleans(), st.integers(0, 1 << 30))
@settings(max_examples=80)
def test_requantization_is_that_of_onnx_runtimes_products(
    kind: ElementType, per_channel: bool, seed: int
) -> None:
    """Mode f32 on the sums of QLinearMatMul: scales are powers of two, so that halves are common."""
    generator = np.random.default_rng(seed)
    rows, depth, columns = 5, int(generator.integers(1, 60)), int(generator.integers(1, 2 * COLS + 3))
    a = codes(generator, kind, (rows, depth))
    b = codes(generator, ElementType.S8 if per_channel else kind, (depth, columns))
    if per_channel and kind is ElementType.U8:
        b //= 2  # without VNNI, kernels of uint8 x int8 saturate sums of two products of wider weights
    za, zy = (int(v) for v in generator.integers(kind.bounds[0], kind.bounds[1] + 1, 2))
    sa, sy = (np.float32(2.0 ** int(v)) for v in generator.integers(-6, 1, 2))
    sb = np.float32(2.0) ** generator.integers(-8, -3, columns if per_channel else 1).astype(np.float32)
    zb = np.zeros(columns, np.int8) if per_channel else zero(0, KINDS[kind])
    constants = {"sa": scalar(sa), "za": zero(za, KINDS[kind]), "b": b, "sb": sb if per_channel else scalar(sb[0]),
                 "zb": zb, "sy": scalar(sy), "zy": zero(zy, KINDS[kind])}  # fmt: skip
    nodes: Nodes = [("QLinearMatMul", ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"], "y", {})]
    expected = run(nodes, {"a": a}, constants, "y")
    records = np.zeros(sb.size, REQUANT_RECORD)
    records["m"] = (sa * sb) / sy
    sums = (a.astype(np.int32) - za) @ b.astype(np.int32)
    lo, hi = kind.bounds
    instr = Requantize(w=rows, c=columns, ags=rows, out=64, ops=columns, lo=lo, hi=hi, zp=zy, ot=kind,
                       perch=int(per_channel))  # fmt: skip
    np.testing.assert_array_equal(requantized(instr, sums, records), expected)


def requantized(instr: Requantize, sums: Array, records: Array) -> Array:
    """What an instruction makes of sums (rows, channels) from accumulator row 0 on."""
    rows, columns = sums.shape
    bench = Bench(instr, target=TARGET).put(Space.PRM, 0, records)
    for n in range(columns):
        for row in range(rows):
            place = ((n // COLS * rows + row) * COLS + n % COLS) * 4
            bench.put(Space.ACC, place, np.array([sums[row, n]], np.int32))
    return bench.run().get(Space.SPM, 64, (rows, columns), instr.ot.dtype)


@given(st.sampled_from(list(KINDS)), st.integers(0, 1 << 30))
@settings(max_examples=60)
def test_requantization_with_the_zero_point_first_is_qlinearmul(kind: ElementType, seed: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = codes(generator, kind, (8, 11)), codes(generator, kind, (8, 11))
    za, zb, zy = (int(v) for v in generator.integers(kind.bounds[0], kind.bounds[1] + 1, 3))
    sa, sb, sy = (np.float32(2.0 ** int(v)) for v in generator.integers([-6, -6, -2], [0, 0, 3]))
    constants = {"sa": scalar(sa), "za": zero(za, KINDS[kind]), "sb": scalar(sb), "zb": zero(zb, KINDS[kind]),
                 "sy": scalar(sy), "zy": zero(zy, KINDS[kind])}  # fmt: skip
    nodes: Nodes = [("QLinearMul", ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"], "y", {})]
    expected = run(nodes, {"a": a, "b": b}, constants, "y")
    sums = (a.astype(np.int32) - za) * (b.astype(np.int32) - zb)
    records = np.array([(0, (sa * sb) / sy)], REQUANT_RECORD)
    lo, hi = kind.bounds
    instr = Requantize(mode=Requant.F32Z, w=8, c=11, out=64, ops=11, lo=lo, hi=hi, zp=zy, ot=kind)
    np.testing.assert_array_equal(requantized(instr, sums, records), expected)


WIDE = st.one_of(
    st.integers(-(2**31), 2**31 - 1),
    st.sampled_from([2**31 - 1, -(2**31), 2**24 + 1, 2**25 + 2, 2**25 + 6, -(2**24) - 1, 0, 1, -1]),
)


@given(
    st.lists(WIDE, min_size=COLS, max_size=COLS), st.integers(-40, 0), st.integers(-128, 127), st.integers()
)
@settings(max_examples=100)
def test_wide_accumulators_requantize_as_the_operators_of_onnx_runtime_one_by_one(
    sums: list[int], exponent: int, zp: int, bias: int
) -> None:
    """Both float modes beyond 2^24: dequantize, add or not, clip, round half to even, add or not."""
    bias = (bias + 2**31) % 2**32 - 2**31
    acc = np.array([sums], np.int64)
    wrapped = ((acc + bias + 2**31) % 2**32 - 2**31).astype(np.int32)
    m = np.float32(2.0**exponent)
    records = np.array([(bias, m)], REQUANT_RECORD)
    offsets = {"lo": scalar(-128 - zp), "hi": scalar(127 - zp), "least": scalar(-128), "most": scalar(127)}
    constants = {"m": scalar(m), "zp": scalar(zp), **offsets}
    product: Nodes = [("DequantizeLinear", ["x", "m"], "v", {})]
    after: Nodes = [*product, ("Clip", ["v", "lo", "hi"], "c", {}), ("Round", ["c"], "r", {}),
                    ("Add", ["r", "zp"], "y", {})]  # fmt: skip
    before: Nodes = [*product, ("Add", ["v", "zp"], "a", {}), ("Round", ["a"], "r", {}),
                     ("Clip", ["r", "least", "most"], "y", {})]  # fmt: skip
    for mode, nodes in ((Requant.F32, after), (Requant.F32Z, before)):
        instr = Requantize(mode=mode, c=COLS, out=64, ops=COLS, lo=-128, hi=127, zp=zp)
        expected = run(nodes, {"x": wrapped}, constants, "y").astype(np.int8)
        np.testing.assert_array_equal(requantized(instr, acc, records), expected)


def test_requantization_modes_raw_shift_and_table() -> None:
    acc = np.array([[-7, 5, 6, 250]], np.int32)
    records = np.array([(1, 0.5), (0, 0.5), (-2, 0.5), (0, 0.5)], REQUANT_RECORD)
    raw = Requantize(mode=Requant.RAW, ot=ElementType.S32, out=64, c=4, perch=1)
    shift = Requantize(mode=Requant.SHR, shift=1, lo=-100, hi=100, out=128, c=4, perch=1)
    table = Requantize(lo=-100, hi=100, lut=4, out=192, c=4, perch=1)
    bench = Bench(raw, shift, table, target=TARGET).put(Space.ACC, 0, acc).put(Space.PRM, 0, records)
    bench.put(Space.PRM, 1024, np.arange(256).astype(np.uint8)[::-1].copy()).run()
    assert bench.get(Space.SPM, 64, (4,), np.int32).tolist() == [-6, 5, 4, 250]
    assert bench.get(Space.SPM, 128, (4,)).tolist() == [-2, 1, 1, 62], "the shift comes after m = 0.5"
    assert bench.get(Space.SPM, 192, (4,), np.uint8).tolist() == [255 - (v & 255) for v in (-3, 2, 2, 100)]


@given(
    st.permutations(range(3)),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.sampled_from([ElementType.S8, ElementType.U8, ElementType.S32]),
)
@settings(max_examples=60)
def test_moves_transpose_as_numpy_does(
    perm: list[int], shape: tuple[int, int, int], kind: ElementType
) -> None:
    dtype, size = kind.dtype, kind.dtype.itemsize
    x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    out = tuple(shape[p] for p in perm)
    source = [int(s) for s in x.strides]
    pitches = [int(np.prod(out[i + 1 :])) * size for i in range(3)]
    levels = [(out[i], source[perm[i]], pitches[i]) if out[i] > 1 else (1, 0, 0) for i in range(3)]
    (n3, ss3, dd3), (n2, ss2, dd2), (n1, ss1, dd1) = levels
    instr = VectorMove(
        dst=4096, n1=n1, n2=n2, n3=n3, ss1=ss1, ss2=ss2, ss3=ss3, dd1=dd1, dd2=dd2, dd3=dd3, xt=kind
    )
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x).run()
    np.testing.assert_array_equal(bench.get(Space.SPM, 4096, out, dtype), x.transpose(perm))


@pytest.mark.parametrize(
    ("space", "unit", "pitch"), [(OnChip.SPM, 1, 20), (OnChip.ACC, COLS * 4, 2), (OnChip.PRM, 8, 2)]
)
def test_copies_move_strided_boxes(space: OnChip, unit: int, pitch: int) -> None:
    content = np.arange(4096).astype(np.uint8)
    copy = Load(space=space, dram=7, loc=2, n0=16, n1=3, n2=2, ds1=40, ds2=500, ls1=pitch, ls2=4 * pitch)
    state = CoreState(Program(TARGET, (copy,), content.tobytes()))
    step(state)
    memory = state.chip[Space(space)].bytes
    for plane in range(2):
        for row in range(3):
            place = (2 + plane * 4 * pitch + row * pitch) * unit
            expected = content[7 + plane * 500 + row * 40 :][:16]
            np.testing.assert_array_equal(memory[place : place + 16], expected)


def test_a_fill_of_the_parameter_memory_writes_whole_granules() -> None:
    bench = Bench(Fill(space=OnChip.PRM, loc=2, n0=8, n1=2, ls1=3, fill=7), target=TARGET)
    bench.put(Space.PRM, 0, np.zeros(64, np.uint8)).run()
    assert bench.get(Space.PRM, 0, (64,)).reshape(8, 8).sum(1).tolist() == [0, 0, 56, 0, 0, 56, 0, 0]


def test_fills_are_sign_extended_in_accumulators_and_stores_write_dram() -> None:
    from isa.instructions.control import Halt

    stream = (
        Fill(space=OnChip.ACC, loc=1, n0=12, fill=0xFE),
        Store(space=OnChip.ACC, region=1, loc=1, n0=12),
        Halt(),
    )
    state = CoreState(Program(TARGET, stream, arena_bytes=64))
    execute(state)
    assert state.fetch(Region.ARENA, 0, 12).view(np.int32).tolist() == [-2, -2, -2]
