"""Runs a binary as ONNX Runtime runs a model."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.container import load_executable
from isa.memory_map import Region
from isa.program import Interface, Program, box_slices
from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.paths import read_file
from isa.support.records import Frozen, field
from isa.target import Target, capability_shortfalls
from runtime.capture import TensorCapture
from runtime.executors.executor import Executor
from runtime.executors.reference import ReferenceExecutor
from runtime.host import device_values, gathered, held_values, host_values, to_bytes
from runtime.mailboxes import Mailboxes
from runtime.state import CoreState

ORT_TYPES: Final = {
    "float32": "tensor(float)",
    "int8": "tensor(int8)",
    "uint8": "tensor(uint8)",
    "int32": "tensor(int32)",
    "int64": "tensor(int64)",
}


REFERENCE: Final = ReferenceExecutor()


class Argument(Frozen):
    """A graph input or output, with the fields that ONNX Runtime gives."""

    name: str
    type: str
    shape: list[int]


class RunResult(Frozen):
    """What a run gave: outputs by name, the quantized device tensors, and counters."""

    outputs: dict[str, NDArray[Any]]
    instructions: int
    tensors: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])
    incomplete: list[str] = field(default_factory=list[str])


class ProgramSession:
    """A loaded binary and the devices to run it on.

    Args:
        binary: a file's path, its bytes, a program, or the programs of all devices.
        target: a machine to run on instead of the one that the binary carries.
        poison: trap on reads of bytes that nothing has written.
        kept: the state region of each device that the runs begin with and commit to, which other sessions
            may share; copies of the binary's where there are none.

    Raises:
        BinaryError: the file is not a sound X1 binary.
        UsageError: no such file, or the target lacks what the binary needs.
    """

    def __init__(
        self,
        binary: str | Path | bytes | Program | Sequence[Program],
        *,
        target: Target | None = None,
        poison: bool = False,
        kept: Sequence[NDArray[np.uint8]] = (),
    ) -> None:
        self.programs = _programs(binary)
        self.program = self.programs[0]
        """That of the first device."""
        if target is not None:
            _require_capabilities(self.program, target)
        self._mail = Mailboxes()
        self._states = [
            CoreState(p, poison=poison, kept=k, mail=self._mail)
            for p, k in itertools.zip_longest(self.programs, kept)
        ]
        self._capture: TensorCapture | None = None

    def __repr__(self) -> str:
        given, made = (
            ", ".join(f"{a.name} {a.type}{a.shape}" for a in each)
            for each in (self.get_inputs(), self.get_outputs())
        )
        return f"<Session on {self.program.target.name}: {given} -> {made}>"

    def get_inputs(self) -> list[Argument]:
        """The graph inputs."""
        return [_argument(t) for t in self.program.abi.host_inputs]

    def get_outputs(self) -> list[Argument]:
        """The graph outputs."""
        return [_argument(t) for t in self.program.abi.outputs]

    def run(
        self,
        output_names: Sequence[str] | None,
        inputs: Mapping[str, NDArray[Any]],
    ) -> list[NDArray[Any]]:
        """Run once; the outputs in the order of the names, or of the graph where there are none.

        Raises:
            UsageError: names, dtypes or shapes that the program does not have.
            MachineTrap: the program trapped.
        """
        if isinstance(output_names, (str, bytes)):
            raise TypeError("output_names is a list of names, or None for all")
        known = [t.name for t in self.program.abi.outputs]
        wanted = known if output_names is None else list(output_names)
        for name in wanted:
            if name not in known:
                raise UsageError(not_among("run.output", f"there is no output '{name}'", name, known))
        outputs = self.execute(inputs).outputs
        return [outputs[name] for name in wanted]

    def execute(
        self, inputs: Mapping[str, NDArray[Any]], *, tensors: bool = False, executor: Executor = REFERENCE
    ) -> RunResult:
        """Run once, by the reference executor or another; with `tensors`, rebuild every tensor of the source.

        Raises:
            UsageError: names, dtypes or shapes that the program does not have.
            MachineTrap: the program trapped.
        """
        _require_mapping(inputs)
        _check_names(self.program, inputs)
        self._reset()
        capture = self._observer() if tensors else None
        self._place(inputs, capture)
        executor.run(self._states, () if capture is None else capture.observers)
        outputs = {t.name: self._returned(n, t, inputs) for n, t in enumerate(self.program.abi.outputs)}
        retired = sum(state.retired for state in self._states)
        if capture is None:
            return RunResult(outputs, retired)
        return RunResult(outputs, retired, capture.tensors(), capture.incomplete())

    def _reset(self) -> None:
        self._mail.clear()
        for state in self._states:
            state.reset()

    def _place(self, inputs: Mapping[str, NDArray[Any]], capture: TensorCapture | None) -> None:
        """Give every device what it holds of the inputs; a capture sees all of them."""
        for number, tensor in enumerate(self.program.abi.inputs):
            values = device_values(tensor, np.asarray(inputs[tensor.name]))
            if capture is not None and tensor.tensor is not None:
                capture.given(tensor.tensor, values)
            for state in self._states:
                row = state.program.abi.inputs[number]
                held = values if row.box is None else values[box_slices(row.box)]
                if held.size:
                    state.place(Region(row.region), row.offset, to_bytes(row, held))

    def _returned(self, number: int, tensor: Interface, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """A graph output; one that is an input is given back as it came."""
        same = self.program.abi.returned_input(tensor)
        if same is not None:
            return np.array(inputs[same.name])
        rows = [state.program.abi.outputs[number] for state in self._states]
        held = [
            held_values(row, state.fetch(Region(row.region), row.offset, row.bytes))
            for row, state in zip(rows, self._states, strict=True)
        ]
        return host_values(tensor, gathered(rows, held))

    def _observer(self) -> TensorCapture:
        if self._capture is None:
            self._capture = TensorCapture(self._states)
        self._capture.reset()
        return self._capture


def _programs(binary: str | Path | bytes | Program | Sequence[Program]) -> tuple[Program, ...]:
    """The programs of all devices."""
    if isinstance(binary, Program):
        return (binary,)
    if isinstance(binary, bytes):
        return load_executable(binary).devices()
    if isinstance(binary, (str, Path)):
        return load_executable(read_file(binary), str(binary)).devices()
    return tuple(binary)


def _require_capabilities(program: Program, offered: Target) -> None:
    short = capability_shortfalls(program.target, offered, program.devices)
    if short:
        raise UsageError(
            [
                Diagnostic(
                    "run.target",
                    f"target '{offered.name}' has {key}={have}; the binary was compiled for {want}",
                    remedy="compile for this target",
                )
                for key, want, have in short
            ]
        )


def _argument(tensor: Interface) -> Argument:
    return Argument(tensor.name, ORT_TYPES[tensor.dtype], list(tensor.shape))


def _require_mapping(inputs: object) -> None:
    """Inputs are arrays by name.

    Raises:
        TypeError: they are not.
    """
    if not isinstance(inputs, Mapping):
        raise TypeError(f"inputs are a dict of arrays by name, not {type(inputs).__name__}")


def _check_names(program: Program, inputs: Mapping[str, NDArray[Any]]) -> None:
    known = [t.name for t in program.abi.host_inputs]
    found = [
        not_among("run.input", f"there is no input '{name}'", name, known)
        for name in inputs
        if name not in known
    ]
    found += [
        Diagnostic("run.input", f"input '{name}' is missing", remedy=f"give --input {name}=@FILE.npy")
        for name in known
        if name not in inputs
    ]
    if found:
        raise UsageError(found)
