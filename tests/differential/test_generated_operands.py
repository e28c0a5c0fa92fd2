"""Pooling, shifts, copies and moves on generated geometry: ONNX Runtime, exact fractions or numpy as the judge."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from isa.instructions.control import Halt
from isa.instructions.dma import Load, OnChip, Store
from isa.instructions.vector import Pool, Pooling, Requant, Requantize, VectorMove
from isa.memory_map import REQUANT_RECORD, Region, Space
from isa.program import Program
from isa.spec import ElementType
from isa.target import load_target
from isa.validate import instruction_faults
from runtime.state import CoreState
from tests.bench import Bench, execute
from tests.operands import Array, clamped, codes, dyadic, odd
from tests.oracle import Nodes, run, scalar, zero

TARGET = load_target("edge16")
COLS = TARGET.mx.cols
OUT = 1 << 16
BYTES = st.sampled_from([ElementType.S8, ElementType.U8])
SEEDS = st.integers(0, 1 << 30)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """The attributes of a pooling operator, and the shape (h, w, c) of its input."""
    kernel = [draw(st.integers(1, 5)), draw(st.integers(1, 4))]
    pads = [draw(st.integers(0, k - 1)) for k in (*kernel, *kernel)]
    shape = [draw(st.integers(max(1, k - pads[i] - pads[i + 2]), 9)) for i, k in enumerate(kernel)]
    strides = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    return {
        "kernel_shape": kernel,
        "strides": strides,
        "pads": pads,
        "shape": (*shape, draw(st.integers(1, 37))),
    }


def pooled(instr: Pooling, x: Array, sx: np.float32, sy: np.float32, zeros: list[int]) -> Array:
    record = clamped(instr.xt, sx, sy, za=zeros[0], zo=zeros[1])
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x).put(Space.PRM, 0, record.pack()).run()
    return bench.get(Space.SPM, OUT, (instr.oh, instr.ow, instr.ops), instr.ot.dtype)[..., : instr.c]


@given(windows(), BYTES, st.sampled_from(["max", "average", "average with padding"]), SEEDS)
@settings(max_examples=150)
def test_pooling_is_onnx_runtimes(window: dict[str, Any], kind: ElementType, how: str, seed: int) -> None:
    generator = np.random.default_rng(seed)
    shape = window.pop("shape")
    assume(tuple(window["kernel_shape"]) != shape[:2])  # ONNX Runtime makes a global average of that
    x = codes(generator, *shape, kind=kind)
    sx, sy = dyadic(generator, -5, 1), dyadic(generator, -5, 1)
    zeros = odd(generator, 2, kind)
    constants = {"sx": scalar(sx), "zx": zero(zeros[0], kind.dtype), "sy": scalar(sy),
                 "zy": zero(zeros[1], kind.dtype)}  # fmt: skip
    nodes: Nodes = [("MaxPool", ["x"], "y", window)]
    if how != "max":
        include = {"count_include_pad": int(how == "average with padding")}
        nodes = [("QLinearAveragePool", ["x", "sx", "zx", "sy", "zy"], "y", window | include)]
    expected = run(nodes, {"x": x.transpose(2, 0, 1)[None].copy()}, constants, "y")[0].transpose(1, 2, 0)
    (kh, kw), (sh, sw), (pt, pl, *_) = (window[n] for n in ("kernel_shape", "strides", "pads"))
    (h, w, c), (oh, ow, _) = shape, expected.shape
    instr = Pooling(
        fn=Pool.MAX if how == "max" else Pool.AVG, out=OUT, oh=oh, ow=ow, c=c, kh=kh, kw=kw, sh=sh, sw=sw, ips=c,
        irs=w * c, ih=min(h, (oh - 1) * sh + kh - pt), iw=min(w, (ow - 1) * sw + kw - pl), pt=pt, pl=pl,
        ops=c + 3, ors=(c + 3) * ow, cip=int(how == "average with padding"), xt=kind, ot=kind,
    )  # fmt: skip
    np.testing.assert_array_equal(pooled(instr, x, sx, sy, zeros), expected)


WIDE = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-300, 300),
                 st.sampled_from([2**31 - 1, -(2**31), 2**24 + 1, -(2**24) - 1]))  # fmt: skip


@given(
    st.lists(WIDE, min_size=1, max_size=COLS),
    st.integers(-64, 63),
    st.integers(-128, 127),
    st.booleans(),
    SEEDS,
)
@settings(max_examples=200)
def test_shifts_round_half_to_even_and_saturate(
    sums: list[int], shift: int, bound: int, raw: bool, seed: int
) -> None:
    """Mode shr, of sums that float32 holds, against exact fractions; mode raw against the sum modulo 2^32."""
    generator = np.random.default_rng(seed)
    bias = [int(b) for b in generator.choice([0, 1, -1, 2**31 - 1, -(2**31)], len(sums))]
    records = np.zeros(len(sums), REQUANT_RECORD)
    records["bias"], records["m"] = bias, 1
    lo, hi = min(bound, 3), max(bound, 3)
    fields: dict[str, Any] = {"out": OUT, "c": len(sums), "perch": 1}
    if raw:
        instr = Requantize(mode=Requant.RAW, ot=ElementType.S32, **fields)
    else:
        instr = Requantize(mode=Requant.SHR, shift=shift, lo=lo, hi=hi, **fields)
    bench = Bench(instr, target=TARGET).put(Space.ACC, 0, np.array(sums, np.int32)).put(Space.PRM, 0, records)
    wrapped = [(a + b + 2**31) % 2**32 - 2**31 for a, b in zip(sums, bias, strict=True)]
    got = bench.run().get(Space.SPM, OUT, (len(sums),), np.int32 if raw else np.int8).tolist()
    held = [int(np.float32(v)) for v in wrapped]
    exact = [
        round(Fraction(v) / Fraction(2) ** max(shift, -31)) for v in held
    ]  # Python rounds halves to even
    assert got == (wrapped if raw else [min(max(v, lo), hi) for v in exact])


@given(st.data())
@settings(max_examples=150)
def test_copies_to_the_chip_and_back_keep_a_strided_box(data: st.DataObject) -> None:
    space = data.draw(st.sampled_from(["spm", "acc", "prm"]))
    unit = {"spm": 1, "acc": 4 * COLS, "prm": 8}[space]
    step = {"spm": 1, "acc": 4, "prm": 8}[space]
    n0 = step * data.draw(st.integers(1, 4 * COLS // step))
    n1, n2 = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    rows = -(-n0 // unit)  # address units that a row covers
    ls1 = rows + data.draw(st.integers(0, 3)) if n1 > 1 else 0
    ls2 = n1 * max(ls1, rows) + data.draw(st.integers(0, 3)) if n2 > 1 else 0
    ds1, ds2 = (data.draw(st.integers(0, 200)) if n > 1 else 0 for n in (n1, n2))
    place = OnChip[space.upper()]
    fields: dict[str, Any] = {"space": place, "loc": data.draw(st.integers(0, 5)), "n0": n0, "n1": n1, "n2": n2,
                              "ls1": ls1, "ls2": ls2}  # fmt: skip
    load = Load(dram=data.draw(st.integers(0, 50)), ds1=ds1, ds2=ds2, **fields)
    content = np.random.default_rng(data.draw(SEEDS)).integers(0, 256, 2048).astype(np.uint8)
    expected = np.array(
        [[content[load.dram + j * ds2 + i * ds1 :][:n0] for i in range(n1)] for j in range(n2)]
    )
    dense: dict[str, Any] = {"ds1": n0 if n1 > 1 else 0, "ds2": n0 * n1 if n2 > 1 else 0}
    back = () if space == "prm" else (Store(region=1, **fields, **dense),)
    program = Program(TARGET, (load, *back, Halt()), content.tobytes(), arena_bytes=expected.size)
    assume(not any(instruction_faults(i, TARGET, program.region_sizes()) for i in (load, *back)))
    state = CoreState(program)
    execute(state)
    memory = state.chip[Space(int(place))].bytes
    starts = [[(load.loc + j * ls2 + i * ls1) * unit for i in range(n1)] for j in range(n2)]
    np.testing.assert_array_equal([[memory[s : s + n0] for s in row] for row in starts], expected)
    if back:
        np.testing.assert_array_equal(state.fetch(Region.ARENA, 0, expected.size), expected.ravel())


@given(st.tuples(*[st.integers(1, 5)] * 4), st.tuples(*[st.booleans()] * 3), st.booleans(), SEEDS)
@settings(max_examples=100)
def test_moves_turn_axes_round_and_look_bytes_up(
    shape: tuple[int, int, int, int], turned: tuple[bool, bool, bool], mapped: bool, seed: int
) -> None:
    """Negative pitches read an axis backwards, as a slice with step -1 does."""
    generator = np.random.default_rng(seed)
    x, table = codes(generator, *shape), generator.integers(0, 256, 256).astype(np.uint8)
    view = x[tuple(slice(None, None, -1) if t else slice(None) for t in turned)]
    base = sum((n - 1) * s for n, s, t in zip(shape, x.strides, turned, strict=False) if t)
    levels: dict[str, Any] = {}
    for level, axis in ((3, 0), (2, 1), (1, 2)):
        levels[f"n{level}"] = shape[axis]
        if shape[axis] > 1:
            levels[f"ss{level}"], levels[f"dd{level}"] = view.strides[axis], x.strides[axis]
    instr = VectorMove(src=base, dst=OUT, n0=shape[3], lut=4 if mapped else 0, **levels)
    bench = Bench(instr, target=TARGET).put(Space.SPM, 0, x).put(Space.PRM, 1024, table).run()
    expected = table[view.view(np.uint8)] if mapped else view.view(np.uint8)
    np.testing.assert_array_equal(bench.get(Space.SPM, OUT, shape, np.uint8), expected)
