"""The instruction set, one module per kind; importing this package declares every instruction."""

from isa.instructions import (
    control,
    dma,
    matrix,
    vector,
    vector_depthwise,
    vector_elementwise,
    vector_reduce,
)
from isa.spec import reserve

__all__ = [
    "control",
    "dma",
    "matrix",
    "vector",
    "vector_depthwise",
    "vector_elementwise",
    "vector_reduce",
]

reserve("loop", 0x0A, "L")
reserve("step", 0x0B, "L")
reserve("wgrad", 0x64, "T")
reserve("vacc", 0x89, "T")
reserve("send", 0xA2, "N")
reserve("recv", 0xA3, "N")
