"""Targets: shipped ones, files, overrides, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest

from isa.support.diagnostics import TargetError
from isa.target import capability_shortfalls, load_target, shipped_targets, target_from_json


@pytest.mark.parametrize("name", shipped_targets())
def test_shipped_targets_load_and_survive_their_json(name: str) -> None:
    target = load_target(name)
    assert target.name == name
    assert target_from_json(target.canonical) == target


def test_edge16_differs_from_edge32_as_the_design_says() -> None:
    small, large = load_target("edge16").flat(), load_target("edge32").flat()
    changed = {k: v for k, v in small.items() if large[k] != v}
    assert changed == {"target.name": "edge16", "mx.rows": 16, "mx.cols": 16, "vx.lanes": 32, "spm.bytes": 262144,
                       "spm.port_bytes": 32, "prm.bytes": 16384, "dram.bytes_per_cycle": 8}  # fmt: skip


def test_overrides_change_the_digest() -> None:
    changed = load_target("edge32", ["dram.bytes_per_cycle=32", "spm.interleave=true"])
    assert changed.dram.bytes_per_cycle == 32
    assert changed.spm.interleave
    assert changed.digest != load_target("edge32").digest


def test_a_file_takes_missing_keys_from_its_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[target]\nname = "mine"\nbase = "edge16"\n[dram]\nbytes_per_cycle = 4\n')
    target = load_target(str(path))
    assert (target.name, target.mx.rows, target.dram.bytes_per_cycle) == ("mine", 16, 4)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("spm.bytes", "not of the form"),
        ("spmm.bytes=4096", "no section"),
        ("spm.byte=4096", "no key 'spm.byte'"),
        ("spm.bytes=1.5", "outside"),
        ("spm.bytes=true", "outside"),
        ("spm.interleave=3", "truth value"),
        ("spm.banks=7", "does not divide"),
        ("dma.burst=48", "power of two"),
        ("mx.rows=128", "narrower than the engines"),
        ("mx.cols=12", "multiple of 8"),
        ("target.isa='9.9'", "another ISA version"),
        ("target.ext=['Q']", "extension letters"),
    ],
)
def test_wrong_overrides_are_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(TargetError, match=message) as refused:
        load_target("edge32", [override])
    assert "edge32.toml" not in str(refused.value), "the override is to blame, not the shipped file"


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(TargetError) as refused:
        load_target("edge32", ["spm.bytes=1", "acc.rwos=3", "dram.size=0"])
    assert len(refused.value.diagnostics) == 3


def test_capabilities_are_compared_by_key() -> None:
    small = load_target("edge32", ["spm.bytes=262144", "dram.latency_read=999"])
    assert capability_shortfalls(load_target("edge32"), small) == [("spm.bytes", 524288, 262144)]
    assert capability_shortfalls(small, load_target("edge32")) == []
