"""Frozen values to plain JSON and back, every field checked.

The type annotations of the fields are the schema: int, str, bool, tuples of these and of other
such values, and `| None`. JSON is written canonically: sorted keys, no spaces.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Callable
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
    """The value as an instance of a type annotation."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return _optional(kind, value, where)
    if origin is tuple:
        return _sequence(kind, value, where)
    if isinstance(kind, FrozenMeta):
        return _record(cast("type[Frozen]", kind), value, where)
    assert kind in _SCALARS, f"{where}: no JSON form for {kind}"
    return _SCALARS[kind](value, where)


def _real(value: object, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RecordError(f"{where} is not a number")
    return float(value)


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > MAX_INTEGER:
        raise RecordError(f"{where} is not a whole number of at most 62 bits")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{where} is not a text")
    if not is_unicode(value):
        raise RecordError(f"{where} holds half of a surrogate pair")
    return value


def _truth(value: object, where: str) -> bool:
    if not isinstance(value, bool):
        raise RecordError(f"{where} is not a truth value")
    return value


_SCALARS: Final[dict[Any, Callable[[object, str], object]]] = {
    float: _real,
    int: _whole,
    str: _text,
    bool: _truth,
}


def is_unicode(text: str) -> bool:
    """Whether a text from JSON can be written as UTF-8: no lone surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in text)


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result: dict[str, object] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} stands twice")
        result[key] = value
    return result


def _no_constants(name: str) -> object:
    raise ValueError(f"{name} is not allowed")


def _optional(kind: Any, value: object, where: str) -> object:
    options = [k for k in get_args(kind) if k is not type(None)]
    assert len(options) == 1
    return None if value is None else from_builtins(options[0], value, where)


def _sequence(kind: Any, value: object, where: str) -> object:
    if not isinstance(value, list):
        raise RecordError(f"{where} is not a list")
    items = cast("list[object]", value)
    args = get_args(kind)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(from_builtins(args[0], v, f"{where}[{i}]") for i, v in enumerate(items))
    if len(items) != len(args):
        raise RecordError(f"{where} has {len(items)} entries; allowed: {len(args)}")
    return tuple(
        from_builtins(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, items, strict=True))
    )


def _record(cls: type[Frozen], value: object, where: str) -> object:
    if not isinstance(value, dict):
        raise RecordError(f"{where} is not an object")
    given = cast("dict[str, object]", value)
    hints = get_type_hints(cls)
    names = names_of(cls)
    if extra := sorted(set(given) - set(names)):
        raise RecordError(f"{where} has the unknown key {extra[0]!r}")
    if missing := sorted(set(names) - set(given)):
        raise RecordError(f"{where} lacks the key {missing[0]!r}")
    return cls(**{n: from_builtins(hints[n], given[n], f"{where}.{n}") for n in names})
