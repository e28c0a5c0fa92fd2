"""ONNX Runtime in a process of its own: a refusal or a crash is an answer, and ends nothing of ours."""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from isa.support.diagnostics import Diagnostic, UsageError
from x1.lab import onnx_runtime_worker

INT8_QDQ: Final = "session.qdqisint8allowed"
DISABLE_ALL, ENABLE_ALL, ENABLE_EXTENDED = "ORT_DISABLE_ALL", "ORT_ENABLE_ALL", "ORT_ENABLE_EXTENDED"
Arrays = dict[str, NDArray[Any]]


class OracleFailure(Exception):
    """ONNX Runtime refused a model or an input, or died of it; the message is a sentence part."""


class OnnxRuntime:
    """The worker process; another takes its place when it has died.

    Raises:
        UsageError: ONNX Runtime is not installed, or cannot be loaded.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("onnxruntime") is None:
            raise _missing("ONNX Runtime is not installed")
        self._process = _started()
        self.lives = 1
        """How many processes there have been; a session lives as long as its own."""
        self.ended: list[tuple[int, int]] = []
        """Sessions that nobody holds any more, by life and number; the next request tells the worker."""
        try:
            self.version: str = self.ask("version")
        except OracleFailure as failure:
            raise _missing(f"ONNX Runtime cannot be loaded: {failure}") from None
        atexit.register(self.end)

    def ask(self, request: str, *arguments: Any) -> Any:
        """What the worker answers.

        Raises:
            OracleFailure: ONNX Runtime refuses, or dies.
        """
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        closed = [number for life, number in self._taken() if life == self.lives]
        try:
            pickle.dump((request, arguments, closed), requests, pickle.HIGHEST_PROTOCOL)
            requests.flush()
            succeeded, answer = pickle.load(answers)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            code = self._process.wait()
            self._restart()
            raise OracleFailure(f"ONNX Runtime died ({_cause(code)})") from None
        except BaseException:  # interrupted between a request and its answer
            self._restart()
            raise
        if not succeeded:
            raise OracleFailure(f"ONNX Runtime refuses it: {answer}")
        return answer

    def _taken(self) -> list[tuple[int, int]]:
        taken: list[tuple[int, int]] = []
        while self.ended:  # a session may end at any time
            taken.append(self.ended.pop())
        return taken

    def _restart(self) -> None:
        self.end()
        self._process, self.lives = _started(), self.lives + 1

    def end(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError), self._process:  # a request may have been half sent
            self._process.kill()


def onnx_runtime() -> OnnxRuntime:
    """The one worker of this process; a process that was forked gets its own."""
    return _runtime_of(os.getpid())


@cache
def _runtime_of(process: int) -> OnnxRuntime:
    del process
    return OnnxRuntime()


class OracleSession:
    """A model in ONNX Runtime, on one thread; its outputs by name.

    Args:
        model: the serialized model.
        level: of optimization.
        dump: where to write the optimized model.

    Raises:
        UsageError: ONNX Runtime is not installed.
        OracleFailure: it refuses the model, or dies of it.
    """

    def __init__(self, model: bytes, level: str = DISABLE_ALL, dump: str = "") -> None:
        self._runtime = onnx_runtime()
        entries = {} if level == DISABLE_ALL else {INT8_QDQ: "1"}
        self._request = (model, level, entries, dump)
        self._open()

    def _open(self) -> None:
        self._number, outputs = self._runtime.ask("open", *self._request)
        self._life = self._runtime.lives
        self._names = [name for name, _ in outputs]
        self.real = frozenset(name for name, kind in outputs if kind == "tensor(float)")
        """The outputs that are real numbers."""
        weakref.finalize(self, self._runtime.ended.append, (self._life, self._number))

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Every output.

        Raises:
            OracleFailure: ONNX Runtime refuses the input, or dies.
        """
        if self._life != self._runtime.lives:  # another session has killed the process
            self._open()
        values = self._runtime.ask("run", self._number, dict(inputs))
        return dict(zip(self._names, values, strict=True))


def _started() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", str(Path(onnx_runtime_worker.__file__))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _cause(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _missing(message: str) -> UsageError:
    return UsageError(Diagnostic("oracle.missing", message, remedy="pip install 'x1-compiler[oracle]'"))
