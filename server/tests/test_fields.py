"""Bodies with very many faults cost no more memory than those with one."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from pydantic import ConfigDict, Field, ValidationError

from quire_server.http.fields import BoundedModel, RequestModel


class Strict(BoundedModel):
    """Knows what it may hold."""

    model_config = ConfigDict(extra="forbid")

    one: int | None = None
    many: list[int] = Field(default_factory=list)


class Body(RequestModel):
    """Holds strict objects."""

    strict: Strict | None = None
    several: list[Strict] = Field(default_factory=list)


MANY = {str(number): number for number in range(50_000)}


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"strict": MANY}, ("strict", "0")),
        ({"strict": {"one": 1, **MANY}}, ("strict", "0")),
        ({"several": [{}, MANY]}, ("several", 1, "0")),
        ({"strict": {"many": ["x"] * 50_000}}, ("strict", "many", 0)),
    ],
)
def test_the_first_fault_is_enough(body: Any, where: tuple[Any, ...]) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError) as caught:
            Body.model_validate(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [one["loc"] for one in caught.value.errors()] == [where]
    assert peak < 2**20


def test_what_is_known_is_still_checked_beside_what_is_not() -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"strict": {"odd": 1, "one": "x"}})
    assert {one["loc"] for one in caught.value.errors()} == {("strict", "odd"), ("strict", "one")}
