"""Where a thing came from: a line of a file, a node of a model, or several of these fused."""

from __future__ import annotations

from isa.support.records import Frozen


class UnknownLoc(Frozen):
    """No place is known."""

    def describe(self) -> str:
        """An empty string."""
        return ""


class FileLoc(Frozen):
    """A place in a text file; line and column count from 1, 0 means the file as a whole."""

    path: str
    line: int = 0
    column: int = 0
    end_column: int = 0

    def describe(self) -> str:
        """`path:line:column`, as far as it is known."""
        if not self.line:
            return self.path
        return f"{self.path}:{self.line}:{self.column}" if self.column else f"{self.path}:{self.line}"


class NodeLoc(Frozen):
    """A node of a model, by its name and operator."""

    model: str
    node: str
    op_type: str

    def describe(self) -> str:
        """`model: node (operator)`."""
        return f"{self.model}: {self.node} ({self.op_type})"


class FusedLoc(Frozen):
    """Several places that became one thing."""

    parts: tuple[Loc, ...]

    def describe(self) -> str:
        """The places, joined by a plus sign."""
        return " + ".join(p.describe() for p in self.parts)


Loc = UnknownLoc | FileLoc | NodeLoc | FusedLoc
UNKNOWN = UnknownLoc()


def fuse(*locs: Loc) -> Loc:
    """The location of something made from several things; order kept, repeats dropped."""
    parts: list[Loc] = []
    for loc in locs:
        for part in loc.parts if isinstance(loc, FusedLoc) else (loc,):
            if part not in parts and not isinstance(part, UnknownLoc):
                parts.append(part)
    if not parts:
        return UNKNOWN
    return parts[0] if len(parts) == 1 else FusedLoc(tuple(parts))


def leaves(loc: Loc) -> tuple[Loc, ...]:
    """The single places of a location."""
    return loc.parts if isinstance(loc, FusedLoc) else (loc,)
