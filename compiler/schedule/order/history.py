"""Who touched which part of a memory last."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final

from isa.spec import Engine

NOBODY: Final = -1
Part = tuple[int, int, int, bool]
"""What is touched: which memory, the first address, one past the last, whether it is written."""


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


class History:
    """What every engine has touched so far, by number; numbers never fall."""

    def __init__(self) -> None:
        self._maps: dict[int, tuple[dict[Engine, LastTouch], dict[Engine, LastTouch]]] = {}
        """By memory: what was written, what was read."""

    def touch(self, engine: Engine, parts: Sequence[Part], number: int, known: Sequence[int]) -> list[int]:
        """An engine touches these parts.

        For every other engine the last number that conflicts, if it is above what is known of the engine. A
        write conflicts with everything, a read with writes.
        """
        latest = list(known)
        for memory, low, high, write in parts:
            if memory not in self._maps:
                self._maps[memory] = {}, {}
            maps = self._maps[memory]
            for by_engine in maps if write else maps[:1]:
                for other, touched in by_engine.items():
                    if touched.newest > latest[other] and other is not engine:
                        latest[other] = max(latest[other], touched.latest(low, high))
            own = maps[not write]
            if engine not in own:
                own[engine] = LastTouch()
            own[engine].touch(low, high, number)
        return [number for number, before in zip(latest, known, strict=True) if number > before]
