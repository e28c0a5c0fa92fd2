"""A device: the streams of one binary, run one after another on the state region that they share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.executable import Executable
from runtime.executors.executor import Executor
from runtime.executors.reference import ReferenceExecutor
from runtime.session import ProgramSession, RunResult


class Device:
    """A core that keeps its state region from run to run.

    Args:
        executable: the streams.
        state: what the state region holds at first; what the binary gives where there is none.
        executor: what executes the streams.
    """

    def __init__(
        self, executable: Executable, *, state: bytes | None = None, executor: Executor | None = None
    ) -> None:
        self.executable = executable
        initial = executable.programs[0].state if state is None else state
        self.state: NDArray[np.uint8] = np.frombuffer(initial, np.uint8).copy()
        """The state region; a run that does not come to its halt leaves it as it was."""
        self._executor = executor or ReferenceExecutor()
        self._sessions: dict[str, ProgramSession] = {}

    def __repr__(self) -> str:
        streams = ", ".join(self.executable.names)
        return f"<Device of {streams} with {self.state.size:,} bytes of state>"

    def session(self, stream: str | None = None) -> ProgramSession:
        """The session of a stream; that which a run executes where none is named.

        Raises:
            UsageError: there is no such stream.
        """
        program = self.executable.stream(stream)
        if program.stream not in self._sessions:
            self._sessions[program.stream] = ProgramSession(program, kept=self.state)
        return self._sessions[program.stream]

    def run(self, stream: str | None, inputs: Mapping[str, NDArray[Any]]) -> RunResult:
        """Run a stream once; its outputs by name.

        Raises:
            UsageError: no such stream, or names, dtypes or shapes that it does not have.
            MachineTrap: the program trapped; the state is as it was.
        """
        return self.session(stream).execute(inputs, executor=self._executor)
