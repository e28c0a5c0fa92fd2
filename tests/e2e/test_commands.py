"""The command line end to end, on the sample that ships and on hand-written programs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any, cast

import jsonschema
import numpy as np
import pytest

from tests import command_line
from tests.command_line import Done, x1_process
from x1.cli.main import COMMANDS
from x1.samples import sample_folder

SAMPLE = sample_folder("mnist")
NETWORK = str(SAMPLE / "mnist.net")
CALIBRATION = str(SAMPLE / "calibration.npz")


def x1(*arguments: str, folder: Path) -> Done:
    return command_line.x1(arguments, folder)


def as_json(*arguments: str, folder: Path) -> dict[str, Any]:
    """The JSON of a command, valid by the schema that ships with the package."""
    done = x1(*arguments, "--json", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    body = json.loads(done.stdout)
    schema = json.loads((resources.files("x1") / "schemas" / f"{arguments[0]}.json").read_text())
    jsonschema.validate(body, schema)
    assert body["schema"] == f"x1.{arguments[0]}/1"
    return body


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a compiled sample and a digit."""
    folder = tmp_path_factory.mktemp("work")
    assert x1("compile", NETWORK, "--calibrate", CALIBRATION, "-o", "mnist.x1", folder=folder).returncode == 0
    with np.load(SAMPLE / "digits.npz") as digits:
        np.save(folder / "digit.npy", digits["inputs"][:1])
        np.savez(folder / "few.npz", inputs=digits["inputs"][:20], labels=digits["labels"][:20])
    return folder


def test_compile_reports_what_it_made(work: Path) -> None:
    body = as_json("compile", NETWORK, "--calibrate", CALIBRATION, "-o", "again.x1", folder=work)
    assert body["sha256"] == hashlib.sha256((work / "again.x1").read_bytes()).hexdigest()
    assert (work / "again.x1").read_bytes() == (work / "mnist.x1").read_bytes()
    assert body["macs"] == 26 * 26 * 9 * 32 + 5408 * 10


@pytest.mark.parametrize("level", ["0", "1", "2", "3"])
def test_levels_are_accepted(level: str, work: Path) -> None:
    body = as_json("compile", NETWORK, "--calibrate", "random:1", f"-O{level}", "-o", "level.x1", folder=work)
    assert body["opt_level"] == int(level)


