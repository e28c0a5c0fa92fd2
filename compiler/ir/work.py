"""The least work of an operation on any X1 machine, as its declaration states it.

Lower bounds on cycles follow from it and a target. They leave out everything that a schedule may or may not
need: moving activations, filling pipelines, padding of tiles.
"""

from __future__ import annotations

import math
from fractions import Fraction

from isa.instructions.matrix import depth_passes
from isa.support.records import Frozen
from isa.target import Target


class LowerBound(Frozen):
    """Lower bounds: cycles of the matrix array, lanes x cycles of the vector unit, bytes of DRAM."""

    mx_cycles: int = 0
    vx_lanes: int = 0
    dram_bytes: int = 0


class Work(Frozen):
    """Results that pass the vector unit once (`elements`), and bytes of constants; nothing else."""

    elements: int = 0
    constant_bytes: int = 0

    def lower_bound(self, t: Target) -> LowerBound:
        """The bounds on a target."""
        del t
        return LowerBound(0, self.elements, self.constant_bytes)


class ProductWork(Work):
    """A product of `rows` with `columns` per group: a sum over kernel rows, kernel columns and channels."""

    rows: int = 0
    columns: int = 0
    channels: int = 0
    kernel: tuple[int, int] = (1, 1)
    groups: int = 1

    def lower_bound(self, t: Target) -> LowerBound:
        """Passes of the array, the depth of the sum laid on its rows in whichever way is best."""
        share = min(Fraction(self._passes(block, t), block) for block in range(1, self.groups + 1))
        passes = math.ceil(self.groups * share)  # of blocks of any sizes, none does with less
        return LowerBound(passes * self.rows, self.elements, self.constant_bytes)

    def _passes(self, block: int, t: Target) -> int:
        """Passes for some groups at once, zeros between their kernels."""
        kh, kw = self.kernel
        channels = block * self.channels
        # A bound, not what an instruction takes: kernel rows too may lie side by side, the weights of a pass
        # may be there already, and nothing is filled or drained.
        depth = min(
            *depth_passes(kh, kw, channels, t.mx.rows),
            math.ceil(kh * kw * channels / t.mx.rows),
        )
        return math.ceil(block * self.columns / t.mx.cols) * depth


class WindowWork(Work):
    """Windows that slide over every channel by itself, `steps` for each.

    With `multiplied`, the taps of a depthwise convolution, some of which a lane takes at once.
    """

    channels: int = 0
    pixels: int = 0
    steps: int = 0
    multiplied: bool = False

    def lower_bound(self, t: Target) -> LowerBound:
        """Lanes x cycles of the vector unit."""
        steps = math.ceil(self.steps / t.vx.dw_taps) if self.multiplied else self.steps
        cycles = math.ceil(self.channels / t.vx.lanes) * self.pixels * steps
        return LowerBound(0, cycles * t.vx.lanes, self.constant_bytes)
