"""What a training binary says of itself beside its instructions: network, loss, optimizer, history.

With the state region it is all that training needs to go on: a checkpoint is a binary. The text is canonical
JSON; real numbers stand in it as Python writes them in hexadecimal, so that nothing is lost.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.codegen.emit_step import state_image, state_values
from compiler.errors import CompileError
from compiler.frontend.ir_reader import parse_graph
from compiler.ir.printer import print_graph
from compiler.ir.types import DType
from compiler.schedule.step.rows import StateBuffers
from compiler.train.network import TrainableNetwork
from isa.container import load_executable, save
from isa.executable import Executable
from isa.support.diagnostics import BinaryError, Diagnostic
from isa.support.locations import FileLoc
from isa.support.paths import read_file
from isa.support.record_json import RecordError, from_json, to_json
from isa.support.records import Frozen, replace

Array = NDArray[Any]
Options = Mapping[str, float | bool]
RATIONAL: Final = re.compile(r"\d{1,400}(/\d{1,400})?")
MOST_BYTES: Final = 1 << 40
"""Of the state that a text may speak of: sizes are checked against the region after."""


class Checkpoint(Frozen):
    """The text of `.x1.train`."""

    network: str
    """The float network for one sample, its parameters as inputs: an IR dump."""
    logits: str
    parameters: tuple[str, ...]
    frozen: tuple[str, ...]
    input_type: str
    input_c: str
    perm: tuple[int, ...]
    """How the axes of a batch of samples are permuted for the network."""
    layers: str
    """The layers of a Keras model as JSON; nothing for another network."""
    loss: str
    from_logits: bool
    metrics: tuple[str, ...]
    optimizer: str
    options: tuple[tuple[str, str], ...]
    learning_rate: str
    batches: tuple[int, int, int, int]
    statistics: str
    seed: int
    shuffle: bool
    validation_split: str
    epochs: int
    """That are complete."""
    history: tuple[tuple[str, tuple[str, ...]], ...]
    state: tuple[tuple[str, tuple[int, ...]], ...]
    """What lies in the state region, in order: names and shapes."""
    tuned: bool
    """Whether the weights came from elsewhere."""
    numbers: tuple[int, ...]
    """Of the epochs that the history tells of."""

    def network_of(self, place: str) -> TrainableNetwork:
        """The network, from its text.

        Raises:
            BinaryError: the text is no such network.
        """
        try:
            graph = parse_graph(self.network, place)
            named = {n.name: n for n in graph.nodes()}
            c = _rational(self.input_c)
            opened = {name: named[name] for name in self.parameters}
            kind = DType(self.input_type)
            found = TrainableNetwork(graph, named[self.logits], opened, frozenset(self.frozen), kind, c)
        except CompileError as error:
            raise BinaryError(error.diagnostics) from None
        except (KeyError, ValueError, ZeroDivisionError) as error:
            raise unsound(place, f"the network of the training does not fit: {error}") from None
        if c <= 0 or not kind.is_code:
            raise unsound(place, "the network of the training has no such input")
        return found

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of what lies in the state region, by name."""
        return dict(self.state)

    def optimizer_options(self, place: str) -> dict[str, float | bool]:
        """The options of the optimizer.

        Raises:
            BinaryError: a number is none.
        """
        return {name: number(text, place) for name, text in self.options}


class Loaded(Frozen):
    """A training binary: its programs, its text, and what its state region holds."""

    executable: Executable
    checkpoint: Checkpoint
    values: Mapping[str, Array]


def hexadecimal(value: float | bool) -> str:
    """A number as text, nothing lost."""
    return str(value).lower() if isinstance(value, bool) else float(value).hex()


def number(text: str, place: str) -> float | bool:
    """The number of a text.

    Raises:
        BinaryError: it is none, or not finite.
    """
    if text in ("true", "false"):
        return text == "true"
    try:
        value = float.fromhex(text)
    except (ValueError, OverflowError):
        value = float("nan")
    if not np.isfinite(value):
        raise unsound(place, f"the training names the number '{text[:40]}'")
    return value


def _rational(text: str) -> Fraction:
    """The fraction of a text of digits.

    Raises:
        ValueError: it is none, or has more digits than any that is written.
        ZeroDivisionError: it divides by 0.
    """
    if not RATIONAL.fullmatch(text):
        raise ValueError(f"'{text[:40]}' is no factor of samples")
    return Fraction(text)


def unsound(place: str, message: str) -> BinaryError:
    """What is said of a file whose training text does not fit."""
    return BinaryError(Diagnostic("binary.training", message, FileLoc(place)))


def written(executable: Executable, checkpoint: Checkpoint, values: Mapping[str, Array]) -> bytes:
    """The file of a training binary: a pure function of programs, text and state."""
    columns = executable.programs[0].target.mx.cols
    state = state_image(StateBuffers.of(checkpoint.state, columns), values)
    programs = tuple(replace(p, state=state) for p in executable.programs)
    return save(Executable(programs, to_json(checkpoint).decode()))


def network_text(network: TrainableNetwork) -> str:
    """A network as the text of a checkpoint has it."""
    return print_graph(network.graph, blobs=True)


def load_checkpoint(path: str) -> Loaded:
    """The training binary of a file.

    Raises:
        UsageError: no such file.
        BinaryError: it is no sound X1 binary, or holds no training.
    """
    content = read_file(path)
    executable = load_executable(content, path)
    if not executable.training:
        raise BinaryError(
            Diagnostic(
                "binary.training",
                f"'{path}' holds no training",
                allowed="a file that x1 train or Model.save has written",
            )
        )
    try:
        checkpoint = from_json(Checkpoint, executable.training.encode(), ".x1.train")
    except RecordError as error:
        raise unsound(path, str(error)) from None
    shapes = checkpoint.shapes
    if any(min(s, default=1) < 1 or _bytes(s) > MOST_BYTES for s in shapes.values()):
        raise unsound(path, "a tensor of the state has a shape that there is not")
    target = executable.programs[0].target
    place = StateBuffers.of(checkpoint.state, target.mx.cols)
    state = np.frombuffer(executable.programs[0].state, np.uint8)
    if place.size != state.size:
        raise unsound(path, f"the state region has {state.size} bytes, its tensors need {place.size}")
    return Loaded(executable, checkpoint, state_values(place, state, shapes))


def _bytes(shape: tuple[int, ...]) -> int:
    return 4 * int(np.prod(shape, dtype=object)) if shape else 4


def layers_of(text: str, place: str) -> list[dict[str, Any]]:
    """The layers of a Keras model, from their JSON.

    Raises:
        BinaryError: it is no list of layers.
    """
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):  # pyright: ignore[reportUnknownVariableType]
        raise unsound(place, "the layers of the training are no list")
    return found  # pyright: ignore[reportUnknownVariableType]
