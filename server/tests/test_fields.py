"""Request models: collections end at their first wrong item, whatever fields are called."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from quire_server.http.fields import RequestModel


class Text(RequestModel):
    """A choice of a union."""

    type: Literal["list"]
    default: list[int] = Field(default_factory=list)


class Image(RequestModel):
    """Another."""

    type: Literal["image"]
    metadata: list[int] | None = None


class Body(RequestModel):
    """Names that core schemas use too."""

    type: str | list[int] = "list"
    metadata: dict[str, list[int]] = {"type": [1]}  # noqa: RUF012 - pydantic copies it
    parts: list[Annotated[Text | Image, Field(discriminator="type")]] = Field(default_factory=list)
    expected: set[int] = Field(default_factory=set)


@pytest.mark.parametrize(
    "body",
    [
        {"type": ["a"] * 50},
        {"metadata": {"x": ["a"] * 50}},
        {"parts": [{"type": "list", "default": ["a"] * 50}]},
        {"parts": [{"type": "image", "metadata": ["a"] * 50}]},
        {"parts": [{"type": "wrong"}] * 50},
        {"expected": ["a"] * 50},
    ],
)
def test_collections_end_at_their_first_wrong_item(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Body.model_validate(body)
    assert caught.value.error_count() <= 2  # one per member of a union


def test_right_values_and_defaults_are_as_ever() -> None:
    assert Body().metadata == {"type": [1]}
    body = Body.model_validate({"type": [1, 2], "parts": [{"type": "list", "default": [3]}]})
    assert body.type == [1, 2]
    assert body.parts == [Text(type="list", default=[3])]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "nan"])
def test_numbers_are_finite(value: Any) -> None:
    class Sampling(RequestModel):
        temperature: float

    with pytest.raises(ValidationError, match="finite"):
        Sampling(temperature=value)
