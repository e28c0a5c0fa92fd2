"""The operators, a file each: shape rule, meaning, import, quantization, export."""

from compiler.ops import (
    activation,
    add,
    average_pool,
    batch_norm,
    boundary,
    conv2d,
    gemm,
    max_pool,
    shapes,
    softmax,
)

__all__ = [
    "activation",
    "add",
    "average_pool",
    "batch_norm",
    "boundary",
    "conv2d",
    "gemm",
    "max_pool",
    "shapes",
    "softmax",
]
