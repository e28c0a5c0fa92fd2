"""Who waits for whom: the message of a deadlock between devices."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Final, TypeVar

from isa.faults import MachineTrap, trap_at
from isa.program import Program
from isa.spec import Trap, TrapError
from isa.support.records import Frozen

MOST_NAMED: Final = 12
"""Steps of a circle that are printed."""
Place = TypeVar("Place", bound=Hashable)


class Blocked(Frozen):
    """An instruction that cannot go on."""

    program: Program
    pc: int

    def __str__(self) -> str:
        """The device, the instruction, and what it does."""
        return f"device {self.program.device} pc {self.pc} {self._what()}"

    @property
    def other(self) -> int | None:
        """The device at the other side, where it is a transfer."""
        transfer = self.program.instructions[self.pc].transfer()
        return None if transfer is None else transfer.other(self.program.device, self.program.devices)

    def _what(self) -> str:
        instr = self.program.instructions[self.pc]
        transfer = instr.transfer()
        if transfer is None:
            return instr.mnemonic
        return f"{instr.mnemonic} {'to' if transfer.sends else 'from'} {self.other}"


def followed(place: Place, upon: Mapping[Place, Place | None]) -> tuple[list[Place], bool]:
    """Along what is waited for: the circle that it ends in, and that it does; else all up to the end."""
    seen: dict[Place | None, int] = {}
    found: list[Place] = []
    following: Place | None = place
    while following is not None and following in upon and following not in seen:
        seen[following] = len(found)
        found.append(following)
        following = upon[following]
    return found[seen.get(following, 0) :], following in seen


def waiting_text(chain: Sequence[Blocked], *, closes: bool) -> str:
    """Those that wait as a sentence; in a circle the last waits for the first."""
    named = [str(b) for b in chain[:MOST_NAMED]]
    if len(chain) > MOST_NAMED:
        named.append(f"{len(chain) - MOST_NAMED} more")
    return " waits for ".join([*named, str(chain[0]) if closes else "what never comes"])


def deadlock(blocked: Mapping[int, Blocked]) -> MachineTrap:
    """The trap of the first that waits in a circle, by device; of several circles the shortest counts."""
    upon = {device: each.other for device, each in blocked.items()}
    chain, closes = max((followed(d, upon) for d in upon), key=lambda found: (found[1], -len(found[0])))
    waiting = [blocked[device] for device in chain]
    error = TrapError(Trap.DEADLOCK, "", waiting_text(waiting, closes=closes))
    return trap_at(waiting[0].program, waiting[0].pc, error)
