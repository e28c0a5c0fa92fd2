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

    def conflicts(self, engine: Engine, parts: Sequence[Part], known: Sequence[int]) -> list[int]:
        """For every other engine the last number that conflicts, if it is above what is known of the engine.

        A write conflicts with everything, a read with writes.
        """
        latest = list(known)
        for memory, low, high, write in parts:
            if memory not in self._maps:
                continue
            for by_engine in self._maps[memory] if write else self._maps[memory][:1]:
                for other, touched in by_engine.items():
                    if other is not engine and touched.newest > latest[other]:
                        latest[other] = max(latest[other], touched.latest(low, high))
        return [number for number, before in zip(latest, known, strict=True) if number > before]

    def record(self, engine: Engine, parts: Sequence[Part], number: int) -> None:
        """An engine touches these parts."""
        for memory, low, high, write in parts:
            if memory not in self._maps:
                self._maps[memory] = {}, {}
            by_engine = self._maps[memory][not write]
            if engine not in by_engine:
                by_engine[engine] = LastTouch()
            by_engine[engine].touch(low, high, number)
