"""Whole numbers from texts that nobody vouches for."""

from __future__ import annotations

from typing import Final

MAX_DIGITS: Final = 18


def whole_number(text: str) -> int | None:
    """The value of ASCII digits, at most 18 of them; None for any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS else None
