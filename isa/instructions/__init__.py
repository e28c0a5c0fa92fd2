"""The instruction set, one module per kind; importing this package declares every instruction."""

from isa.instructions import (
    control,
    dma,
    matrix,
    matrix_gradient,
    network,
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
    "network",
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
