"""Small things beside layers and models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from isa.support.records import Struct


class _Seed(Struct):
    value: int = 0


SEED = _Seed()


def set_random_seed(seed: int) -> None:
    """Let initial weights and the order of samples follow from this number; it is 0 otherwise."""
    SEED.value = seed


def is_neutral(table: Mapping[str, tuple[Any, ...]], option: str, value: Any) -> bool:
    """Whether an option changes nothing: the table has the values that do not, or none where all do not."""
    return option in table and (not table[option] or value in table[option])
