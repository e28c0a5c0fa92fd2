"""Wrong input at every command: the message, the exit code, no traceback, nothing half-written.

The messages are pinned in tests/golden/errors/cli.txt.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.command_line import x1, x1_process
from tests.networks import compiled_and_verified, random_graph

CONV = ["x", "w"]


def model(nodes: list[onnx.NodeProto], initializers: list[onnx.TensorProto] | None = None) -> onnx.ModelProto:
    """A model from x (1, 3, 8, 8) to y, not checked."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 8, 8))
    result = helper.make_empty_tensor_value_info("y")
    graph = helper.make_graph(nodes, "g", [image], [result], initializers or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight(name: str = "w") -> onnx.TensorProto:
    values = np.ones((4, 3, 3, 3), np.float32).ravel().tolist()
    return helper.make_tensor(name, TensorProto.FLOAT, (4, 3, 3, 3), values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files that are wrong in one way each, beside sound ones."""
    place = tmp_path_factory.mktemp("wrong")
    sound = model([helper.make_node("Conv", CONV, ["c"], "conv"), helper.make_node("Relu", ["c"], ["y"], "relu")],
                  [weight()])  # fmt: skip
    cases = {
        "sound": sound,
        "unknown_operator": model([helper.make_node("Convv", CONV, ["c"], "first"),
                                   helper.make_node("Frobnicate", ["x"], ["y"], "second")], [weight()]),
        "missing_initializer": model([helper.make_node("Conv", CONV, ["y"], "conv")]),
        "cycle": model([helper.make_node("Relu", ["b"], ["a"], "one"), helper.make_node("Relu", ["a"], ["b"], "two"),
                        helper.make_node("Relu", ["a"], ["y"], "three")]),
    }  # fmt: skip
    cases["wide"] = model(
        [helper.make_node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[70, 70], pads=[69] * 4)]
    )
    for name, proto in cases.items():
        (place / f"{name}.onnx").write_bytes(proto.SerializeToString())
    (place / "text.onnx").write_text("this is not a model\n")
    (place / "syntax.net").write_text(
        'model m\ninput x: float32[1, 8, 8, 3]\ny = Conv2D(4, 3,, padding="same")(x)\nz = ReLU(y)\noutput y z\n'
    )
    (place / "numbers.net").write_text(
        f'model m\nweights "none.npz"\ninput x: float32[{"9" * 30}, 8]\na = Dense({"9" * 5000})(x)\n'
        "input y: float32[1, 8]\nb = Dense(3)(y)\noutput b\n"
    )
    (place / "batch.net").write_text(
        "model m\ninput x: float32[100000, 28, 28, 1]\na = MaxPooling2D(2)(x)\noutput a\n"
    )
    (place / "data.x1s").write_text("the work of others\n")
    (place / "part.toml").write_text('format = "x1.scheme/1"\n[tensors]\n')
    (place / "other.toml").write_text(
        'format = "x1.scheme/1"\n[tensors]\n"inptu" = { scale = 0.1, zero_point = 0 }\n[weights]\n"c" = "tensor"\n'
    )
    (place / "parts").mkdir()
    (place / "parts" / "good.x1s").symlink_to(place / "data.x1s")
    (place / "mistakes.net").write_text(
        "model m\ninput x: float32[1, 8, 8, 3]\na = Conv3D(4, 3)(x)\nb = Conv2D(4, 3)(x)\n"
        'c = MaxPooling2D(2, padding="sam")(z)\nd = MaxPooling2D(2, size=3)(x)\ne = ReLU()(a)\n'
        "f = MaxPooling2D(20)(x)\noutput e, q\n"
    )
    (place / "bad.x1s").write_text("  conv oh=2000\n  frob 3\nhalt\n")
    binary = compiled_and_verified(random_graph(3), "tiny8", samples=1)[0]
    binary.save(place / "good.x1")
    from x1 import api

    (place / "classes.onnx").write_bytes(
        model(
            [
                helper.make_node("Flatten", ["x"], ["y"], "flat"),
            ]
        ).SerializeToString()
    )
    images = np.ones((2, 3, 8, 8), np.float32)
    api.compile(place / "classes.onnx", calibrate=[{"x": images[:1]}]).save(place / "classes.x1")
    np.savez(place / "labels.npz", inputs=images, labels=np.array([3, 192]))
    np.savez(place / "texts.npz", inputs=images, labels=np.array(["a", "b"]))
    (place / "truncated.x1").write_bytes(binary.data[: len(binary.data) // 2])
    shape = binary.program.abi.inputs[0].shape
    np.save(place / "double.npy", np.zeros(shape))
    np.save(place / "shape.npy", np.zeros((*shape[:-1], shape[-1] + 1), np.float32))
    np.save(place / "x.npy", np.zeros(shape, np.float32))
    np.savez(place / "data.npz", inputs=np.zeros((2, 3, 8, 8), np.float32), labels=np.zeros(2, np.int64))
    np.savez(place / "labels_only.npz", labels=np.zeros(3, np.int64))
    (place / "bad_target.toml").write_text(
        '[target]\nname = "mine"\nbase = "edge32"\n[spm]\nbyts = 4096\nbanks = 0\n'
    )
    return place


# name: (arguments, exit code)
CASES = {
    "compile: missing file": (["compile", "none.onnx", "--calibrate", "random:1"], 2),
    "compile: text file named .onnx": (["compile", "text.onnx", "--calibrate", "random:1"], 3),
    "compile: unknown operator": (["compile", "unknown_operator.onnx", "--calibrate", "random:1"], 3),
    "compile: missing initializer": (["compile", "missing_initializer.onnx", "--calibrate", "random:1"], 3),
    "compile: cycle": (["compile", "cycle.onnx", "--calibrate", "random:1"], 3),
    "compile: DSL syntax": (["compile", "syntax.net", "--calibrate", "random:1"], 3),
    "compile: DSL mistakes": (["compile", "mistakes.net", "--calibrate", "random:1"], 3),
    "compile: DSL numbers and missing weights": (["compile", "numbers.net", "--calibrate", "random:1"], 3),
    "compile: a batch beyond the memory": (["compile", "batch.net", "--calibrate", "random:1", "--set",
                                            "dram.size=70000000"], 4),
    "disasm: onto files that hold something else": (["disasm", "good.x1", "-d", "parts"], 2),
    "compile: no calibration": (["compile", "sound.onnx"], 2),
    "compile: calibration without inputs": (["compile", "sound.onnx", "--calibrate", "labels_only.npz"], 2),
    "compile: unknown target": (["compile", "sound.onnx", "--calibrate", "random:1", "--target", "edge23"], 2),
    "compile: unknown key": (["compile", "sound.onnx", "--calibrate", "random:1", "--set", "dram.bytes_per_cycl=4"], 2),
    "compile: value outside its range": (["compile", "sound.onnx", "--calibrate", "random:1", "--set", "spm.bytes=1"], 2),
    "compile: wrong target file": (["compile", "sound.onnx", "--calibrate", "random:1", "--target", "bad_target.toml"], 2),
    "compile: unknown pass": (["compile", "sound.onnx", "--stop-after", "fuse-activations"], 2),
    "compile: a pass that is not run": (["compile", "sound.onnx", "--calibrate", "random:1", "--emit", "nn", "--stop-after",
                                         "permute-on-host"], 2),
    "compile: stop after all": (["compile", "sound.onnx", "--calibrate", "random:1", "--stop-after", "all"], 2),
    "compile: onto the input": (["compile", "sound.onnx", "--calibrate", "random:1", "-o", "sound.onnx"], 2),
    "compile: unknown option": (["compile", "sound.onnx", "--calibratte", "random:1"], 2),
    "compile: unknown method": (["compile", "sound.onnx", "--calibrate", "random:1", "--method", "minmx"], 2),
    "compile: no such folder": (["compile", "sound.onnx", "--calibrate", "random:1", "-o", "none/out.x1"], 2),
    "compile: does not fit": (["compile", "sound.onnx", "--calibrate", "random:1", "--target", "tiny8", "--set",
                               "spm.bytes=1024", "--set", "mx.rows=128", "--set", "mx.cols=128", "--set",
                               "spm.port_bytes=128"], 4),
    "quantize: missing file": (["quantize", "none.onnx", "--calibrate", "random:1", "-o", "q.onnx"], 2),
    "quantize: unknown operator": (["quantize", "unknown_operator.onnx", "--calibrate", "random:1", "-o", "q.onnx"], 3),
    "quantize: unknown format": (["quantize", "sound.onnx", "--calibrate", "random:1", "-o", "q.onnx", "--format", "qop"], 2),
    "quantize: nothing to write": (["quantize", "sound.onnx", "--calibrate", "random:1"], 2),
    "quantize: neither samples nor scheme": (["quantize", "sound.onnx", "-o", "q.onnx"], 2),
    "quantize: percentile": (["quantize", "sound.onnx", "--calibrate", "random:1", "-o", "q.onnx", "--method", "percentile",
                              "--percentile", "101"], 2),
    "quantize: a scheme that lacks a tensor": (["quantize", "sound.onnx", "--scheme", "part.toml", "-o", "q.onnx"], 3),
    "quantize: a scheme of another network": (["quantize", "sound.onnx", "--scheme", "other.toml", "-o", "q.onnx"], 2),
    "quantize: a scheme that is no TOML": (["quantize", "sound.onnx", "--scheme", "bad.x1s", "-o", "q.onnx"], 2),
    "compile: a missing scheme": (["compile", "sound.onnx", "--scheme", "none.toml"], 2),
    "verify: suggest without samples": (["verify", "sound.onnx", "--scheme", "part.toml", "--input", "@x.npy",
                                         "--suggest"], 2),
    "run: missing file": (["run", "none.x1", "--input", "@x.npy"], 2),
    "run: truncated binary": (["run", "truncated.x1", "--input", "@x.npy"], 5),
    "run: text file": (["run", "text.onnx", "--input", "@x.npy"], 5),
    "run: wrong dtype": (["run", "good.x1", "--input", "@double.npy"], 2),
    "run: wrong shape": (["run", "good.x1", "--input", "@shape.npy"], 2),
    "run: misspelt input": (["run", "good.x1", "--input", "xx=@x.npy"], 2),
    "run: missing input file": (["run", "good.x1", "--input", "@none.npy"], 2),
    "run: not an array": (["run", "good.x1", "--input", "@text.onnx"], 2),
    "run: input given twice": (["run", "good.x1", "--input", "x=@x.npy", "--input", "x=@shape.npy"], 2),
    "run: negative tolerance": (["run", "good.x1", "--input", "@x.npy", "--expected", "@x.npy", "--atol", "-1"], 2),
    "run: onto its input": (["run", "good.x1", "--input", "@x.npy", "-o", "x.npy"], 2),
    "run: onto nothing": (["run", "good.x1", "--input", "@x.npy", "-o", ""], 2),
    "run: schedule": (["run", "good.x1", "--input", "@x.npy", "--schedule", "random:x"], 2),
    "compile: a folder": (["compile", ".", "--calibrate", "random:1"], 2),
    "compile: onto its calibration data": (["compile", "sound.onnx", "--calibrate", "data.npz", "-o", "data.npz"], 2),
    "inspect: kernel beyond the machine": (["inspect", "wide.onnx", "--supported"], 3),
    "run: other target": (["run", "good.x1", "--input", "@x.npy", "--target", "edge32"], 2),
    "eval: missing file": (["eval", "none.onnx", "good.x1", "--data", "data.npz"], 2),
    "eval: another network's binary": (["eval", "sound.onnx", "good.x1", "--data", "data.npz"], 2),
    "eval: labels beyond the classes": (["eval", "classes.onnx", "classes.x1", "--data", "labels.npz"], 2),
    "eval: labels that are no numbers": (["eval", "classes.onnx", "classes.x1", "--data", "texts.npz"], 2),
    "verify: missing file": (["verify", "none.onnx", "--calibrate", "random:1", "--input", "@x.npy"], 2),
    "verify: no calibration": (["verify", "sound.onnx", "--input", "@x.npy"], 2),
    "verify: wrong shape": (["verify", "sound.onnx", "--calibrate", "random:1", "--input", "@shape.npy"], 2),
    "check: missing file": (["check", "none.x1"], 2),
    "check: truncated binary": (["check", "truncated.x1"], 5),
    "inspect: missing file": (["inspect", "none.onnx"], 2),
    "inspect: unsupported": (["inspect", "unknown_operator.onnx", "--supported"], 3),
    "asm: missing file": (["asm", "none.x1s", "-o", "out.x1"], 2),
    "asm: mistakes": (["asm", "bad.x1s", "-o", "out.x1"], 3),
    "disasm: truncated binary": (["disasm", "truncated.x1"], 5),
    "targets: surplus argument": (["targets", "edge32"], 2),
    "demo: unknown target": (["demo", "--target", "edge"], 2),
    "misspelt command": (["complie", "sound.onnx"], 2),
}  # fmt: skip


PLAIN = {"NO_COLOR": "1", "COLUMNS": "100"}


@pytest.mark.parametrize("name", CASES)
def test_wrong_input_is_refused_with_a_message(
    name: str, folder: Path, golden: Callable[[str, str], None]
) -> None:
    arguments, code = CASES[name]
    before = sorted(p.name for p in folder.rglob("*"))
    done = x1(arguments, folder, **PLAIN)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stdout == ""
    assert sorted(p.name for p in folder.rglob("*")) == before, "something was left behind"
    file = "".join(c if c.isalnum() else "_" for c in name)
    golden(f"errors/cli/{file}.txt", f"$ x1 {' '.join(arguments)}\n{done.stderr}exit {done.returncode}\n")


@pytest.mark.parametrize("name", list(CASES)[::8])
def test_json_says_the_same_in_a_process_of_its_own(name: str, folder: Path) -> None:
    arguments, code = CASES[name]
    done = x1_process([*arguments, "--json"], folder, **PLAIN)
    body = json.loads(done.stdout)
    assert (body["ok"], body["exit_code"], done.returncode) == (False, code, code)
    assert body["diagnostics"]


def test_a_mistake_of_ours_names_a_file_and_shows_no_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from x1.cli import targets_command
    from x1.cli.main import main
    from x1.cli.result import run_command

    def broken() -> list[str]:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(targets_command, "shipped_targets", broken)
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert run_command(main, ["targets"]) == 70
    (report,) = folder.glob("x1-error-*.txt")
    assert "planted" in report.read_text()
    report.unlink()
