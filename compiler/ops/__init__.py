"""The operators, a file each: shape rule, meaning, import, quantization, export."""

from compiler.ops import (
    activation,
    add,
    average_pool,
    batch_norm,
    boundary,
    concat,
    conv2d,
    gemm,
    max_pool,
    reduce,
    shapes,
    softmax,
)

__all__ = [
    "activation",
    "add",
    "average_pool",
    "batch_norm",
    "boundary",
    "concat",
    "conv2d",
    "gemm",
    "max_pool",
    "reduce",
    "shapes",
    "softmax",
]
