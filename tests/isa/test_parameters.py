"""Spoilt parameter records: `check` finds in the file what the machine would trap on."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import pytest

import x1
from isa.faults import MachineTrap
from isa.instructions.vector import Pooling
from isa.instructions.vector_depthwise import DepthwiseConv
from isa.instructions.vector_elementwise import VectorElementwise
from isa.instructions.vector_reduce import VectorReduce
from isa.program import Program
from isa.support.records import replace
from tests import models

SHAPE = (1, 4, 5, 6)
X = {"x": np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)}
WORDS = (*(struct.pack("<f", v) for v in (np.nan, -1.0, np.inf)), b"\x7f\x7f\x80\x80")
"""What a word of the section is made: no scale, no scale, no offset, bounds the wrong way round."""


def program() -> Program:
    """Every instruction with a record: requantization, depthwise, averages, sums, slopes, reductions, softmax."""
    r = np.random.default_rng(1)
    f: Callable[..., np.ndarray[tuple[int, ...], np.dtype[np.float32]]]
    f = lambda *shape: r.standard_normal(shape).astype(np.float32)  # noqa: E731
    nodes = [
        models.node("Conv", "x w", "a", pads=[1, 1, 1, 1]),
        models.node("Conv", "a d", "b", group=4, pads=[1, 1, 1, 1]),
        models.node("PRelu", "b s", "c"),
        models.node("Add", "c a", "e"),
        models.node("AveragePool", "e", "g", kernel_shape=[2, 2]),
        models.node("ReduceMean", "g", "h", axes=[1], keepdims=1),
        models.node("Mul", "g h", "i"),
        models.node("Flatten", "i", "j"),
        models.node("Gemm", "j v", "k"),
        models.node("Softmax", "k", "y", axis=1),
    ]
    constants = {"w": f(4, 4, 3, 3), "d": f(4, 1, 3, 3), "s": f(4, 1, 1), "v": f(80, 5)}
    made = models.model(nodes, {"x": SHAPE}, "y", constants, opset=17)
    return x1.compile(made, calibrate=[X], search=1).program


def trapped(spoilt: Program) -> str:
    """The code of the trap that a run ends with; empty for none."""
    try:
        x1.Session(spoilt).run(None, X)
    except MachineTrap as trap:
        return trap.record.code
    return ""


def test_the_network_reads_records_in_every_way() -> None:
    kinds = {type(i) for i in program().instructions}
    assert kinds >= {Pooling, DepthwiseConv, VectorElementwise, VectorReduce}


@pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("word", WORDS, ids=["nan", "negative", "infinite", "turned"])
def test_check_finds_the_records_that_a_run_traps_on(word: bytes, step: int) -> None:
    whole = program()
    assert not x1.check(x1.Binary(whole, b"")).violations
    found = 0
    for at in range(0, len(whole.params), 4 * step):
        spoilt = replace(whole, params=whole.params[:at] + word + whole.params[at + 4 :])
        violations = x1.check(x1.Binary(spoilt, b"")).violations
        code = trapped(spoilt)
        assert bool(violations) == bool(code), (at, violations, code)
        assert code in {"", *(v.rule for v in violations)}
        found += bool(code)
    assert found
