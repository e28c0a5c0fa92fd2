"""Training texts that say what cannot be: a message, no traceback, nothing that hangs or grows."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from isa.container import load_executable, save
from isa.executable import Executable
from isa.support.diagnostics import BinaryError
from tests.training.test_keras import X, Y, model
from x1.keras.loading import load

Text = dict[str, Any]


@cache
def content() -> bytes:
    made = model()
    made.fit(X[:4], Y[:4], batch_size=2, verbose=0)
    return made.content()


def layers(change: Callable[[list[Text]], Any]) -> Callable[[Text], None]:
    """A change of the layers, which are a text in the text."""

    def changed(text: Text) -> None:
        entries = json.loads(text["layers"])
        other = change(entries)
        text["layers"] = json.dumps(entries if other is None else other)

    return changed


def entry(index: int, **given: Any) -> Callable[[Text], None]:
    return layers(lambda entries: entries[index].update(given))


CHANGES: dict[str, Callable[[Text], Any]] = {
    "a factor that never ends": lambda t: t.update(input_c="1e9999999"),
    "a factor beyond all": lambda t: t.update(input_c="1e400"),
    "a factor of nothing": lambda t: t.update(input_c="0"),
    "another name of a loss": lambda t: t.update(loss="mse"),
    "the class of a loss": lambda t: t.update(loss="SparseCategoricalCrossentropy"),
    "negative epochs": lambda t: t.update(epochs=-5),
    "a negative seed": lambda t: t.update(seed=-1),
    "negative numbers of epochs": lambda t: t.update(numbers=[-1]),
    "an optimizer without its state": lambda t: t.update(optimizer="sgd", options=[]),
    "no layers": lambda t: t.update(layers="[]"),
    "layers of no class": entry(1, **{"class": "Layer"}),
    "no shape of samples": entry(0, input_shape=None),
    "a negative shape": entry(0, input_shape=[-28, 28, 1]),
    "a gigantic shape": entry(0, input_shape=[1 << 40]),
    "gigantic weights": entry(4, arguments={"units": 1 << 28}),
    "other weights": entry(4, arguments={"units": 9}),
    "frozen names of nothing": lambda t: t.update(frozen=["nothing"]),
    "frozen layers": entry(1, trainable=False),
    "layers in a circle": entry(1, reads=[3]),
    "gigantic batches": lambda t: t.update(batches=[1 << 40, 0, 32, 0]),
    "no batches": lambda t: t.update(batches=[0, 0, 0, 0]),
    "another permutation": lambda t: t.update(perm=[1, 0, 2, 3]),
    "a state of other tensors": lambda t: t["state"].pop(),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_training_text_that_does_not_fit_is_refused(name: str, tmp_path: Path) -> None:
    executable = load_executable(content())
    text = json.loads(executable.training)
    CHANGES[name](text)
    changed = json.dumps(text, sort_keys=False, separators=(",", ":"))
    (tmp_path / "bad.x1").write_bytes(save(Executable(executable.programs, changed)))
    with pytest.raises(BinaryError):
        load(tmp_path / "bad.x1")


def test_the_text_that_nobody_has_changed_is_taken(tmp_path: Path) -> None:
    executable = load_executable(content())
    text = json.dumps(json.loads(executable.training), sort_keys=False, separators=(",", ":"))
    (tmp_path / "good.x1").write_bytes(save(Executable(executable.programs, text)))
    assert load(tmp_path / "good.x1").epochs == 1
