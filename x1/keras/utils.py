"""Small things beside layers and models."""

from __future__ import annotations

from isa.support.records import Struct


class _Seed(Struct):
    value: int = 0


SEED = _Seed()


def set_random_seed(seed: int) -> None:
    """Let initial weights and the order of samples follow from this number; it is 0 otherwise."""
    SEED.value = seed
