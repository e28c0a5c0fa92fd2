"""Edges of the tool: keywords that do not exist, cells of spreadsheets, an interrupt while it is loaded, batches."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from isa.support.diagnostics import UsageError
from runtime.trace import as_csv, cell
from tests.models import model, node, save, save_samples
from x1 import api

BATCHES = Path(__file__).resolve().parents[1] / "cases" / "batch_growth.py"


@pytest.mark.parametrize(
    ("name", "meant"), [("overides", "overrides"), ("symetric", "symmetric"), ("methd", "method")]
)
def test_a_keyword_that_does_not_exist_is_refused_with_a_guess(name: str, meant: str, tmp_path: Path) -> None:
    path = save(model([node("Relu", "x", "y")], {"x": (1, 4)}, "y"), tmp_path)
    compile_: Any = api.compile
    with pytest.raises(UsageError, match=f"no option '{name}'(.|\n)*did you mean '{meant}'"):
        compile_(path, calibrate="random:1", **{name: True})


def test_quantize_refuses_unknown_keywords_too(tmp_path: Path) -> None:
    path = save(model([node("Relu", "x", "y")], {"x": (1, 4)}, "y"), tmp_path)
    quantize: Any = api.quantize
    with pytest.raises(UsageError, match="did you mean 'percentile'"):
        quantize(path, "random:1", percentil=99)


@pytest.mark.parametrize("name", ["=1+1", "+a", "-b", "@c", "\td"])
def test_a_name_is_no_formula_of_a_spreadsheet(name: str, tmp_path: Path) -> None:
    made = model([node("Relu", "x", "y")], {"x": (1, 4)}, "y")
    made.graph.node[0].output[0] = made.graph.output[0].name = name
    binary = api.compile(save(made, tmp_path), calibrate="random:1")
    rows = list(csv.DictReader(as_csv(api.profile(binary)).splitlines()))
    assert rows[0]["name"][0] == "'"
    assert cell(-3) == -3, "numbers stay numbers"


def test_a_name_brings_no_control_character_into_a_cell() -> None:
    assert cell("a\u202eb\x1b[31m\u2028") == "a\\u202eb\\x1b[31m\\u2028"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("wait", [0.03, 0.1, 0.2])
def test_an_interrupt_while_the_tool_is_loaded_ends_with_130(wait: float) -> None:
    """From the first line of the entry point on; before it Python itself ends with the signal."""
    code = "from x1.cli.entry import entry; print('begun', flush=True); entry()"
    arguments = ["profile", "there-is-no-such-file.x1"]
    done = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with done:
        assert done.stdout is not None
        assert done.stdout.readline() == b"begun\n"
        time.sleep(wait)
        done.send_signal(signal.SIGINT)
        _, said = done.communicate()
    assert done.returncode in ((130, 2) if wait > 0.05 else (130,)), said  # it may have ended by itself
    assert b"Traceback" not in said


def test_a_sample_of_a_large_batch_takes_few_instructions(tmp_path: Path) -> None:
    counts: list[int] = []
    for batch in (128, 2048):
        path = tmp_path / f"{batch}.onnx"
        subprocess.run([sys.executable, str(BATCHES), str(batch), str(path)], check=True)
        counts.append(len(api.compile(path, calibrate="random:1").program.instructions))
    assert counts[0] <= 6 * 128
    assert counts[1] / 2048 <= 1.3 * counts[0] / 128


def test_pads_before_a_convolution_cost_nothing(tmp_path: Path) -> None:
    weights = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    apart = [node("Pad", "x p", "a"), node("Conv", "a w", "y")]
    inside = [node("Conv", "x w", "y", pads=[1, 1, 1, 1])]
    cycles: list[int] = []
    for nodes in (apart, inside):
        constants = {"w": weights, "p": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
        path = save(model(nodes, {"x": (1, 3, 300, 300)}, "y", constants), tmp_path)
        cycles.append(api.profile(api.compile(path, calibrate="random:1")).cycles)
    assert cycles[0] <= 1.01 * cycles[1]


def test_no_output_names_a_file_that_the_model_is_made_from(tmp_path: Path) -> None:
    from tests.command_line import x1

    library: Any = onnx
    made = model([node("Gemm", "x w", "y")], {"x": (1, 8)}, "y", {"w": np.ones((8, 64), np.float32)})
    library.save(
        made, str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0
    )
    (tmp_path / "n.net").write_text(
        'model n\nweights "w.npz"\ninput x: float32[1, 8]\ny = Dense(4)(x)\noutput y\n'
    )
    generator = np.random.default_rng(0)
    save_samples(
        tmp_path / "w.npz",
        {"dense/kernel": np.ones((8, 4), np.float32), "dense/bias": np.ones(4, np.float32)},
    )
    (tmp_path / "samples").mkdir()
    save_samples(tmp_path / "samples" / "d.npz", {"x": generator.standard_normal((2, 8)).astype(np.float32)})
    (tmp_path / "link.x1").symlink_to("m.data")
    for network, output in (("m.onnx", "m.data"), ("m.onnx", "link.x1"), ("n.net", "w.npz"),
                            ("m.onnx", "samples/d.npz"), ("m.onnx", "m.onnx")):  # fmt: skip
        before = (tmp_path / output).read_bytes()
        done = x1(["compile", network, "--calibrate", "samples", "-o", output], tmp_path)
        assert done.returncode == 2, (output, done.stderr)
        assert (tmp_path / output).read_bytes() == before
    assert x1(["compile", "m.onnx", "--calibrate", "samples", "-o", "m.x1"], tmp_path).returncode == 0


def test_no_folder_of_outputs_overwrites_a_file_that_is_read(tmp_path: Path) -> None:
    from tests.command_line import x1

    path = save(model([node("Relu", "x", "y")], {"x": (1, 4)}, "y"), tmp_path)
    (tmp_path / "d").mkdir()
    for name in ("0000-x.npy", "manifest.json"):
        save_array: Any = np.save
        with (tmp_path / "d" / name).open("wb") as file:
            save_array(file, np.ones((1, 4), np.float32))
    assert x1(["compile", str(path), "--calibrate", "random:1", "--emit", "nn", "-o", "d/01-infer-shapes.x1ir"],
              tmp_path).returncode == 0  # fmt: skip
    assert x1(["compile", str(path), "--calibrate", "random:1", "-o", "m.x1"], tmp_path).returncode == 0
    (tmp_path / "d" / "m.x1s").symlink_to("../m.x1")
    for words, kept in (
        (["run", "m.x1", "--input", "@d/0000-x.npy", "--dump-tensors", "d"], "0000-x.npy"),
        (["run", "m.x1", "--input", "@d/0000-x.npy", "--expected", "@d/manifest.json", "--dump-tensors", "d/e/.."],
         "manifest.json"),
        (["compile", "d/01-infer-shapes.x1ir", "--calibrate", "random:1", "--dump-dir", "d"], "01-infer-shapes.x1ir"),
        (["disasm", "m.x1", "-d", "d", "--force"], "m.x1s"),
    ):  # fmt: skip
        before = (tmp_path / "d" / kept).read_bytes()
        done = x1(words, tmp_path)
        assert done.returncode == 2, (words, done.stderr)
        assert "give another name" in done.stderr, (words, done.stderr)
        assert (tmp_path / "d" / kept).read_bytes() == before


def test_a_file_may_have_a_name_of_253_bytes(tmp_path: Path) -> None:
    from tests.command_line import x1

    path = save(model([node("Relu", "x", "y")], {"x": (1, 4)}, "y"), tmp_path)
    name = "n" * 250 + ".x1"
    assert x1(["compile", str(path), "--calibrate", "random:1", "-o", name], tmp_path).returncode == 0
    assert (tmp_path / name).is_file()


def test_verify_takes_a_file_alone(tmp_path: Path) -> None:
    import x1

    made = model([node("Relu", "x", "y")], {"x": (1, 4)}, "y")
    path = save(made, tmp_path)
    sample = {"x": np.ones((1, 4), np.float32)}
    save_samples(tmp_path / "d.npz", {"x": np.ones((3, 4), np.float32)})
    for inputs, count in ((sample, 1), ([sample, sample], 2), (tmp_path / "d.npz", 3)):
        result = x1.verify(path, calibrate="random:2", inputs=inputs, target="tiny8")
        assert (result.succeeded, result.samples) == (True, count)
    quantized = x1.quantize(path, "random:2")
    assert x1.verify(quantized, x1.compile(quantized), [sample]).succeeded
    verify: Any = x1.verify
    with pytest.raises(UsageError, match="did you mean 'inputs'"):
        verify(path, calibrate="random:2", input=sample)
