"""Fields of documents: what an annotation takes, from dataclasses and signatures alike, and what is refused how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from terrazzo.errors import ConfigError
from terrazzo.fields import (
    BelowOne,
    Bounds,
    Count,
    Share,
    Within,
    accepted,
    as_plain,
    fields_of,
    read_value,
    refuse_missing,
    refuse_unknown,
    required,
)


class Layer:
    def __init__(self, width: Count, rate: BelowOne | None = None) -> None: ...


@dataclass(frozen=True)
class Row:
    width: Count
    rate: BelowOne | None = None


@pytest.mark.parametrize("kind", [Layer, Row])
def test_a_dataclass_and_a_signature_are_read_alike(kind: Any) -> None:
    assert list(fields_of(kind)) == ["width", "rate"] and required(kind) == ["width"]
    assert fields_of(kind)["rate"].default is None
    assert accepted(kind, "width") == "a whole number; at least 1 and below 2**31"
    assert accepted(kind, "rate") == "a number, such as 6.0e-5 or null; at least 0 and below 1"


@pytest.mark.parametrize(
    ("value", "hint", "taken"),
    [
        (1, float, 1.0),
        (None, int | None, None),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ([3, 4, 5], Sequence[int], (3, 4, 5)),
        (["a"], tuple[str, ...], ("a",)),
        ([], Sequence[int], ()),
        ("keep", Literal["ignore", "keep"], "keep"),
        ({"a": [1]}, Mapping[str, Any], {"a": [1]}),
        (0.5, Share | None, 0.5),
    ],
)
def test_values_are_taken_as_their_field_has_them(value: Any, hint: Any, taken: Any) -> None:
    found = read_value(value, hint, "a.b", code="some-code")
    assert found == taken and type(found) is type(taken)
    assert read_value(found, hint, "a.b", code="some-code") == found


@pytest.mark.parametrize(
    ("value", "hint", "message", "fix"),
    [
        (True, int, "a.b is True", "it must be a whole number"),
        (1, bool, "a.b is 1", "it must be true or false"),
        (1.0, int, "a.b is 1.0", "it must be a whole number"),
        ("1", int | None, "a.b is '1'", "it must be a whole number or null"),
        (float("nan"), float, "a.b is nan", "it must be a number, such as 6.0e-5"),
        (10**400, float, "a.b is an int", "it must be a number, such as 6.0e-5"),
        ([1], tuple[int, int], "a.b is [1]", "it must be a list of 2, each a whole number"),
        (["a", 1], Sequence[int], "a.b is ['a', 1]", "it must be a list of whole numbers"),
        ([[1]], Sequence[int], "a.b is [a list]", "it must be a list of whole numbers"),
        ([10**5000], Sequence[float], "a.b is [an int]", "it must be a list of numbers"),
        (1, Literal["x", "y"], "a.b is 1", "it must be x or y"),
        ([], Literal["x", "y"], "a.b is []", "it must be x or y"),
        ({1: 2}, Mapping[str, Any], "a.b is a dict", "it must be a mapping of names to values"),
        (0, Count, "a.b is 0", "it must be at least 1 and below 2**31"),
        (1.0, BelowOne | None, "a.b is 1.0", "it must be at least 0 and below 1"),
        ([2, 1], Bounds, "a.b is [2, 1]", "it must be a lower and an upper bound, each above 0"),
        ([1, 9], Annotated[Sequence[int], Within(total=(1, 9))], "a.b is [1, 9]", "it must be 1 to 9 in all"),
        ({"x": [{"y": 1 << 33}]}, Mapping[str, Any], "a.b: 'y' is 8589934592", "it must be at most 4,294,967,296"),
        ({"x": [0] * 10_001}, Mapping[str, Any], "a.b is a dict", "it must be a mapping of at most 10,000 values"),
    ],
)
def test_what_a_field_cannot_take_is_told(value: Any, hint: Any, message: str, fix: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_value(value, hint, "a.b", code="some-code")
    assert (caught.value.message, caught.value.fix, caught.value.code) == (message, fix, "some-code")


def test_limits_hold_beside_a_fields_own_range() -> None:
    limits = (Within(at_least=-9, at_most=9), Within(items=2))
    assert read_value([9, -9], Sequence[int], "x", code="c", limits=limits) == (9, -9)
    for value, fix in ((10, "between -9 and 9"), ([1, 2, 3], "a list of at most 2 values")):
        with pytest.raises(ConfigError) as caught:
            read_value(value, int | Sequence[int], "x", code="c", limits=limits)
        assert caught.value.fix == f"it must be {fix}"


def test_names_that_are_unknown_or_missing() -> None:
    refuse_unknown(["lr"], ["lr", "power"], "here")
    for name, fix in (("lrr", "did you mean lr? known keys: lr, power"), (3, "known keys: lr, power")):
        with pytest.raises(ConfigError, match=f"here has an unknown key {name!r}") as caught:
            refuse_unknown(["lr", name], ["lr", "power"], "here", code="c")
        assert (caught.value.fix, caught.value.code) == (fix, "c")
    with pytest.raises(ConfigError, match="here lacks lr, power"):
        refuse_missing(["p"], ["lr", "p", "power"], "here", fix="add it")


def test_plain_values() -> None:
    assert as_plain(Row(3)) == {"width": 3, "rate": None}
    assert as_plain({"a": (1, [Row(2, 0.5)])}) == {"a": [1, [{"width": 2, "rate": 0.5}]]}
