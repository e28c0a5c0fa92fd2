"""wgrad, vpoolb, vloss and mask against loops in plain Python, one product after another."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from isa.faults import MachineTrap
from isa.instructions import matrix_gradient
from isa.instructions.control import ScalarSet
from isa.instructions.matrix_gradient import WeightGradient
from isa.instructions.records import QuantRecord
from isa.instructions.vector import Requant, Requantize
from isa.instructions.vector_depthwise_sums import DepthwiseGradient, DepthwiseSums
from isa.instructions.vector_elementwise import Elementwise, VectorElementwise
from isa.instructions.vector_gradient import PoolBack, PoolingGradient
from isa.instructions.vector_loss import RECORD, Loss, SoftmaxLoss
from isa.instructions.vector_training import ROWS, MapSum, VectorRandom, VectorSum
from isa.memory_map import REQUANT_RECORD, Space
from isa.spec import ElementType, Trap
from isa.support.records import replace
from isa.target import load_target
from isa.validate import instruction_faults
from tests.bench import Bench
from tests.differential.test_training_instructions import bits, f32, rsh
from tests.operands import codes
from tests.strategies import often

TARGET = load_target("tiny8")
COLS = TARGET.mx.cols
SEEDS = st.integers(0, 2**32 - 1)
X, G, D = 0, 4096, 8192
Array = NDArray[Any]


@st.composite
def geometry(draw: st.DrawFn, *, covered: bool) -> dict[str, Any]:
    """Windows of which each has a valid tap; with `covered` no input lies beyond the last of them."""
    found: dict[str, Any] = {}
    for n in "hw":
        kernel, stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        out, pad = draw(st.integers(1, 4)), draw(st.integers(0, kernel - 1))
        reach = (out - 1) * stride + kernel - pad
        least = (out - 1) * stride - pad + 1
        extent = draw(st.integers(max(1, least), reach if covered else reach + 2))
        found |= {
            f"k{n}": kernel,
            f"s{n}": stride,
            f"o{n}": out,
            f"i{n}": extent,
            "pt" if n == "h" else "pl": pad,
        }
    return found


def taps(s: dict[str, Any]) -> list[tuple[int, int, int, int, int, int]]:
    """(window row and column, tap row and column, input row and column) of every valid tap, row by row."""
    found: list[tuple[int, int, int, int, int, int]] = []
    for y, x, ky, kx in itertools.product(*(range(s[k]) for k in ("oh", "ow", "kh", "kw"))):
        row, column = y * s["sh"] + ky - s["pt"], x * s["sw"] + kx - s["pl"]
        if 0 <= row < s["ih"] and 0 <= column < s["iw"]:
            found.append((y, x, ky, kx, row, column))
    return found


def pitched(values: Array, pixel: int, row: int) -> bytes:
    """An (h, w, c) tile with these pitches."""
    h, w, c = values.shape
    content = np.zeros((h - 1) * row + (w - 1) * pixel + c, np.uint8)
    for y, x in itertools.product(range(h), range(w)):
        content[y * row + x * pixel : y * row + x * pixel + c] = values[y, x].view(np.uint8)
    return content.tobytes()


@given(geometry(covered=True), st.integers(1, 3), st.integers(1, 11), st.integers(0, 2), st.booleans(), SEEDS)
@settings(max_examples=often(60))
def test_the_gradient_of_weights_is_the_sum_of_products(
    s: dict[str, Any], cin: int, cout: int, gap: int, accumulate: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    kind = ElementType.U8 if seed % 2 else ElementType.S8
    x = codes(generator, s["ih"], s["iw"], cin, kind=kind)
    g = codes(generator, s["oh"], s["ow"], cout)
    rows = s["kh"] * s["kw"] * cin
    groups = -(-cout // COLS)
    if rows * groups > TARGET.acc.rows:
        return
    ips, gps = cin + gap, cout + gap
    irs, grs = ips * s["iw"] + gap, gps * s["ow"] + gap
    instr = WeightGradient(x=X, g=G, cin=cin, cout=cout, ips=ips, irs=irs, gps=gps, grs=grs, xt=kind,
                           accum=int(accumulate), **s)  # fmt: skip
    before = generator.integers(-(2**31), 2**31, (groups * rows, COLS)).astype(np.int32)
    bench = Bench(instr, target=TARGET).put(Space.SPM, X, pitched(x, ips, irs))
    got = bench.put(Space.SPM, G, pitched(g, gps, grs)).put(Space.ACC, 0, before).run()
    found = got.get(Space.ACC, 0, (groups * rows, COLS), np.int32)
    expected = before.astype(object)
    if not accumulate:
        for n in range(cout):
            expected[n // COLS * rows : (n // COLS + 1) * rows, n % COLS] = 0
    for y, px, ky, kx, row, column in taps(s):
        for c, n in itertools.product(range(cin), range(cout)):
            place = (ky * s["kw"] + kx) * cin + c + n // COLS * rows
            expected[place, n % COLS] += int(x[row, column, c]) * int(g[y, px, n])
    wrapped = (expected + 2**31) % 2**32 - 2**31
    np.testing.assert_array_equal(found, wrapped.astype(np.int64))


def test_sums_of_many_products_are_exact() -> None:
    """More than float32 holds: 3 * 511 products of 255 * 127."""
    instr = WeightGradient(
        x=X, g=G, oh=3, ow=511, ips=1, irs=511, gps=1, grs=511, ih=3, iw=511, xt=ElementType.U8
    )
    bench = Bench(instr, target=TARGET).put(Space.SPM, X, b"\xff" * 1533).put(Space.SPM, G, b"\x7f" * 1533)
    assert bench.run().get(Space.ACC, 0, (1,), np.int32)[0] == 1533 * 255 * 127


@given(
    geometry(covered=False),
    st.integers(1, 9),
    st.sampled_from(PoolBack),
    st.booleans(),
    st.integers(0, 4),
    SEEDS,
)
@settings(max_examples=often(120))
def test_windows_give_their_errors_back(
    s: dict[str, Any], c: int, fn: PoolBack, relu: bool, shift: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    kind = ElementType.U8 if seed % 2 else ElementType.S8
    x = codes(generator, s["ih"], s["iw"], c, kind=kind) // 64  # equal values are frequent
    g = codes(generator, s["oh"], s["ow"], c).clip(-127)
    common: dict[str, Any] = {
        "g": G,
        "dx": D,
        "c": c,
        "ips": c,
        "irs": c * s["iw"],
        "gps": c,
        "grs": c * s["ow"],
        **s,
    }
    maximum: dict[str, Any] = {"x": X, "relu": int(relu), "xt": kind} if fn is PoolBack.MAXB else {}
    instr = PoolingGradient(fn=fn, shift=shift, **common, **maximum)
    assert not instruction_faults(instr, TARGET, {})
    bench = Bench(instr, target=TARGET).put(Space.SPM, X, x).put(Space.SPM, G, g).run()
    found = bench.get(Space.SPM, D, x.shape)
    total = np.zeros(x.shape, object)
    windows: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for y, px, _, _, row, column in taps(s):
        windows.setdefault((y, px), []).append((row, column))
    for ((y, px), places), n in itertools.product(windows.items(), range(c)):
        error = int(g[y, px, n])
        values = [int(x[row, column, n]) for row, column in places]
        if fn is PoolBack.AVGB:
            for row, column in places:
                total[row, column, n] += error
        elif not relu or max(values) > 0:
            row, column = places[values.index(max(values))]
            total[row, column, n] += error
    for place in np.ndindex(*x.shape):
        exact = round(Fraction(int(total[place]), 2**shift))
        assert found[place] == min(max(exact, -127), 127)


def test_pooled_values_of_an_average_are_not_read_and_windows_have_a_valid_tap() -> None:
    instr = PoolingGradient(fn=PoolBack.AVGB, g=64, dx=128, kh=2, kw=2, sh=2, sw=2, ih=2, iw=2, ips=1, irs=2)
    assert {a.operand for a in instr.accesses(TARGET)} == {"g", "dx"}
    assert [f.trap for f in replace(instr, pt=2).check(TARGET)] == [Trap.LIMIT]


def table(factor: float) -> Array:
    entries = [f32(math.exp((i - 255) / 16)) for i in range(256)]
    return np.array([0.0, *entries[1:], factor, 0.0], np.float32)


@given(
    st.integers(1, 4), st.integers(1, 19), st.integers(-24, 8), st.sampled_from([1.0, 1 / 255, 0.3]),
    st.sampled_from(Loss), SEEDS,
)  # fmt: skip
@settings(max_examples=often(120))
def test_the_loss_is_that_of_the_formulas(
    rows: int, classes: int, exponent: int, factor: float, fn: Loss, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    groups = -(-classes // COLS)
    sums = generator.integers(-(2**31), 2**31, (rows, classes)) >> int(generator.integers(0, 30))
    labels = generator.integers(0, classes, rows).astype(np.int32)
    held = np.zeros((groups, rows, COLS), np.int32)
    for i, j in np.ndindex(rows, classes):
        held[j // COLS, i, j % COLS] = sums[i, j]
    size = 1 if fn is Loss.ERRORS else 4
    places: dict[str, Any] = {"lab": 0, "rec": 256} if fn is Loss.ERRORS else {}
    instr = SoftmaxLoss(
        ags=rows, g=1024, gps=size * classes, tab=2, h=rows, c=classes, fn=fn, sreg=3, **places
    )
    bench = Bench(ScalarSet(rd=3, imm=exponent), instr, target=TARGET)
    bench.put(Space.ACC, 0, held).put(Space.SPM, 0, labels).put(Space.PRM, 16, table(factor)).run()
    entries = table(factor).tolist()
    scale = f32(f32(factor) * 2.0 ** (exponent + 4))
    for i in range(rows):
        row = [int(v) for v in sums[i]]
        d = [round(min(max(f32(f32(float(v - max(row))) * scale), -255), 0)) for v in row]
        t = [entries[255 + v] for v in d]
        z = 0.0
        for v in t:
            z = f32(z + v)
        if fn is Loss.PROBS:
            found = bench.get(Space.SPM, 1024 + 4 * classes * i, (classes,), np.float32)
            assert found.tolist() == [f32(v / z) for v in t]
            continue
        label = int(labels[i])
        found = bench.get(Space.SPM, 1024 + classes * i, (classes,))
        assert found.tolist() == [round(f32(f32(v * 127) / z)) - 127 * (j == label) for j, v in enumerate(t)]
        record = bench.state.chip[Space.SPM].bytes[256 + 12 * i : 268 + 12 * i].view(RECORD)[0]
        assert (int(record["d"]), bits(float(record["z"])), int(record["best"])) == (
            d[label], bits(z), row.index(max(row)))  # fmt: skip


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_no_class_traps(label: int) -> None:
    instr = SoftmaxLoss(lab=0, g=64, gps=3, rec=128, tab=2, c=3, sreg=3)
    bench = Bench(ScalarSet(rd=3, imm=0), instr, target=TARGET).put(Space.SPM, 0, np.array([label], np.int32))
    with pytest.raises(MachineTrap) as trap:
        bench.put(Space.PRM, 16, table(1.0)).run()
    assert trap.value.record.code == "LIMIT"


@pytest.mark.parametrize("place", [0, 255, 256])
def test_a_table_that_is_none_traps(place: int) -> None:
    words = table(1.0)
    words[place] = np.nan
    bench = Bench(ScalarSet(rd=3, imm=0), SoftmaxLoss(g=64, gps=1, rec=128, tab=2, sreg=3), target=TARGET)
    with pytest.raises(MachineTrap) as trap:
        bench.put(Space.SPM, 0, bytes(4)).put(Space.PRM, 16, words).run()
    assert trap.value.record.code == "FP_INVALID"


@given(SEEDS, st.integers(-129, 256), st.integers(-129, 257))
@settings(max_examples=often(60))
def test_a_mask_keeps_what_lies_between_two_values(seed: int, low: int, high: int) -> None:
    generator = np.random.default_rng(seed)
    kind = ElementType.U8 if seed % 2 else ElementType.S8
    a, b = codes(generator, 24), codes(generator, 24, kind=kind)
    record = QuantRecord((), za=low, zb=high, lo=-127, hi=127)
    instr = VectorElementwise(fn=Elementwise.MASK, b=64, out=128, c=24, bt=kind)
    bench = Bench(instr, target=TARGET).put(Space.PRM, 0, record.pack())
    found = bench.put(Space.SPM, 0, a).put(Space.SPM, 64, b).run().get(Space.SPM, 128, (24,))
    kept = [max(int(v), -127) if low < int(w) < high else 0 for v, w in zip(a, b, strict=True)]
    assert found.tolist() == kept


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 19), st.sampled_from(MapSum), SEEDS)
@settings(max_examples=often(120))
def test_maps_are_combined_as_the_formulas_say(h: int, w: int, c: int, fn: MapSum, seed: int) -> None:
    generator = np.random.default_rng(seed)
    kinds = [ElementType.U8 if seed >> i & 1 else ElementType.S8 for i in (0, 1)]
    a, b = (codes(generator, h, w, c, kind=kind) for kind in kinds)
    shifts = [int(v) for v in generator.integers(-18, 8, 2)]
    padded = c + c % 2
    rows = np.zeros((ROWS[fn], padded), np.float32)
    rows[:, :c] = generator.standard_normal((ROWS[fn], c)) * 2.0 ** int(generator.integers(-8, 8))
    left: dict[str, Any] = {"a": X, "aps": c, "ars": c * w, "at": kinds[0]}
    right: dict[str, Any] = {"b": G, "bps": c, "brs": c * w, "bt": kinds[1]} if fn is not MapSum.BNF else {}
    more: dict[str, Any] = {"sra": 3, "srb": 4} if fn is MapSum.SADD else {"prm": 1}
    instr = VectorSum(fn=fn, h=h, w=w, c=c, ags=h * w, **left, **right, **more)
    assert not instruction_faults(instr, TARGET, {})
    registers = [ScalarSet(rd=3 + i, imm=s) for i, s in enumerate(shifts)]
    bench = Bench(*registers, instr, target=TARGET).put(Space.SPM, X, a).put(Space.SPM, G, b)
    got = bench.put(Space.PRM, 8, rows).run().get(Space.ACC, 0, (-(-c // COLS), h * w, COLS), np.int32)
    for y, x, n in np.ndindex(h, w, c):
        p, q = int(a[y, x, n]), int(b[y, x, n])
        if fn is MapSum.SADD:
            exact = rsh(p, shifts[0]) + rsh(q, shifts[1])
        else:
            k = [float(row[n]) for row in rows]
            offset = k[1] if fn is MapSum.BNF else f32(f32(q * k[1]) + k[2])
            v = f32(f32(f32(p * k[0]) + offset) * 65536)
            exact = min(max(round(v), -(1 << 30)), 1 << 30)
        assert got[n // COLS, y * w + x, n % COLS] == exact


def test_a_row_that_is_not_finite_traps() -> None:
    bench = Bench(VectorSum(fn=MapSum.BNF, a=X, aps=1, ars=1), target=TARGET).put(Space.SPM, X, bytes(1))
    with pytest.raises(MachineTrap) as trap:
        bench.put(Space.PRM, 0, np.array([np.inf, 0, 0, 0], np.float32)).run()
    assert trap.value.record.code == "FP_INVALID"


@given(
    st.integers(-(2**31), 2**31 - 1),
    st.integers(-(2**31), 2**31 - 1),
    st.integers(0, 65535),
    st.integers(1, 50),
)
@settings(max_examples=often(60))
def test_random_bytes_depend_on_key_and_number_alone(key: int, first: int, rate: int, count: int) -> None:
    instr = VectorRandom(dst=8, n=count, key=3, first=4, rate=rate)
    bench = Bench(ScalarSet(rd=3, imm=key), ScalarSet(rd=4, imm=first), instr, target=TARGET).run()
    expected: list[int] = []
    for i in range(count):
        x = ((first + i) ^ key) % 2**32
        for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
            x = (x ^ x >> shift) * factor % 2**32
        expected.append(int(x >= rate << 16))
    assert bench.get(Space.SPM, 8, (count,), np.uint8).tolist() == expected


def test_the_share_of_zeros_is_the_rate() -> None:
    instr = VectorRandom(n=1 << 14, key=3, rate=1 << 14)
    bench = Bench(ScalarSet(rd=3, imm=77), instr, target=TARGET).run()
    assert (
        abs(bench.get(Space.SPM, 0, (1 << 14,), np.uint8).mean() - 0.75) < 0.017
    )  # five standard deviations


@given(geometry(covered=True), st.integers(1, 19), st.booleans(), SEEDS)
@settings(max_examples=often(60))
def test_depthwise_sums_are_those_of_loops(s: dict[str, Any], c: int, accumulate: bool, seed: int) -> None:
    generator = np.random.default_rng(seed)
    kind = ElementType.U8 if seed % 2 else ElementType.S8
    x, wide = codes(generator, s["ih"], s["iw"], c, kind=kind), codes(generator, s["kh"], s["kw"], c)
    pixels, groups = s["oh"] * s["ow"], -(-c // COLS)
    if pixels * groups > TARGET.acc.rows:
        return
    instr = DepthwiseSums(
        inp=X, wgt=G, c=c, ips=c, irs=c * s["iw"], ags=pixels, xt=kind, accum=int(accumulate), **s
    )
    assert not instruction_faults(instr, TARGET, {})
    before = generator.integers(-(2**31), 2**31, (groups, pixels, COLS)).astype(np.int32)
    bench = Bench(instr, target=TARGET).put(Space.SPM, X, x).put(Space.SPM, G, wide).put(Space.ACC, 0, before)
    found = bench.run().get(Space.ACC, 0, before.shape, np.int32)
    sums = np.zeros((pixels, c), object)
    for y, px, ky, kx, row, column in taps(s):
        for n in range(c):
            sums[y * s["ow"] + px, n] += int(x[row, column, n]) * int(wide[ky, kx, n])
    for place, n in np.ndindex(pixels, c):
        held = int(before[n // COLS, place, n % COLS]) if accumulate else 0
        assert found[n // COLS, place, n % COLS] == (held + sums[place, n] + 2**31) % 2**32 - 2**31


@given(geometry(covered=True), st.integers(1, 19), st.booleans(), SEEDS)
@settings(max_examples=often(60))
def test_depthwise_gradients_are_those_of_loops(
    s: dict[str, Any], c: int, accumulate: bool, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    kinds = [ElementType.U8 if seed >> i & 1 else ElementType.S8 for i in (0, 1)]
    x = codes(generator, s["ih"], s["iw"], c, kind=kinds[0])
    g = codes(generator, s["oh"], s["ow"], c, kind=kinds[1])
    count, groups = s["kh"] * s["kw"], -(-c // COLS)
    instr = DepthwiseGradient(x=X, g=G, c=c, ips=c, irs=c * s["iw"], gps=c, grs=c * s["ow"], xt=kinds[0], gt=kinds[1],
                              accum=int(accumulate), **s)  # fmt: skip
    assert not instruction_faults(instr, TARGET, {})
    before = generator.integers(-(2**31), 2**31, (count, groups, COLS)).astype(np.int32)
    bench = Bench(instr, target=TARGET).put(Space.SPM, X, x).put(Space.SPM, G, g).put(Space.ACC, 0, before)
    found = bench.run().get(Space.ACC, 0, before.shape, np.int32)
    sums = np.zeros((count, c), object)
    for y, px, ky, kx, row, column in taps(s):
        for n in range(c):
            sums[ky * s["kw"] + kx, n] += int(x[row, column, n]) * int(g[y, px, n])
    for place, n in np.ndindex(count, c):
        held = int(before[place, n // COLS, n % COLS]) if accumulate else 0
        assert found[place, n // COLS, n % COLS] == (held + sums[place, n] + 2**31) % 2**32 - 2**31


def test_they_need_the_extension() -> None:
    plain = replace(TARGET, ext=())
    for instr in (
        WeightGradient(g=64, ips=1),
        PoolingGradient(g=64, dx=128),
        SoftmaxLoss(g=64, gps=1, rec=128),
        VectorElementwise(fn=Elementwise.MASK, b=64, out=128),
        VectorSum(b=64),
        DepthwiseSums(wgt=64),
        DepthwiseGradient(g=64),
        VectorRandom(),
    ):
        assert not instruction_faults(instr, TARGET, {})
        assert [f.trap for f in instruction_faults(instr, plain, {})] == [Trap.EXT_MISSING]


@pytest.mark.parametrize(("ips", "more"), [(1, 0), (2, 2 * 4 * 32)])
def test_a_gradient_costs_passes_of_the_weights_and_a_transposer(ips: int, more: int) -> None:
    """64 outputs and 40 channels on 32 x 32: 2 x 2 passes of 9 rows, at least 32 each."""
    t = load_target("edge32")
    instr = WeightGradient(
        oh=8, ow=8, cin=1, cout=40, kh=3, kw=3, ips=ips, irs=20, gps=40, grs=320, ih=10, iw=10
    )
    assert instr.cycles(t) == 4 + 32 + 32 + 32 + 4 * 32 + more // 2


def test_what_leaves_float32_traps_and_writes_nothing() -> None:
    """A unit of logits, a scale by a shift to the left, and sums of normalizations that are infinite or NaN."""
    table = np.exp((np.arange(256) - 255) / 16).astype(np.float32)
    loss = SoftmaxLoss(fn=Loss.PROBS, h=1, c=2, g=G, gps=8, sreg=1)
    bench = Bench(ScalarSet(rd=1, imm=124), loss, target=TARGET)
    bench.put(Space.PRM, 0, np.append(table, np.float32(8)).tobytes())
    shifted = Requantize(mode=Requant.SHR, h=1, w=1, c=1, out=G, sreg=1)
    scaled = Bench(ScalarSet(rd=1, imm=-31), shifted, target=TARGET)
    scaled.put(Space.PRM, 0, np.array((0, 3e38), REQUANT_RECORD).tobytes())
    normalized = VectorSum(fn=MapSum.BNB, h=1, w=1, c=1, a=X, b=X + 1)
    summed = Bench(normalized, target=TARGET)
    summed.put(Space.PRM, 0, np.array((3e38, 0, -3e38, 0, 0, 0), np.float32).tobytes())
    summed.put(Space.SPM, X, np.array((127, 127), np.int8).tobytes())
    for each in (bench, scaled, summed):
        each.put(Space.ACC, 0, np.zeros(COLS, np.int32).tobytes())
        before = each.get(Space.ACC, 0, (COLS,), np.int32)
        with pytest.raises(MachineTrap) as trapped:
            each.run()
        assert trapped.value.record.code == Trap.FP_INVALID.name
        np.testing.assert_array_equal(each.get(Space.ACC, 0, (COLS,), np.int32), before)


def test_gradients_of_many_taps_are_summed_tap_by_tap(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where all taps side by side would be too large."""
    instr = WeightGradient(oh=5, ow=4, cin=3, cout=4, kh=3, kw=2, sh=2, ips=3, irs=18, gps=4, grs=16,
                           ih=10, iw=5, pt=1, pl=0, x=X, g=G)  # fmt: skip
    found: list[Array] = []
    for limit in (1 << 26, 0):
        monkeypatch.setattr(matrix_gradient, "DENSE_LIMIT", limit)
        bench = Bench(instr, target=TARGET)
        bench.put(Space.SPM, X, np.random.default_rng(1).integers(-128, 128, 200).astype(np.int8).tobytes())
        bench.put(Space.SPM, G, np.random.default_rng(2).integers(-127, 128, 80).astype(np.int8).tobytes())
        bench.run()
        found.append(bench.get(Space.ACC, 0, (instr.weights, COLS), np.int32)[:, :4])
    assert found[0].any()
    np.testing.assert_array_equal(found[0], found[1])
