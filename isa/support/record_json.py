"""Frozen values to plain JSON and back, every field checked.

The type annotations of the fields are the schema: int, str, bool, tuples of these and of other
such values, and `| None`. JSON is written canonically: sorted keys, no spaces.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import repeat
from typing import Any, Final, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec

from isa.support.records import Frozen, FrozenMeta, names_of

T = TypeVar("T")
_NOT_SHOWN: Final = re.compile(r"[^ -~]")
MAX_JSON = 16 << 20
MAX_INTEGER = 1 << 62


class RecordError(Exception):
    """JSON that does not describe what it should; the message names the place."""


def to_json(value: object) -> bytes:
    """Canonical JSON of a tree of values: in ASCII, keys sorted, no spaces.

    Of what the annotations allow only floats must not be there: others print them otherwise.
    """
    text = msgspec.json.encode(value, order="sorted").decode()
    return _NOT_SHOWN.sub(lambda found: json.dumps(found[0])[1:-1], text).encode()


def parse_json(data: bytes, what: str) -> object:
    """The JSON value of some bytes: no duplicate keys, no more than 16 MiB.

    Raises:
        RecordError: the bytes are not such JSON.
    """
    if len(data) > MAX_JSON:
        raise RecordError(f"{what} has {len(data)} bytes; allowed: at most {MAX_JSON}")
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constants)
    except RecursionError:
        raise RecordError(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise RecordError(f"{what} is not JSON: {error}") from None


def from_json(cls: type[T], data: bytes, what: str) -> T:
    """The value that the JSON describes.

    Raises:
        RecordError: a key is missing, unknown or of the wrong type.
    """
    return cast("T", from_builtins(cls, parse_json(data, what), what))


def from_builtins(kind: Any, value: object, where: str) -> object:
    """The value as an instance of a type annotation.

    Raises:
        RecordError: it is none; the message begins with `where`.
    """
    try:
        return _reader(kind)(value)
    except _MisfitError as misfit:
        raise RecordError(f"{where}{misfit.path} {misfit.text}") from None


class _MisfitError(Exception):
    """What is wrong with a value, and where it stands in what is read; the path grows on the way out."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text, self.path = text, ""


_Reader = Callable[[object], object]


@cache
def _reader(kind: Any) -> _Reader:
    """What makes an instance of a type annotation of a plain value, or raises `_MisfitError`."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _optional(kind)
    if origin is tuple:
        args = get_args(kind)
        return _row(args[0]) if len(args) == 2 and args[1] is Ellipsis else _entries(args)
    if isinstance(kind, FrozenMeta):
        return _record(cast("type[Frozen]", kind))
    assert kind in _SCALARS, f"no JSON form for {kind}"
    return _SCALARS[kind]


def _real(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _MisfitError("is not a number")
    return float(value)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_INTEGER:
        raise _MisfitError("is not a whole number of at most 62 bits")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise _MisfitError("is not a text")
    if not is_unicode(value):
        raise _MisfitError("holds half of a surrogate pair")
    return value


def _truth(value: object) -> bool:
    if not isinstance(value, bool):
        raise _MisfitError("is not a truth value")
    return value


_SCALARS: Final[dict[Any, _Reader]] = {
    float: _real,
    int: _whole,
    str: _text,
    bool: _truth,
}


def is_unicode(text: str) -> bool:
    """Whether a text from JSON can be written as UTF-8: no lone surrogates."""
    return text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice")
        result[key] = value
    return result


def _no_constants(name: str) -> object:
    raise ValueError(f"{name} is not allowed")


def _optional(kind: Any) -> _Reader:
    (some,) = (k for k in get_args(kind) if k is not type(None))
    read = _reader(some)
    return lambda value: None if value is None else read(value)


def _row(kind: Any) -> _Reader:
    """A tuple of any length."""
    read = _reader(kind)
    return lambda value: _read_all(repeat(read), _list(value))


def _entries(kinds: Sequence[Any]) -> _Reader:
    """A tuple of entries of their own kinds."""
    readers = [_reader(kind) for kind in kinds]

    def reading(value: object) -> tuple[object, ...]:
        items = _list(value)
        if len(items) != len(readers):
            raise _MisfitError(f"has {len(items)} entries; allowed: {len(readers)}")
        return _read_all(readers, items)

    return reading


def _read_all(readers: Iterable[_Reader], items: Sequence[object]) -> tuple[object, ...]:
    found: list[object] = []
    try:
        for item, read in zip(items, readers, strict=False):
            found.append(read(item))
    except _MisfitError as misfit:
        misfit.path = f"[{len(found)}]{misfit.path}"
        raise
    return tuple(found)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise _MisfitError("is not a list")
    return cast("list[object]", value)


def _record(cls: type[Frozen]) -> _Reader:
    hints = get_type_hints(cls)
    readers = {name: _reader(hints[name]) for name in names_of(cls)}

    def reading(value: object) -> Frozen:
        if not isinstance(value, dict):
            raise _MisfitError("is not an object")
        given = cast("dict[str, object]", value)
        if extra := sorted(given.keys() - readers.keys()):
            raise _MisfitError(f"has the unknown key {extra[0]!r}")
        if missing := sorted(readers.keys() - given.keys()):
            raise _MisfitError(f"lacks the key {missing[0]!r}")
        made: dict[str, object] = {}
        try:
            for name, read in readers.items():
                made[name] = read(given[name])
        except _MisfitError as misfit:
            misfit.path = f".{list(readers)[len(made)]}{misfit.path}"
            raise
        return cls(**made)

    return reading
