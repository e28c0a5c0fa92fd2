"""Runs a binary as ONNX Runtime runs a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from isa.container import load
from isa.memory_map import Region
from isa.program import Interface, Program
from isa.support.diagnostics import Diagnostic, UsageError, not_among
from isa.support.paths import read_file
from isa.support.records import Frozen, field
from isa.target import Target, capability_shortfalls
from runtime.capture import TensorCapture
from runtime.executors.executor import Executor
from runtime.executors.reference import ReferenceExecutor
from runtime.host import device_values, from_bytes, host_values, to_bytes
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
    """A loaded binary and a core to run it on.

    Args:
        binary: a file's path, its bytes, or a program.
        target: a machine to run on instead of the one that the binary carries.
        poison: trap on reads of bytes that nothing has written.
        kept: the state region that the runs begin with and commit to, which other sessions may share; a
            copy of the binary's where there is none.

    Raises:
        BinaryError: the file is not a sound X1 binary.
        UsageError: no such file, or the target lacks what the binary needs.
    """

    def __init__(
        self,
        binary: str | Path | bytes | Program,
        *,
        target: Target | None = None,
        poison: bool = False,
        kept: NDArray[np.uint8] | None = None,
    ) -> None:
        self.program = binary if isinstance(binary, Program) else _load(binary)
        if target is not None:
            _require_capabilities(self.program.target, target)
        self._state = CoreState(self.program, poison=poison, kept=kept)
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
        state = self._state
        state.reset()
        capture = self._observer() if tensors else None
        for tensor in self.program.abi.inputs:
            values = device_values(tensor, np.asarray(inputs[tensor.name]))
            state.place(Region(tensor.region), tensor.offset, to_bytes(tensor, values))
            if capture is not None and tensor.tensor is not None:
                capture.given(tensor.tensor, values)
        executor.run(state, capture)
        outputs = {t.name: self._returned(t, inputs) for t in self.program.abi.outputs}
        if capture is None:
            return RunResult(outputs, state.retired)
        return RunResult(outputs, state.retired, capture.tensors(), capture.incomplete())

    def _returned(self, tensor: Interface, inputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """A graph output; one that is an input is given back as it came."""
        same = self.program.abi.returned_input(tensor)
        if same is not None:
            return np.array(inputs[same.name])
        content = self._state.fetch(Region(tensor.region), tensor.offset, tensor.bytes)
        return host_values(tensor, from_bytes(tensor, content))

    def _observer(self) -> TensorCapture:
        if self._capture is None:
            self._capture = TensorCapture(self.program, self._state)
        self._capture.reset()
        return self._capture


def _load(binary: str | Path | bytes) -> Program:
    if isinstance(binary, bytes):
        return load(binary)
    return load(read_file(binary), str(binary))


def _require_capabilities(needed: Target, offered: Target) -> None:
    short = capability_shortfalls(needed, offered)
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
