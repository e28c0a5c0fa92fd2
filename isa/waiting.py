"""Who waits for whom: the message of a deadlock between devices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Final

from isa.faults import MachineTrap, trap_at
from isa.program import Program
from isa.spec import Trap, TrapError
from isa.support.records import Frozen

MOST_NAMED: Final = 12
"""Steps of a circle that are printed."""


class Blocked(Frozen):
    """An instruction that cannot go on, and the place, an engine or a device, that it waits for."""

    program: Program
    pc: int
    upon: Hashable

    def __str__(self) -> str:
        """The device, the instruction, and what it does."""
        return f"device {self.program.device} pc {self.pc} {self._what()}"

    def _what(self) -> str:
        instr = self.program.instructions[self.pc]
        transfer = instr.transfer()
        if transfer is None:
            return instr.mnemonic
        other = transfer.other(self.program.device, self.program.devices)
        return f"{instr.mnemonic} {'to' if transfer.sends else 'from'} {other}"


def circle(blocked: Mapping[Any, Blocked]) -> list[Blocked]:
    """Those that wait for one another in a circle; where there is none, a chain of those that wait."""
    chains = (_chain(place, blocked) for place in blocked)
    return max(chains, key=lambda chain: (_closes(chain, blocked), -len(chain)))


def _chain(place: Hashable, blocked: Mapping[Any, Blocked]) -> list[Blocked]:
    """From a place along what is waited for: the circle, or all up to the end."""
    seen: dict[Hashable, int] = {}
    found: list[Blocked] = []
    while place in blocked and place not in seen:
        seen[place] = len(found)
        found.append(blocked[place])
        place = blocked[place].upon
    return found[seen.get(place, 0) :]


def _closes(chain: list[Blocked], blocked: Mapping[Any, Blocked]) -> bool:
    return blocked.get(chain[-1].upon) is chain[0]


def circle_text(blocked: Mapping[Any, Blocked]) -> str:
    """The circle as a sentence."""
    chain = circle(blocked)
    named = [str(b) for b in chain[:MOST_NAMED]]
    if len(chain) > MOST_NAMED:
        named.append(f"{len(chain) - MOST_NAMED} more")
    if _closes(chain, blocked):
        return " waits for ".join([*named, str(chain[0])])
    return " waits for ".join([*named, "what never comes"])


def deadlock(blocked: Mapping[Any, Blocked]) -> MachineTrap:
    """The trap of the first that waits in a circle."""
    first = circle(blocked)[0]
    return trap_at(first.program, first.pc, TrapError(Trap.DEADLOCK, "", circle_text(blocked)))
