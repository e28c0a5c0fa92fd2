"""The hunt for mutants: how many of a kind the checker finds, and how many mean the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from isa.checker import check
from isa.program import Program
from tests.mutants import MUTATIONS, Conflict, Mutant, Random, conflicts, keeps_order, same_accesses


@dataclass
class Original:
    """A compiled program, with what mutants are compared by."""

    program: Program
    conflicts: list[Conflict] = field(init=False)
    left: bytes = field(init=False)
    """What it leaves."""

    def __post_init__(self) -> None:
        self.conflicts = conflicts(self.program)
        self.left = self.run(self.program)

    def run(self, program: Program, seed: int | None = None) -> bytes:
        """What a program leaves, in order or interleaved by a seed; a trap is a result too."""
        raise NotImplementedError

    def is_equivalent(self, kind: str, mutant: Mutant) -> bool:
        """Same order of all conflicts, or same footprints; and the same bytes in order and interleaved."""
        if kind == "nudged":
            same = same_accesses(self.program, mutant)
        else:
            same = keeps_order(self.program, self.conflicts, mutant)
        return same and all(self.run(mutant.program, seed) == self.left for seed in (None, 1, 2))

    def is_caught(self, kind: str, mutant: Mutant) -> bool:
        """Whether the checker, or of a nudged program the result, shows the fault."""
        if check(mutant.program).violations:
            return True
        return kind == "nudged" and self.run(mutant.program) != self.left


@dataclass
class Hunt:
    """What became of mutants; those that escaped as text."""

    caught: int = 0
    equivalent: int = 0
    escaped: list[str] = field(default_factory=list[str])


def hunt(kind: str, count: int, originals: Sequence[Original], random: Random) -> Hunt:
    """As many mutants of a kind as it takes for so many that do not mean the same."""
    found = Hunt()
    while found.caught + len(found.escaped) < count:
        number = int(random.integers(len(originals)))
        original = originals[number]
        mutant = MUTATIONS[kind](original.program, random)
        if mutant is None:
            continue
        if original.is_caught(kind, mutant):
            found.caught += 1
        elif original.is_equivalent(kind, mutant):
            found.equivalent += 1
        else:
            changed = zip(original.program.instructions, mutant.program.instructions, strict=True)
            found.escaped.append(f"{number}: " + "; ".join(f"{a} -> {b}" for a, b in changed if a != b))
    return found
