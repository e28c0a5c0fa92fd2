"""Machines of any legal size: a network compiles, its binary is right, or the machine is too small for it."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import numpy as np
import pytest

from compiler.errors import FitError
from isa.target import Target, load_target
from tests.random_onnx import random_network
from tests.random_targets import random_target
from x1 import api
from x1.lab.verification import verify

SEEDS: Final = (1, 2, 5)
SOFTMAX_BYTES: Final = 1024 + 40
"""The parameters of a softmax: a table of 256 float32, and a record."""
SMALL_SPM: Final = 2048
"""Below this a tile of one row of a window, its weights and the gaps between buffers may not fit."""
LARGER: Final = ("spm.bytes", "acc.rows", "prm.bytes", "dram.size", "ctl.sems", "ctl.queue_depth")


@cache
def networks() -> list[tuple[api.Model, dict[str, Any]]]:
    """Random networks on integers, and a sample for each."""
    import tempfile
    from pathlib import Path

    made: list[tuple[api.Model, dict[str, Any]]] = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{seed}.onnx"
            path.write_bytes(random_network(seed)[0].SerializeToString())
            loaded = api.load_network(path)
        generator = np.random.default_rng(seed)
        shapes = loaded.input_shapes.items()
        samples = [{n: generator.standard_normal(s).astype(np.float32) for n, s in shapes} for _ in range(2)]
        quantized = api.quantize(loaded, samples)
        quantized.source = None  # the file is gone; the integers are what is judged
        made.append((quantized, samples[0]))
    return made


def refusal(model: api.Model, machine: Target) -> str:
    """Why a machine is too small, or nothing."""
    try:
        api.compile(model, machine, search=1)
    except FitError as error:
        return error.diagnostics[0].message
    return ""


@pytest.mark.parametrize(
    "seeds", [range(30), pytest.param(range(30, 600), marks=pytest.mark.nightly)], ids=["day", "night"]
)
def test_a_machine_is_refused_for_its_size_alone(seeds: range) -> None:
    fitting = 0
    for seed in seeds:
        machine, overrides = random_target(seed)
        for model, _ in networks():
            why = refusal(model, machine)
            fitting += not why
            small = machine.prm.bytes < SOFTMAX_BYTES if " of prm" in why else machine.spm.bytes < SMALL_SPM
            assert not why or small or "DRAM" in why, (seed, why, overrides)
    assert fitting >= 0.8 * len(seeds) * len(SEEDS)


@pytest.mark.parametrize(
    "seeds", [range(4), pytest.param(range(4, 100), marks=pytest.mark.nightly)], ids=["day", "night"]
)
def test_binaries_for_random_machines_have_the_right_bits_and_larger_machines_take_them(seeds: range) -> None:
    for seed in seeds:
        machine, overrides = random_target(1000 + seed)
        larger = load_target("edge32", [*overrides, *(f"{k}={_more(machine, k)}" for k in LARGER)])
        for model, sample in networks():
            if refusal(model, machine):
                continue
            result = verify(model, api.compile(model, machine, search=1), [sample])
            assert result.succeeded, (seed, result.first_divergence)
            assert not refusal(model, larger), (seed, overrides)


def _more(machine: Target, key: str) -> int:
    """Twice a size, where the schema allows that."""
    value = machine.flat()[key]
    assert isinstance(value, int)
    most = {
        "ctl.sems": 32,
        "spm.bytes": 1 << 23,
        "acc.rows": 1 << 14,
        "prm.bytes": 1 << 19,
        "ctl.queue_depth": 1024,
    }
    return min(2 * value, most.get(key, 1 << 37))
