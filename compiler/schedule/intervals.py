"""Who touched which part of a memory last."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Final

NOBODY: Final = -1


class LastTouch:
    """For every address the number given last, numbers never falling; pieces of equal number are one."""

    __slots__ = ("_starts", "_values", "newest")

    def __init__(self) -> None:
        self._starts = [0]
        self._values = [NOBODY]
        self.newest = NOBODY
        """The greatest number given."""

    def latest(self, low: int, high: int) -> int:
        """The greatest number within low..high, or NOBODY."""
        first = bisect_right(self._starts, low) - 1
        last = bisect_left(self._starts, high)
        if last - first == 1:
            return self._values[first]
        return max(self._values[first:last])

    def touch(self, low: int, high: int, number: int) -> None:
        """Give a number to low..high."""
        starts, values = self._starts, self._values
        first = bisect_left(starts, low)
        last = bisect_right(starts, high)
        after = values[last - 1]
        new_starts, new_values = [low], [number]
        if last == first or starts[last - 1] < high or last - 1 < first:
            new_starts.append(high)
            new_values.append(after)
        else:
            last -= 1  # a piece begins exactly at high and stays
        starts[first:last] = new_starts
        values[first:last] = new_values
        self.newest = number
