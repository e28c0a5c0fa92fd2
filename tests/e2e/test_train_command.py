"""`x1 train` end to end: fine-tuning, fresh weights, checkpoints that survive being killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from tests.command_line import Done, x1, x1_process
from x1.samples import sample_folder

SAMPLE = sample_folder("mnist")
SMALL = """\
model small
input image: float32[1, 28, 28, 1]
c = Conv2D(4, 5, strides=3, activation="relu")(image)
f = Flatten()(c)
d = Dense(10, activation="softmax")(f)
output d
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network and some digits."""
    folder = tmp_path_factory.mktemp("train")
    (folder / "small.net").write_text(SMALL)
    with np.load(SAMPLE / "digits.npz") as digits:
        np.savez(folder / "digits.npz", inputs=digits["inputs"][:100], labels=digits["labels"][:100])
        np.savez(folder / "wrong.npz", inputs=digits["inputs"][:100], labels=digits["labels"][:100] + 5)
        np.savez(folder / "small.npz", inputs=digits["inputs"][:10, :20], labels=digits["labels"][:10])
    product = "p = Multiply()([c, c])\nf = Flatten()(p)"
    (folder / "product.net").write_text(SMALL.replace("f = Flatten()(c)", product))
    calibrated = ["--calibrate", str(SAMPLE / "calibration.npz"), "-o", "plain.x1"]
    assert x1(["compile", str(SAMPLE / "mnist.net"), *calibrated], folder).returncode == 0
    plain = (folder / "plain.x1").read_bytes()
    (folder / "older.x1").write_bytes(plain[:48] + (1).to_bytes(4, "little") + plain[52:])  # ISA 0.1
    return folder


def train(folder: Path, *arguments: str) -> Done:
    return x1(["train", *arguments], folder)


FRESH = (
    "small.net",
    "--data",
    "digits.npz",
    "--init",
    "glorot",
    "--batch",
    "20",
    "--validation-split",
    "0.2",
)


def test_a_network_is_trained_and_the_binary_evaluated(work: Path) -> None:
    done = train(
        work, *FRESH, "--epochs", "3", "--optimizer", "adam", "--lr", "0.005", "-o", "small.x1", "--json"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    body: dict[str, Any] = json.loads(done.stdout)
    schema = json.loads((resources.files("x1") / "schemas" / "train.json").read_text())
    jsonschema.validate(body, schema)
    assert (body["epochs"], body["steps"]) == (3, 12)
    assert set(body["history"]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert body["history"]["loss"][2] < body["history"]["loss"][0]
    assert x1(["check", "small.x1", "--stream", "train"], work).returncode == 0
    assert "cycles on edge32" in x1(["profile", "small.x1", "--stream", "train"], work).stdout
    assert " steps a second" in x1(["profile", "small.x1", "--stream", "train"], work).stdout
    with np.load(work / "digits.npz") as digits:
        np.savez(work / "last.npz", x_test=digits["inputs"][80:, ..., 0], y_test=digits["labels"][80:])
    done = x1(["eval", "small.x1", "--data", "last.npz", "--json"], work)
    evaluated = json.loads(done.stdout)
    jsonschema.validate(evaluated, json.loads((resources.files("x1") / "schemas" / "eval.json").read_text()))
    assert evaluated["samples"] == 20
    assert evaluated["loss"] == body["history"]["val_loss"][-1]
    assert evaluated["accuracy"] == body["history"]["val_accuracy"][-1]


def test_a_trained_binary_is_verified_as_it_is(work: Path) -> None:
    assert train(work, *FRESH, "--epochs", "1", "-o", "judged.x1").returncode == 0
    done = x1(["verify", "judged.x1", "--input", "@digits.npz", "--json"], work)
    assert done.returncode == 0, done.stdout
    body = json.loads(done.stdout)
    jsonschema.validate(body, json.loads((resources.files("x1") / "schemas" / "verify.json").read_text()))
    assert [(t["name"], t["elements"], t["comparable"]) for t in body["tensors"]] == [
        ("conv2d/y", 25_600, True),
        ("flatten", 25_600, True),
        ("probabilities", 1000, False),
    ]
    assert (body["mismatches"], body["evaluator_mismatches"]) == (0, 0)
    done = x1(["verify", "judged.x1", "--input", "@digits.npz", "--calibrate", "random:4"], work)
    assert done.returncode == 2
    assert "remedy: leave --calibrate out" in done.stderr


def test_a_binary_trains_on_as_if_it_had_not_stopped(work: Path) -> None:
    assert train(work, *FRESH, "--epochs", "3", "-o", "through.x1").returncode == 0
    assert train(work, *FRESH, "--epochs", "1", "-o", "parts.x1").returncode == 0
    done = train(work, "parts.x1", "--data", "digits.npz", "--epochs", "3", "-o", "parts.x1")
    assert done.returncode == 0, done.stderr
    assert "epoch 2/3 - loss: " in done.stderr
    assert (work / "parts.x1").read_bytes() == (work / "through.x1").read_bytes()


def test_a_binary_that_stands_alone_is_one_of_training(work: Path) -> None:
    done = x1(["eval", "small.net", "--data", "digits.npz"], work)
    assert done.returncode == 2
    assert "remedy: name the binary that was compiled from it" in done.stderr


def test_a_trained_network_is_tuned_further(work: Path) -> None:
    arguments = [str(SAMPLE / "mnist.net"), "--data", "digits.npz", "--epochs", "1", "--lr", "1e-4"]
    done = train(work, *arguments, "-o", "tuned.x1", "--json")
    assert json.loads(done.stdout)["history"]["accuracy"][0] > 0.9


WRONG = {
    "labels": ("small.net", "--data", "wrong.npz", "--init", "glorot"),
    "shape": ("small.net", "--data", "small.npz", "--init", "glorot"),
    "batch": ("small.net", "--data", "digits.npz", "--init", "glorot", "--batch", "101"),
    "loss": ("small.net", "--data", "digits.npz", "--init", "glorot", "--loss", "hinge"),
    "optimizer": ("small.net", "--data", "digits.npz", "--init", "glorot", "--optimizer", "adamm"),
    "weights": ("small.net", "--data", "digits.npz"),
    "no training": ("plain.x1", "--data", "digits.npz"),
    "another version": ("older.x1", "--data", "digits.npz"),
    "no file": ("missing.x1", "--data", "digits.npz"),
    "no gradient": ("product.net", "--data", "digits.npz", "--init", "glorot"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_and_nothing_written(name: str, work: Path, golden: Any) -> None:
    done = train(work, *WRONG[name], "-o", "refused.x1")
    assert done.returncode != 0
    golden(f"training/refused_command/{name}.txt", done.stderr.replace(str(SAMPLE), "SAMPLE"))
    assert not list(work.glob("refused*"))


def test_two_processes_do_not_write_the_same_file(work: Path) -> None:
    import fcntl

    with (work / "busy.x1.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = train(work, *FRESH, "--epochs", "1", "-o", "busy.x1")
    assert done.returncode == 2
    assert "another process writes 'busy.x1'" in done.stderr


@pytest.mark.nightly
def test_the_file_is_the_same_after_being_killed_twenty_times(work: Path) -> None:
    """kill -9 at random moments, then on from the checkpoint."""
    epochs = ["--epochs", "30", "--checkpoint-every", "1", "-o"]
    assert x1_process(["train", *FRESH, *epochs, "whole.x1"], work).returncode == 0
    kills, draw = 0, random.Random(1)
    while kills < 20:
        source = ["killed.x1", "--data", "digits.npz"] if (work / "killed.x1").exists() else list(FRESH)
        command = [sys.executable, "-m", "x1", "train", *source, *epochs, "killed.x1"]
        process = subprocess.Popen(command, cwd=work, stderr=subprocess.DEVNULL, env=dict(os.environ))
        time.sleep(draw.uniform(0.8, 2.5))
        if process.poll() is not None:
            (work / "killed.x1").unlink()  # it was through: from the beginning
            continue
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    source = ["killed.x1", "--data", "digits.npz"] if (work / "killed.x1").exists() else list(FRESH)
    assert x1_process(["train", *source, *epochs, "killed.x1"], work).returncode == 0
    assert (work / "killed.x1").read_bytes() == (work / "whole.x1").read_bytes()


def test_a_file_that_has_the_name_of_the_lock_stays_as_it_is(work: Path) -> None:
    (work / "kept.x1.lock").write_text("mine")
    assert train(work, *FRESH, "--epochs", "1", "-o", "kept.x1").returncode == 0
    assert (work / "kept.x1.lock").read_text() == "mine"
    assert train(work, *FRESH, "--epochs", "1", "-o", "other.x1").returncode == 0
    assert not (work / "other.x1.lock").exists()


def test_numbers_are_learned_by_their_squared_error(work: Path) -> None:
    (work / "numbers.net").write_text(SMALL.replace('Dense(10, activation="softmax")', "Dense(2)"))
    with np.load(work / "digits.npz") as digits:
        x = digits["inputs"][:40]
    labels = np.stack([x.mean(axis=(1, 2, 3)), x.max(axis=(1, 2, 3))], 1).astype(np.float32)
    np.savez(work / "numbers.npz", inputs=x, labels=labels)
    given = ["--data", "numbers.npz", "--init", "glorot", "--loss", "mse", "--batch", "8", "--epochs", "4"]
    done = train(work, "numbers.net", *given, "-o", "numbers.x1", "--json")
    assert done.returncode == 0, done.stderr
    losses = json.loads(done.stdout)["history"]["loss"]
    assert losses[-1] < losses[0] / 2
    shown = x1(["eval", "numbers.x1", "--data", "numbers.npz", "--json"], work)
    assert json.loads(shown.stdout)["loss"] < losses[0] / 2
