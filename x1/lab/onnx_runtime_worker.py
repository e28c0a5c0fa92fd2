"""A process that runs models in ONNX Runtime for `x1.lab.onnx_runtime`: it may die of a model, we do not.

Started as a script, with nothing of ours imported. A request and its answer are pickled on stdin and stdout;
what ONNX Runtime prints goes nowhere.
"""

from __future__ import annotations

import os
import pickle
import sys
from typing import Any, BinaryIO


class Worker:
    """Sessions by number, and what may be asked of them."""

    def __init__(self) -> None:
        import onnxruntime  # noqa: PLC0415  # pyright: ignore[reportMissingTypeStubs]  (a failure is an answer)

        self.runtime: Any = onnxruntime
        self.runtime.set_default_logger_severity(4)
        self.sessions: dict[int, Any] = {}
        self.made = 0

    def version(self) -> str:
        """The version of ONNX Runtime."""
        return self.runtime.__version__

    def open(self, model: bytes, level: str, entries: dict[str, str], dump: str) -> Any:
        """A session's number, and the name and type of every output."""
        options = self.runtime.SessionOptions()
        options.graph_optimization_level = getattr(self.runtime.GraphOptimizationLevel, level)
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        for key, value in entries.items():
            options.add_session_config_entry(key, value)
        if dump:
            options.optimized_model_filepath = dump
        session = self.runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.made += 1
        self.sessions[self.made] = session
        return self.made, [(o.name, o.type) for o in session.get_outputs()]

    def run(self, number: int, inputs: dict[str, Any]) -> Any:
        """The values of all outputs, in order."""
        return self.sessions[number].run(None, inputs)

    def close(self, numbers: list[int]) -> None:
        """Forget sessions."""
        for number in numbers:
            del self.sessions[number]


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer every request: (True, the result) or (False, what ONNX Runtime says)."""
    worker: Worker | None = None
    while True:
        try:
            name, arguments, closed = pickle.load(requests)
        except EOFError:
            return
        try:
            worker = worker or Worker()
            worker.close(closed)
            answer = (True, getattr(worker, name)(*arguments))
        except Exception as error:  # noqa: BLE001  (whatever it is, the asker is told)
            answer = (False, (str(error).splitlines() or [type(error).__name__])[0])
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


if __name__ == "__main__":
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    serve(sys.stdin.buffer, answers)
