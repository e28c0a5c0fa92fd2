"""What `frozen` makes is a dataclass: equal, hashed and shown by its fields."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import pytest

from isa.frozen import frozen


@frozen
class Pair:
    """Two numbers."""

    a: int
    b: float = 0.5


@frozen
class Twin:
    """Two numbers, of another class."""

    a: int
    b: float = 0.5


@frozen
class Triple(Pair):
    """Three."""

    c: tuple[int, ...] = ()


@frozen
class Single:
    """One."""

    a: object


@frozen
class Nothing:
    """None."""


@frozen(kw_only=True, slots=False)
class Open:
    """With room for cached properties."""

    a: int = 1
    b: list[int] = field(default_factory=list[int])


@dataclass(frozen=True)
class Plain:
    """As the standard library makes it."""

    a: int
    b: float = 0.5


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (Pair(1), Pair(1, 0.5), True),
        (Pair(1), Pair(2), False),
        (Pair(1), Twin(1), False),
        (Pair(1), Triple(1), False),
        (Triple(1, 2, (3,)), Triple(1, 2, (3,)), True),
        (Single(1), Single(1), True),
        (Single(1), Single(2), False),
        (Nothing(), Nothing(), True),
        (Nothing(), Pair(1), False),
        (Pair(1), (1, 0.5), False),
        (Open(), Open(a=1, b=[]), True),
        (Open(), Open(b=[1]), False),
    ],
)
def test_objects_are_equal_where_class_and_fields_are(one: object, other: object, equal: bool) -> None:
    assert (one == other) is equal
    assert (one != other) is not equal


@pytest.mark.parametrize("values", [(1,), (1, 2.5), (-3, float("inf"))])
def test_hashes_and_texts_are_those_of_a_dataclass(values: tuple[Any, ...]) -> None:
    assert hash(Pair(*values)) == hash(Plain(*values))
    assert repr(Pair(*values)) == repr(Plain(*values)).replace("Plain", "Pair")


def test_texts_name_inherited_fields_and_none() -> None:
    assert repr(Triple(1, 2.0, (3,))) == "Triple(a=1, b=2.0, c=(3,))"
    assert repr(Single("x")) == "Single(a='x')"
    assert repr(Nothing()) == "Nothing()"


def test_fields_are_those_of_a_dataclass() -> None:
    assert [f.name for f in dataclasses.fields(Triple)] == ["a", "b", "c"]
    assert dataclasses.replace(Pair(1), b=2.0) == Pair(1, 2.0)


def test_slots_leave_no_room_for_other_attributes() -> None:
    with pytest.raises(AttributeError):
        setattr(Pair(1), "other", 1)  # noqa: B010
    assert vars(Open()) == {"a": 1, "b": []}


def test_fields_by_keyword_are_refused_by_position() -> None:
    make: Any = Open
    with pytest.raises(TypeError):
        make(1)
