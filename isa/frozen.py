"""Values that do not change once they are made: dataclasses whose immutability the type checker proves.

`dataclasses.dataclass(frozen=True)` compiles six methods per class when a module is imported, and makes every
construction slower to refuse assignments that the type checker has refused already. There are some two
hundred such classes here, and a short command spent a tenth of its time on these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any, TypeVar, cast, dataclass_transform, overload

T = TypeVar("T")


@overload
def frozen(cls: type[T], /) -> type[T]: ...
@overload
def frozen(*, kw_only: bool = False, slots: bool = True) -> Callable[[type[T]], type[T]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
def frozen(
    cls: type[T] | None = None, /, *, kw_only: bool = False, slots: bool = True
) -> type[T] | Callable[[type[T]], type[T]]:
    """Make a class a dataclass whose fields are given once.

    Objects are equal, and hash alike, where they are of one class and their fields are equal.
    `slots=False` is for classes with cached properties. Assigning to a field is an error of types, not one
    of the run.
    """

    def declare(cls: type[T]) -> type[T]:
        made = cast("Any", dataclasses.dataclass(eq=False, repr=False, slots=slots, kw_only=kw_only)(cls))
        names = [spec.name for spec in dataclasses.fields(made)]
        made.__eq__, made.__hash__, made.__repr__ = _methods(names)
        return made

    return declare if cls is None else declare(cls)


def _methods(
    names: Sequence[str],
) -> tuple[Callable[[Any, object], bool], Callable[[Any], int], Callable[[Any], str]]:
    """What compares, hashes and shows objects by the fields of these names, as a dataclass does."""
    values: Callable[[Any], tuple[Any, ...]]
    values = attrgetter(*names) if len(names) > 1 else lambda self: tuple(getattr(self, n) for n in names)

    def equal(self: Any, other: object) -> bool:
        return values(self) == values(other) if other.__class__ is self.__class__ else NotImplemented

    def hashed(self: Any) -> int:
        return hash(values(self))

    def shown(self: Any) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in zip(names, values(self), strict=True))
        return f"{self.__class__.__qualname__}({fields})"

    return equal, hashed, shown