def test_the_same_bytes_under_two_hash_seeds(work: Path) -> None:
    digests: set[str] = set()
    for seed in ("0", "1"):
        arguments = ["compile", NETWORK, "--calibrate", CALIBRATION, "--target", "tiny8", "-o", "seed.x1"]
        done = x1_process(arguments, work, PYTHONHASHSEED=seed, OPENBLAS_NUM_THREADS=str(int(seed) + 1))
        assert done.returncode == 0
        digests.add(hashlib.sha256((work / "seed.x1").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_the_folder_of_a_model_does_not_reach_the_binary(work: Path, tmp_path: Path) -> None:
    for name in ("mnist.net", "weights.npz", "calibration.npz"):
        (tmp_path / name).write_bytes((SAMPLE / name).read_bytes())
    done = x1("compile", "mnist.net", "--calibrate", "calibration.npz", "-o", "here.x1", folder=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "here.x1").read_bytes() == (work / "mnist.x1").read_bytes()


def test_a_file_whose_name_is_no_text_gives_a_binary_that_can_be_read(tmp_path: Path) -> None:
    for name in ("mnist.net", "weights.npz"):
        (tmp_path / name).write_bytes((SAMPLE / name).read_bytes())
    given = tmp_path / os.fsdecode(b"\xff\n.net")
    (tmp_path / "mnist.net").rename(given)
    as_json("compile", given.name, "--calibrate", "random:1", "-o", "odd.x1", folder=tmp_path)
    assert as_json("check", "odd.x1", folder=tmp_path)["violations"] == []
    done = x1(
        "compile", given.name, "--calibrate", "random:1", "--emit", "q", "-o", "odd.x1ir", folder=tmp_path
    )
    assert done.returncode == 0
    as_json("compile", "odd.x1ir", "-o", "again.x1", folder=tmp_path)
    body = as_json("inspect", "odd.x1", folder=tmp_path)
    assert "\\udcff\\n.net" in json.dumps(body, ensure_ascii=False).replace("\\\\", "\\")


def test_run_gives_probabilities_and_compares(work: Path) -> None:
    body = as_json("run", "mnist.x1", "--input", "@digit.npy", "-o", "out.npz", folder=work)
    assert body["outputs"][0]["shape"] == [1, 10]
    with np.load(work / "out.npz") as out:
        assert out["digit"].argmax() == 7
        np.save(work / "right.npy", out["digit"])
        np.save(work / "wrong.npy", out["digit"] + np.float32(0.25))
    assert as_json("run", "mnist.x1", "--input", "@digit.npy", "--expected", "@right.npy", folder=work)["ok"]
    done = x1("run", "mnist.x1", "--input", "@digit.npy", "--expected", "@wrong.npy", folder=work)
    assert done.returncode == 1
    loose = ("run", "mnist.x1", "--input", "@digit.npy", "--expected", "@wrong.npy", "--atol", "0.3")
    assert as_json(*loose, folder=work)["expected"][0]["mismatches"] == 0


def test_run_loops_over_samples_and_dumps_tensors(work: Path) -> None:
    arguments = (
        "run",
        "mnist.x1",
        "--input",
        "image=@few.npz",
        "--samples",
        "-o",
        "few_out.npz",
        "--dump-tensors",
        "t",
    )
    body = as_json(*arguments, folder=work)
    assert body["outputs"][0]["shape"] == [20, 10]
    manifest = json.loads((work / "t" / "00003" / "manifest.json").read_text(encoding="utf-8"))
    (pooled,) = (row for row in manifest["tensors"] if row["name"] == "max_pooling2d")
    assert (pooled["file"], pooled["dtype"]) == ("0002-max_pooling2d.npy", "int8")
    assert np.load(work / "t" / "00003" / pooled["file"]).shape == (1, 13, 13, 32)


def test_eval_verify_and_check_agree_that_all_is_well(work: Path) -> None:
    evaluated = as_json("eval", NETWORK, "mnist.x1", "--data", "few.npz", folder=work)
    assert evaluated["binary_top1"] == evaluated["quantized_top1"] >= 0.9
    verified = as_json("verify", NETWORK, "--calibrate", CALIBRATION, "--input", "@few.npz", folder=work)
    assert verified["mismatches"] == 0
    assert {t["name"] for t in verified["tensors"]} >= {"image", "conv2d", "flatten", "dense"}
    assert as_json("check", "mnist.x1", folder=work)["violations"] == []


def test_quantize_writes_a_model_that_onnx_runtime_runs_with_the_same_bits(work: Path) -> None:
    as_json("quantize", NETWORK, "--calibrate", CALIBRATION, "-o", "q.onnx", folder=work)
    from tests.oracle import ort

    session = ort.InferenceSession(str(work / "q.onnx"), providers=["CPUExecutionProvider"])
    digit = np.load(work / "digit.npy")
    x1("run", "mnist.x1", "--input", "@digit.npy", "-o", "bits.npz", folder=work)
    with np.load(work / "bits.npz") as out:
        assert session.run(None, {"image": digit})[0].tobytes() == out["digit"].tobytes()


def test_quantize_writes_a_qdq_model_whose_own_binary_has_onnx_runtimes_bits(work: Path) -> None:
    as_json("quantize", NETWORK, "--calibrate", CALIBRATION, "--format", "qdq", "-o", "qdq.onnx", folder=work)
    body = as_json("verify", "qdq.onnx", "--input", "@digit.npy", folder=work)
    assert body["mismatches"] == 0
    assert body["tensors"][-1]["comparable"]
    assert body["tensors"][-1]["elements"] == 10


def test_a_saved_scheme_gives_the_same_binary_and_an_edited_one_another(work: Path) -> None:
    body = as_json("quantize", NETWORK, "--calibrate", CALIBRATION, "--save-scheme", "s.toml", folder=work)
    assert (body["scheme"], body["output"]) == ("s.toml", None)
    as_json("compile", NETWORK, "--scheme", "s.toml", "-o", "by_scheme.x1", folder=work)
    assert (work / "by_scheme.x1").read_bytes() == (work / "mnist.x1").read_bytes()
    text = (work / "s.toml").read_text()
    edited = re.sub(r'"image" = .*', '"image" = { scale = 0.0078125, zero_point = -128 }', text)
    assert edited != text
    (work / "s.toml").write_text(edited)
    as_json("compile", NETWORK, "--scheme", "s.toml", "-o", "edited.x1", folder=work)
    from isa.program import bits_float
    from x1.api import Binary

    image = Binary.load(work / "edited.x1").program.abi.inputs[0]
    assert image.scale_bits is not None
    assert bits_float(image.scale_bits) == 0.0078125


def test_verify_suggests_what_another_method_gives(work: Path) -> None:
    options = ["--calibrate", CALIBRATION, "--input", "@digit.npy", "--per-tensor", "--suggest"]
    body = as_json("verify", NETWORK, *options, folder=work)
    found = {s["name"]: s for s in body["suggestions"]}
    assert found["dense"]["is_output"]
    assert set(found["conv2d"]["alternatives"]) == {
        "--method minmax",
        "--method percentile",
        "--method entropy",
        "without --per-tensor",
        "--symmetric",
        "--equalize",
    }
    assert found["conv2d"]["best"] == "without --per-tensor"


@pytest.mark.parametrize("form", ["nn", "q"])
def test_an_emitted_graph_compiles_to_the_same_program(form: str, work: Path) -> None:
    x1("compile", NETWORK, "--calibrate", CALIBRATION, "--emit", form, "-o", f"{form}.x1ir", folder=work)
    extra = ["--calibrate", CALIBRATION] if form == "nn" else []
    assert x1("compile", f"{form}.x1ir", *extra, "-o", "from_ir.x1", folder=work).returncode == 0
    listings = [x1("disasm", name, folder=work).stdout for name in ("from_ir.x1", "mnist.x1")]
    assert listings[0] == listings[1]


def test_graphs_can_be_printed_dumped_and_stopped_at(work: Path) -> None:
    printed = x1("compile", NETWORK, "--calibrate", "random:1", "-o", "p.x1", "--print-after", "fuse-activation",
                 "--dump-dir", "dumps", folder=work)  # fmt: skip
    assert "// after fuse-activation" in printed.stderr
    assert {p.name for p in (work / "dumps").iterdir()} >= {"01-infer-shapes.x1ir", "09-quantize.x1ir"}
    stopped = x1("compile", NETWORK, "--stop-after", "fold-constants", folder=work)
    assert stopped.stdout.startswith('graph "mnist" stage nn {')


@pytest.mark.parametrize("form", ["text", "json", "dot", "onnx"])
def test_inspect_shows_networks(form: str, work: Path) -> None:
    import onnx.checker

    done = x1("inspect", NETWORK, "--format", form, "-o", "shown", folder=work)
    assert done.returncode == 0
    if form == "onnx":
        model = onnx.ModelProto()
        model.ParseFromString((work / "shown").read_bytes())
        cast("Any", onnx.checker).check_model(model.SerializeToString())


def test_inspect_shows_binaries_and_says_what_is_supported(work: Path) -> None:
    assert "layer 0 conv2d" in x1("inspect", "mnist.x1", folder=work).stdout
    assert as_json("inspect", "mnist.x1", folder=work)["kind"] == "binary"
    assert as_json("inspect", NETWORK, "--supported", folder=work)["supported"]


def test_disassembly_with_sections_gives_the_whole_file_back(work: Path) -> None:
    as_json("disasm", "mnist.x1", "-d", "parts", folder=work)
    as_json("asm", "parts/mnist.x1s", "-o", "same.x1", folder=work)
    assert (work / "same.x1").read_bytes() == (work / "mnist.x1").read_bytes()


def test_targets_are_listed(work: Path) -> None:
    names = [t["target"]["name"] for t in as_json("targets", folder=work)["targets"]]
    assert names == ["edge16", "edge32", "edge64", "tiny8"]


def test_demo_proves_every_tensor(work: Path) -> None:
    body = as_json("demo", folder=work)
    assert body["verify"]["mismatches"] == 0
    assert body["binary_top1"] > 0.97
    assert all(p["digit"] == p["label"] for p in body["predictions"])


def test_hand_written_program_runs(work: Path, repository: Path) -> None:
    source = repository / "samples" / "asm" / "edges.x1s"
    assert as_json("asm", str(source), "-o", "edges.x1", folder=work)["instructions"] > 5
    assert as_json("check", "edges.x1", folder=work)["violations"] == []
    picture = np.zeros((1, 16, 16, 1), np.int8)
    picture[0, 4:12, 4:12] = 100
    np.save(work / "picture.npy", picture)
    as_json("run", "edges.x1", "--input", "@picture.npy", "-o", "edges.npz", folder=work)
    with np.load(work / "edges.npz") as out:
        edges = out["edges"][0, :, :, 0].astype(int)
    padded = np.pad(picture[0, :, :, 0].astype(int), 1)
    neighbours = sum(
        padded[1 + dy : 17 + dy, 1 + dx : 17 + dx] for dy, dx in ((-1, 0), (1, 0), (0, -1), (0, 1))
    )
    np.testing.assert_array_equal(edges, np.clip(4 * padded[1:17, 1:17] - neighbours, 0, 127))


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_with_examples(command: str, work: Path) -> None:
    done = x1(command, "--help", folder=work)
    assert done.returncode == 0
    assert f"x1 {command}" in done.stdout.split("Examples:")[1]


def test_version_names_tool_isa_and_container(work: Path) -> None:
    assert x1("--version", folder=work).stdout == "x1 0.1.0 (ISA 0.2, container 0.5)\n"


def test_version_does_not_import_numpy(work: Path) -> None:
    code = "import sys; from x1.cli.main import main; main(['--version'], standalone_mode=False); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=work, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_inspect_writes_the_form_that_was_asked_for(work: Path) -> None:
    """--format decides the form, -o where it goes, --json what stdout says of it."""
    for source in (NETWORK, "mnist.x1"):
        printed = x1("inspect", source, "--format", "json", folder=work).stdout
        assert json.loads(printed)["schema"] == "x1.inspect/1"
        assert json.loads(x1("inspect", source, "--json", folder=work).stdout)["kind"]
        x1("inspect", source, "--format", "json", "-o", "form.json", folder=work)
        assert json.loads((work / "form.json").read_text())["kind"]
        written = as_json("inspect", source, "--format", "dot", "-o", "form.dot", folder=work)
        assert written["output"] == "form.dot"
        assert (work / "form.dot").read_text().startswith("digraph")
        assert as_json("inspect", source, "--format", "dot", folder=work)["text"].startswith("digraph")
    as_json("inspect", NETWORK, "--format", "onnx", "-o", "form.onnx", folder=work)
    assert (work / "form.onnx").stat().st_size > 100_000


def test_an_interleaving_with_poison_traps_where_a_race_reads_too_early(tmp_path: Path) -> None:
    text = (".target tiny8\n.tensor in x int8 [1, 64] R2\n.tensor out y int8 [1, 64] R3\nld spm 0, R2, n=64{}\n"
            "st spm 0, R3, n=64{}\nhalt\n")  # fmt: skip
    np.save(tmp_path / "x.npy", np.arange(64, dtype=np.int8)[None])
    codes: dict[str, set[int]] = {}
    for name, tokens in (("sound", (" signal(0)", " wait(0)")), ("raced", ("", ""))):
        (tmp_path / f"{name}.x1s").write_text(text.format(*tokens))
        assert x1("asm", f"{name}.x1s", "-o", f"{name}.x1", folder=tmp_path).returncode == 0
        given = ("run", f"{name}.x1", "--input", "@x.npy", "--poison", "--schedule")
        codes[name] = {x1(*given, f"random:{seed}", folder=tmp_path).returncode for seed in range(6)}
    assert codes == {"sound": {0}, "raced": {0, 6}}


@pytest.mark.parametrize("arguments", [["targets"], ["--version"], ["bogus"]])
def test_streams_that_are_closed_are_no_error_of_ours(arguments: list[str], tmp_path: Path) -> None:
    command = " ".join([sys.executable, "-m", "x1", *arguments])
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        done = subprocess.run(
            ["sh", "-c", f"{command} {closed}"], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == (2 if arguments == ["bogus"] else 0)
        assert "Traceback" not in done.stdout + done.stderr
