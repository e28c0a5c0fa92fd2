"""Records, and values that do not change once they are made.

Both are structs of msgspec, whose methods are in C. A dataclass compiles up to six methods when its module is
imported: with more than two hundred of them a short command spent a tenth of its time on these.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeVar, dataclass_transform

import msgspec
from msgspec import Struct, field, to_builtins
from msgspec.structs import asdict, replace

__all__ = [
    "Frozen",
    "FrozenMeta",
    "Struct",
    "asdict",
    "described",
    "descriptions",
    "field",
    "names_of",
    "replace",
    "to_builtins",
]

M = TypeVar("M", bound="FrozenMeta")


class _Described(NamedTuple):
    default: object
    description: Mapping[str, Any]


def described(*, default: object = msgspec.NODEFAULT, **description: Any) -> Any:
    """Declare a field of which there is more to say than its type: see `descriptions`."""
    return _Described(default, description)


class FrozenMeta(msgspec.StructMeta):
    """Makes classes of values: as `Frozen` says."""

    __described__: Mapping[str, Mapping[str, Any]]

    def __new__(
        cls: type[M], name: str, bases: tuple[type, ...], namespace: dict[str, Any], /, **options: Any
    ) -> M:
        """A class of values; `options` are those of a struct: `kw_only`, `dict`."""
        found = {n: v for n, v in namespace.items() if isinstance(v, _Described)}
        body = {n: v for n, v in namespace.items() if n not in found}
        body |= {n: v.default for n, v in found.items() if v.default is not msgspec.NODEFAULT}
        made = super().__new__(cls, name, bases, body, **options)
        inherited = (getattr(base, "__described__", {}) for base in reversed(bases))
        own = {n: v.description for n, v in found.items()}
        made.__described__ = {n: d for each in (*inherited, own) for n, d in each.items()}
        return made


@dataclass_transform(eq_default=False, frozen_default=True, field_specifiers=(field, described))
class Frozen(Struct, metaclass=FrozenMeta, frozen=True):
    """The base of values: fields given once, by position or name; assigning to one raises AttributeError.

    Objects are equal, and hash alike, where they are of one class and their fields are equal. A class with
    cached properties, or one of its bases, is declared with `dict=True`.
    """


def names_of(cls: type[Frozen]) -> tuple[str, ...]:
    """The names of the fields of a class, those that it inherits first."""
    return cls.__struct_fields__


def descriptions(cls: type[Frozen]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every described field of a class, in the order of the fields, and what its declaration says of it."""
    for name in names_of(cls):
        if name in cls.__described__:
            yield name, cls.__described__[name]
