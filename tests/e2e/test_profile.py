"""Profiles through the command line; lower bounds as an independent script computes them."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_commands import CALIBRATION, NETWORK, as_json, x1
from tests.random_onnx import random_network
from x1 import api
from x1.cli.profile_command import table, why_below

ASSETS = Path(os.environ.get("X1_ASSETS", Path(__file__).resolve().parents[3] / "shared" / "assets"))
needs_assets = pytest.mark.skipif(not ASSETS.exists(), reason="the test assets are not beside the repository")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample, compiled."""
    folder = tmp_path_factory.mktemp("profile")
    assert x1("compile", NETWORK, "--calibrate", CALIBRATION, "-o", "net.x1", folder=folder).returncode == 0
    return folder


def test_profile_counts_every_cycle_once(work: Path) -> None:
    body = as_json("profile", "net.x1", folder=work)
    assert body["macs"] == 26 * 26 * 9 * 32 + 5408 * 10
    assert body["cycles"] >= body["bound_cycles"] > 0
    assert sum(layer["cycles"] for layer in body["per_layer"]) == body["cycles"]
    for key in ("macs", "mx_busy_cycles", "vx_busy_cycles", "dram_read_bytes", "dram_write_bytes"):
        assert sum(layer[key] for layer in body["per_layer"]) == body[key], key
    for engine, busy in (("MX", body["mx_busy_cycles"]), ("VX", body["vx_busy_cycles"])):
        assert busy + sum(body["stall_cycles"][engine].values()) == body["cycles"]


def test_profile_writes_the_table_and_a_trace_that_says_its_unit(work: Path) -> None:
    body = as_json("profile", "net.x1", "--csv", "l.csv", "--trace", "t.json", folder=work)
    with (work / "l.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [layer["name"] for layer in body["per_layer"]]
    trace = json.loads((work / "t.json").read_text(encoding="utf-8"))
    slices = [e for e in trace["traceEvents"] if e["ph"] == "X"]
    assert len(slices) == body["instructions"]
    assert max(e["ts"] + e["dur"] for e in slices) == body["cycles"]
    assert {"layer", "tile", "instruction"} <= slices[0]["args"].keys()
    assert trace["otherData"]["unit"] == "1 us = 1 cycle"
    assert {"MX", "VX", "LD", "ST"} <= {e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}


def test_profile_says_of_every_layer_why_it_is_below_its_bound(work: Path, tmp_path: Path) -> None:
    binaries = [work / "net.x1"]
    for seed in (13, 22, 41, 54):
        made, _ = random_network(seed)
        api.compile(made, calibrate="random:1", search=1).save(tmp_path / f"{seed}.x1")
        binaries.append(tmp_path / f"{seed}.x1")
    hidden = 0
    for binary in binaries:
        found = api.profile(binary)
        lines = table(found).splitlines()
        assert len(lines) == len(found.per_layer) + 2
        for layer, line in zip(found.per_layer, lines[1:], strict=False):
            assert max(layer.mac_utilization, layer.vx_utilization) <= 1
            assert layer.begin <= layer.end <= found.cycles
            assert layer.cycles + layer.hidden >= layer.bound_cycles
            assert bool(why_below(layer)) == (layer.cycles < layer.bound_cycles)
            assert line.endswith(why_below(layer))
            hidden += layer.cycles < layer.bound_cycles
        assert lines[-1].split()[:4] == ["total", f"{found.cycles:,}", "0", f"{found.cycles:,}"]
        clock = api.Binary.load(binary).program.target.clock_mhz
        assert found.milliseconds == round(found.cycles / clock / 1000, 6)
        assert found.inferences_per_second == pytest.approx(1000 / found.milliseconds, rel=1e-2)
    assert hidden > 0


def test_compile_ends_with_the_short_profile(work: Path) -> None:
    body = as_json("compile", NETWORK, "--calibrate", CALIBRATION, "-o", "again.x1", folder=work)
    assert body["profile"]["cycles"] == as_json("profile", "again.x1", folder=work)["cycles"]


@needs_assets
@pytest.mark.parametrize(
    ("network", "settings"),
    [
        ("squeezenet1_1", []),
        pytest.param("mobilenetv2", ["mx.rows=16", "mx.cols=8", "vx.lanes=32"], marks=pytest.mark.nightly),
    ],
)
def test_lower_bound_is_that_of_the_independent_script(
    network: str, settings: list[str], tmp_path: Path
) -> None:
    tools = ASSETS / "tools"
    model = str(tmp_path / "net.onnx")
    subprocess.run([sys.executable, str(tools / "random_net.py"), network, model], check=True, cwd=tmp_path)
    flags = {"mx.rows": "--rows", "mx.cols": "--cols", "vx.lanes": "--lanes"}
    given = [part for s in settings for part in (flags[s.partition("=")[0]], s.partition("=")[2])]
    script = [sys.executable, str(tools / "lower_bound.py"), model, *given]
    expected = json.loads(subprocess.run(script, check=True, capture_output=True, text=True).stdout)
    sets = [part for s in settings for part in ("--set", s)]
    done = x1("compile", model, "--calibrate", "random:1", *sets, "-o", "net.x1", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    body = as_json("profile", "net.x1", folder=tmp_path)
    assert body["bound_cycles"] == expected["bound"]
    assert body["macs"] == expected["macs"]
