"""A network in training on a simulated device: its binary, its state, step after step."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from compiler.codegen.emit_step import RealInput, state_image, state_values
from compiler.codegen.training import generate_streams
from compiler.schedule.options import schedule_options
from compiler.schedule.step.rows import StateBuffers
from compiler.train.integer.dropout import KEYS
from compiler.train.integer.loss import CODED_PROBABILITY
from compiler.train.integer.weighting import WEIGHTS
from compiler.train.integer.weights import first_exponent
from compiler.train.losses.loss import loss_of
from compiler.train.lowering import FIRST_SHIFT
from compiler.train.network import TrainableNetwork, rebatched
from compiler.train.optimizers.optimizer import Optimizer
from compiler.train.randomness import words
from compiler.train.step import (
    MOVING,
    NUMBERS,
    STEP,
    TrainingStep,
    evaluation,
    initial_state,
    measurement,
    training_step,
)
from isa.executable import Executable
from isa.program import Note
from isa.support.records import Frozen
from isa.target import Target
from runtime.devices import Devices
from x1.version import __version__

Array = NDArray[Any]
ADAPTATIONS: Final = 100
"""Steps at most in which shifts settle: one for each layer as a rule."""


class Batches(Frozen):
    """Sizes of batches: of training, of what a division leaves (0: nothing), of evaluation.

    `group` samples of a batch are normalized together; 0 stands for all. With `weighted` the samples of
    training count by weights.
    """

    train: int
    tail: int
    evaluation: int
    group: int = 0
    weighted: bool = False


class Trainer:
    """A binary with streams for training and evaluation, on a device.

    Args:
        network: for one sample, its parameters opened.
        parameters: their values, by name.
        optimizer: whose formula the update is.
        batches: the sizes of the streams' batches.
        target: the machine.
        state: what another trainer of the network has left, by name; tensors that it lacks are as at first.
        executable: the binary, if there is one already for network, optimizer, batches and target.
        perm: how the host permutes the axes of a batch of samples for the network.
        seed: of what dropouts drop.

    Raises:
        CompileError: an operation that no step computes.
        FitError: the network does not fit the target.
    """

    def __init__(
        self,
        network: TrainableNetwork,
        parameters: Mapping[str, Array],
        optimizer: Optimizer,
        batches: Batches,
        target: Target,
        state: Mapping[str, Array] | None = None,
        executable: Executable | None = None,
        perm: tuple[int, ...] | None = None,
        seed: int = 0,
    ) -> None:
        self.network, self.optimizer, self.batches, self.target = network, optimizer, batches, target
        group = batches.group
        step = training_step(
            rebatched(network, batches.train, group or batches.train), optimizer, weighted=batches.weighted
        )
        self.tensors = [(s.name, s.stored) for s in step.states]
        self.shapes = {s.name: s.before.shape for s in step.states}
        values = initial_state(step.states, parameters) | {
            name: value
            for name, value in (state or {}).items()
            if name in self.shapes and name not in parameters
        }
        if executable is None:
            executable = _compiled(network, step, optimizer, batches, target, values, perm)
        self.executable = executable
        self.place = StateBuffers.of(self.tensors, target.mx.cols)
        self.device = Devices(executable, states=[state_image(self.place, values)])
        self.input = network.source.name
        self.step_number = int(values[STEP])
        self.seed = seed
        self.measures = "stats" in {p.stream for p in executable.programs}
        """Whether there are running statistics to be measured."""
        taken = {i.name: i.shape for i in executable.stream("train").abi.inputs}
        self.dropouts = taken[KEYS][0] if KEYS in taken else 0
        self.outputs = network.logits.shape[1]
        """Values that the last layer gives for a sample."""

    def __repr__(self) -> str:
        return f"<Trainer on {self.target.name}: step {self.step_number}>"

    def step(self, x: Array, labels: Array, learning_rate: float, weights: Array | None = None) -> Array:
        """Train on a batch of codes; what the step says of its samples. A trap leaves the state as it was.

        Samples count by `weights`, of 0 or more, where the batches are weighted: all alike if none are given.
        """
        stream = "train" if len(x) == self.batches.train else "tail"
        numbers = self.optimizer.of_step(self.step_number + 1, np.float32(learning_rate))
        given = np.array([numbers[name] for name in self.optimizer.step_numbers], np.float32)
        inputs = {self.input: x, "labels": labels, NUMBERS: given}
        if self.batches.weighted:
            shares, share = divided(np.ones(len(x)) if weights is None else weights)
            inputs[WEIGHTS] = np.repeat(shares[:, None], self.outputs, axis=1)
            inputs[NUMBERS] = np.append(given, share)
        if self.dropouts:
            inputs[KEYS] = keys_of(self.seed, self.step_number, self.dropouts)
        result = self.device.run(stream, inputs)
        self.step_number += 1
        return result.outputs["records"]

    def measure(self, batches: Sequence[Array]) -> None:
        """Measure the running statistics at the weights as they are: the means over batches of codes."""
        for number, x in enumerate(batches):
            shares = np.array([number / (number + 1), 1 / (number + 1)], np.float32)
            self.device.run("stats", {self.input: x, MOVING: shares})

    def adapt(self, x: Array) -> None:
        """Find the shifts for weights from elsewhere: those that steps on samples, codes, would find.

        Steps of a learning rate of 0 are made until no shift changes; nothing else of the state does, and
        nothing at all where one of them is broken off.
        """
        count, kept = self.step_number, self.device.states[0].copy()
        try:
            self._find_shifts(x)
        except BaseException:
            self.device.states[0][:] = kept
            raise
        finally:
            self.step_number = count

    def _find_shifts(self, x: Array) -> None:
        begun = self.state
        wanted = next(i for i in self.executable.stream("train").abi.inputs if i.name == "labels")
        labels = np.zeros(wanted.shape, wanted.dtype)
        samples = np.resize(x, (self.batches.train, *x.shape[1:]))
        shifts: dict[str, Array] = {}
        for _ in range(ADAPTATIONS):
            self.step(samples, labels, 0.0)
            before, found = shifts, self.state
            shifts = {n: v for n, v in found.items() if n.endswith("/shift")}
            seen = {n: v for n, v in found.items() if n.endswith("/greatest")}
            settled = bool(before) and all(before[n] == v for n, v in shifts.items())
            # what too small a shift has made is forgotten at once, but for the last time
            new = {**begun, **shifts, **(seen if settled else dict.fromkeys(seen, np.zeros((), np.int32)))}
            self._write(new)
            if settled:
                break

    @contextmanager
    def adapted(self, x: Array) -> Generator[None]:
        """Shifts for weights from elsewhere, for a while."""
        kept = self.device.states[0].copy()
        self.adapt(x)
        try:
            yield
        finally:
            self.device.states[0][:] = kept

    def results(self, x: Array) -> NDArray[np.float32]:
        """What the network makes of samples, real numbers; the last batch is filled up with zeros."""
        found: list[Array] = []
        for count, filled in whole_batches(x, self.batches.evaluation):
            (given,) = self.device.run("eval", {self.input: filled}).outputs.values()
            found.append(given[:count])
        return np.concatenate(found) if found else np.zeros((0, 0), np.float32)

    @property
    def state(self) -> dict[str, Array]:
        """Every tensor and number that lasts, by name."""
        return state_values(self.place, self.device.states[0], self.shapes)

    @property
    def settled(self) -> bool:
        """Whether steps have found the shifts of the weights as they are."""
        seen = [int(v) for n, v in self.state.items() if n.endswith("/greatest")]
        return self.step_number > 0 and (not seen or any(seen))

    @property
    def forward_state(self) -> dict[str, Array]:
        """What evaluation depends on: parameters, exponents, shifts."""
        kinds = ("shift", "greatest", "exponent", "next_exponent")
        names = self.network.parameters
        return {n: v for n, v in self.state.items() if n in names or n.rpartition("/")[2] in kinds}

    def restore(self, values: Mapping[str, Array]) -> None:
        """Let some of the state be as it was."""
        self._write({**self.state, **values})

    def _write(self, values: Mapping[str, Array]) -> None:
        """Give the device a whole state."""
        self.device.states[0][:] = np.frombuffer(state_image(self.place, values), np.uint8)

    def give(self, parameters: Mapping[str, Array]) -> None:
        """Let parameters have other values; their exponents are as at first, shifts are not known."""
        values = self.state
        values |= {n: np.zeros((), np.int32) for n in values if n.endswith("/greatest")}
        values |= {n: np.asarray(FIRST_SHIFT, np.int32) for n in values if n.endswith("/shift")}
        for name, value in parameters.items():
            values[name] = value
            for kind in ("exponent", "next_exponent"):
                if f"{name}/{kind}" in values:
                    values[f"{name}/{kind}"] = np.asarray(first_exponent(value), np.int32)
        self._write(values)


def _compiled(
    network: TrainableNetwork,
    step: TrainingStep,
    optimizer: Optimizer,
    batches: Batches,
    target: Target,
    values: Mapping[str, Array],
    perm: tuple[int, ...] | None,
) -> Executable:
    """The binary: a step, one for what a division leaves, evaluation, running statistics."""
    group, steps = batches.group, {"train": step}
    if batches.tail:
        rest = rebatched(network, batches.tail, group or batches.tail)
        steps["tail"] = training_step(rest, optimizer, weighted=batches.weighted)
    steps["eval"] = evaluation(rebatched(network, batches.evaluation))
    if network.moving:
        steps["stats"] = measurement(rebatched(network, batches.train, group or batches.train))
    note = Note(f"x1 {__version__}", (("optimizer", optimizer.name),))
    source = network.source
    real = {source.name: RealInput(float(network.input_c), perm or tuple(range(len(source.shape))))}
    if not loss_of(network.loss).of_sums:
        real["probabilities"] = RealInput(CODED_PROBABILITY, (0, 1))
    made, _ = generate_streams(steps, values, target, schedule_options(3), note, real)
    return made


def whole_batches(x: Array, size: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Batches of real samples, the last filled up with zeros, each with the number of its samples."""
    for first in range(0, len(x), size):
        part = x[first : first + size]
        filled = np.zeros((size, *x.shape[1:]), np.float32)
        filled[: len(part)] = part
        yield len(part), filled


def divided(weights: Array) -> tuple[Array, np.float32]:
    """Weights divided by the greatest, and that over their number: what a step is given of a batch's."""
    single = weights.astype(np.float32)
    greatest = single.max()
    shares = single / greatest if greatest > 0 else single
    return shares, np.float32(greatest / np.float32(len(weights)))


def keys_of(seed: int, step: int, count: int) -> NDArray[np.int32]:
    """The keys of the dropouts of a step."""
    upper = (words((seed, 1 << 63 | step), count) >> np.uint64(32)).astype(np.uint32)
    return upper.view(np.int32)


def state_sha256(state: Mapping[str, Array]) -> str:
    """A digest of the tensors of a state, whatever the machine on which they were made."""
    found = hashlib.sha256()
    for name in sorted(state):
        value = np.ascontiguousarray(state[name]).astype(state[name].dtype.newbyteorder("<"))
        found.update(f"{name} {value.dtype.str} {list(value.shape)}\n".encode())
        found.update(value.tobytes())
    return found.hexdigest()
