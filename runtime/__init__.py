"""Executes X1 binaries: the reference interpreter, and a session as in ONNX Runtime."""

from runtime.capture import TensorCapture
from runtime.faults import MachineTrap, TrapRecord
from runtime.interleave import Interleaving
from runtime.machine import Machine
from runtime.session import Argument, RunResult, Session

__all__ = [
    "Argument",
    "Interleaving",
    "Machine",
    "MachineTrap",
    "RunResult",
    "Session",
    "TensorCapture",
    "TrapRecord",
]
