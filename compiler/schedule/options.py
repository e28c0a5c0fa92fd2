"""What a schedule may do, and what each optimization level does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from isa.support.records import Frozen, names_of, replace


class ScheduleOptions(Frozen):
    """Techniques, each of which can be left out by itself, to see what it is worth."""

    overlap: bool = True
    """Engines run side by side; copies alternate between buffers."""
    residency: bool = True
    """Results stay in the scratchpad between layers where there is room."""
    prefetch: bool = True
    """Weights arrive under earlier layers."""
    packing: bool = True
    """Few input channels are laid side by side on the rows of the array."""
    fusion: bool = True
    """Layers that follow one another work through an image together, some rows at a time."""
    address: bool = True
    """Slices are read, and what is joined or padded is written, in place: nothing is copied."""
    banks: bool = True
    """What is accessed at the same time is laid into different banks."""


class StepOptions(Frozen):
    """What the schedule of a step of training may differ in; the cycle model says which is best."""

    again: float = 0.0
    """For which part of the images a convolution is computed again rather than stored for the way back."""
    update_share: int = 3
    """Divides the accumulators, for the rows of a tile of an update."""
    array_for_sums: float = 1.5
    """By what the array may be slower than the vector unit where either can sum errors."""


TECHNIQUES: Final = names_of(ScheduleOptions)
NONE: Final = ScheduleOptions(**dict.fromkeys(TECHNIQUES, False))
LEVELS: Final = {
    0: NONE,
    1: replace(NONE, overlap=True),
    2: ScheduleOptions(fusion=False),
    3: ScheduleOptions(),
}


def schedule_options(level: int, without: Sequence[str] = ()) -> ScheduleOptions:
    """What an optimization level does, some techniques left out."""
    return replace(LEVELS[level], **dict.fromkeys(without, False))
