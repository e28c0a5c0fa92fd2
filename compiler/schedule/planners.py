"""What makes the tiles of every operation: one module per family, each declaring its own."""

from compiler.schedule import blocks, convolution, elementwise, matrix, moves, reduce, vector
from compiler.schedule.builder import PLANNERS

__all__ = ["PLANNERS", "blocks", "convolution", "elementwise", "matrix", "moves", "reduce", "vector"]
