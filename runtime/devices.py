"""The devices of one binary, and its streams, run one after another on the state that they share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isa.executable import Executable
from runtime.executors.executor import Executor
from runtime.executors.reference import ReferenceExecutor
from runtime.session import ProgramSession, RunResult


class Devices:
    """The cores of a binary, which keep their state regions from run to run.

    Args:
        executable: the streams.
        states: what the state regions hold at first; what the binary gives where there are none.
        executor: what executes the streams.
    """

    def __init__(
        self,
        executable: Executable,
        *,
        states: Sequence[bytes] = (),
        executor: Executor | None = None,
    ) -> None:
        self.executable = executable
        initial = states or [p.state for p in executable.devices()]
        self.states: list[NDArray[np.uint8]] = [np.frombuffer(s, np.uint8).copy() for s in initial]
        """The state region of each; a run that does not come to its halts leaves them as they were."""
        self._executor = executor or ReferenceExecutor()
        self._sessions: dict[str, ProgramSession] = {}

    def __repr__(self) -> str:
        streams = ", ".join(self.executable.names)
        size = sum(s.size for s in self.states)
        return f"<Devices of {streams} with {size:,} bytes of state>"

    def session(self, stream: str | None = None) -> ProgramSession:
        """The session of a stream; that which a run executes where none is named.

        Raises:
            UsageError: there is no such stream.
        """
        programs = self.executable.devices(stream)
        name = programs[0].stream
        if name not in self._sessions:
            self._sessions[name] = ProgramSession(programs, kept=self.states)
        return self._sessions[name]

    def run(self, stream: str | None, inputs: Mapping[str, NDArray[Any]]) -> RunResult:
        """Run a stream once; its outputs by name.

        Raises:
            UsageError: no such stream, or names, dtypes or shapes that it does not have.
            MachineTrap: the program trapped; the states are as they were.
        """
        return self.session(stream).execute(inputs, executor=self._executor)
