"""What makes the tiles of every operation: one module per family, each declaring its own."""

from compiler.schedule.builder import PLANNERS
from compiler.schedule.tiles import (
    convolution,
    depth_to_space,
    elementwise,
    matrix,
    moves,
    pooling,
    reduce,
)

__all__ = [
    "PLANNERS",
    "convolution",
    "depth_to_space",
    "elementwise",
    "matrix",
    "moves",
    "pooling",
    "reduce",
]
