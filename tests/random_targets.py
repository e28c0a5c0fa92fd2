"""Random legal machines: every key of a target file within its range, aligned sizes and others."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from isa.support.diagnostics import X1Error
from isa.support.records import descriptions
from isa.target import SECTIONS, Target, load_target

LIMITS: Final[dict[str, tuple[int, int]]] = {
    "mx.rows": (1, 64), "mx.cols": (1, 64), "vx.lanes": (1, 128), "spm.bytes": (1024, 1 << 20),
    "acc.rows": (8, 4096), "prm.bytes": (512, 1 << 16), "dram.size": (1 << 16, 1 << 30), "ctl.queue_depth": (1, 64),
    "spm.port_bytes": (1, 256),
}  # fmt: skip
"""Narrower than the schema, so that most machines are of a size that somebody would build."""


def _number(r: np.random.Generator, low: int, high: int, *, power: bool) -> int:
    """A size, as likely in every octave; a power of two, or just about any number."""
    value = int(math.exp(r.uniform(math.log(max(low, 1)), math.log(high + 1))))
    value = min(max(value, low), high)
    if power or r.random() < 0.5:
        rounded = 1 << max(value.bit_length() - 1, 0)
        return rounded if low <= rounded <= high else value
    return value


def random_target(seed: int) -> tuple[Target, list[str]]:
    """A machine that the loader accepts, and what makes it of edge32."""
    r = np.random.default_rng(seed)
    while True:
        overrides: list[str] = []
        for section, kind in SECTIONS.items():
            for name, said in descriptions(kind):
                key = f"{section}.{name}"
                if r.random() < 0.35:
                    continue
                overrides.append(f"{key}={_value(r, key, said)}")
        try:
            return load_target("edge32", overrides), overrides
        except X1Error:  # sizes that do not go together: another draw
            continue


def _value(r: np.random.Generator, key: str, said: Any) -> str:
    if "low" not in said:
        return "true" if r.random() < 0.5 else "false"
    low, high = LIMITS.get(key, (said["low"], min(said["high"], 4096)))
    value = _number(r, low, high, power=bool(said.get("pow2")))
    if key == "prm.bytes":
        value = max(value // 256 * 256, 512)
    return str(value)
