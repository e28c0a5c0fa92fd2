"""The instruction set, one module per kind; importing this package declares every instruction."""

from isa.instructions import (
    control,
    dma,
    matrix,
    matrix_gradient,
    vector,
    vector_depthwise,
    vector_depthwise_sums,
    vector_elementwise,
    vector_gradient,
    vector_loss,
    vector_reduce,
    vector_training,
    vector_words,
)
from isa.spec import reserve

__all__ = [
    "control",
    "dma",
    "matrix",
    "matrix_gradient",
    "vector",
    "vector_depthwise",
    "vector_depthwise_sums",
    "vector_elementwise",
    "vector_gradient",
    "vector_loss",
    "vector_reduce",
    "vector_training",
    "vector_words",
]

reserve("loop", 0x0A, "L")
reserve("step", 0x0B, "L")
reserve("send", 0xA2, "N")
reserve("recv", 0xA3, "N")
