"""Values are equal, hashed and shown by their fields, as frozen dataclasses are, and do not change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest

from isa.memory_map import Space
from isa.spec import Instruction
from isa.support.records import Frozen, asdict, described, descriptions, field, names_of, replace


class Pair(Frozen):
    """Two numbers."""

    a: int
    b: float = 0.5


class Twin(Frozen):
    """Two numbers, of another class."""

    a: int
    b: float = 0.5


class Triple(Pair):
    """Three."""

    c: tuple[int, ...] = ()


class Single(Frozen):
    """One."""

    a: object


class Nothing(Frozen):
    """None."""


class Open(Frozen, dict=True):
    """With room for cached properties."""

    a: int = 1
    b: list[int] = field(default_factory=list[int])

    @cached_property
    def double(self) -> int:
        """Worked out once."""
        self.b.append(0)
        return 2 * self.a


class Told(Frozen):
    """With something to say of its fields."""

    first: int = described(unit="bytes")
    plain: int = 3
    second: int = described(default=7, unit="cycles", least=0)


class ToldMore(Told):
    """Of one field more."""

    third: Space = described(default=Space.ACC, unit="memory")


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
def test_equal_objects_hash_alike_and_texts_are_those_of_a_dataclass(values: tuple[Any, ...]) -> None:
    assert hash(Pair(*values)) == hash(Pair(*values))
    assert repr(Pair(*values)) == repr(Plain(*values)).replace("Plain", "Pair")


def test_texts_name_inherited_fields_and_none() -> None:
    assert repr(Triple(1, 2.0, (3,))) == "Triple(a=1, b=2.0, c=(3,))"
    assert repr(Single("x")) == "Single(a='x')"
    assert repr(Nothing()) == "Nothing()"


def test_fields_are_named_and_replaced_inherited_ones_first() -> None:
    assert names_of(Triple) == ("a", "b", "c")
    assert asdict(Triple(1)) == {"a": 1, "b": 0.5, "c": ()}
    assert replace(Triple(1), b=2.0) == Triple(1, 2.0)
    with pytest.raises(TypeError):
        replace(Pair(1), d=2)


def test_fields_do_not_change() -> None:
    pair = Pair(1)
    for name in ("a", "b", "other"):
        with pytest.raises(AttributeError):
            setattr(pair, name, 1)
        with pytest.raises((AttributeError, TypeError)):
            delattr(pair, name)
    assert pair == Pair(1)


def test_properties_are_cached_beside_the_fields() -> None:
    value = Open(3)
    assert (value.double, value.double) == (6, 6)
    assert value == Open(3, [0])


def test_defaults_are_made_anew_for_every_object() -> None:
    assert Open().b is not Open().b


def test_fields_by_name_alone_are_refused_by_position() -> None:
    make: Any = Instruction
    with pytest.raises(TypeError):
        make((1,))
    assert make(waits=(1,)).waits == (1,)


def test_descriptions_come_in_the_order_of_the_fields() -> None:
    assert list(descriptions(Told)) == [
        ("first", {"unit": "bytes"}),
        ("second", {"unit": "cycles", "least": 0}),
    ]
    assert [name for name, _ in descriptions(ToldMore)] == ["first", "second", "third"]
    told: Any = Told
    assert not list(descriptions(Pair))
    assert ToldMore(1) == ToldMore(1, 3, 7, Space.ACC)
    with pytest.raises(TypeError):
        told()
