"""What users may set: how many last tokens are looked up."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

_LONGEST, _SHORTEST = 4, 2

Length = Annotated[int, Field(ge=1, le=32)]


class NgramOptions(BaseModel):
    """Lengths of what is looked up. Where one is not given it is 4 or 2, or as far off as the other allows.

    Attributes:
        prompt_lookup_max: most last tokens that have to have occurred before; they are tried first.
        prompt_lookup_min: fewest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompt_lookup_max: Length = _LONGEST
    prompt_lookup_min: Length = _SHORTEST

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if isinstance(given, dict):
            longest, shortest = given.get("prompt_lookup_max"), given.get("prompt_lookup_min")
            if isinstance(longest, int) and shortest is None:
                return {**given, "prompt_lookup_min": min(_SHORTEST, longest)}
            if isinstance(shortest, int) and longest is None:
                return {**given, "prompt_lookup_max": max(_LONGEST, shortest)}
        return given

    @model_validator(mode="after")
    def _in_order(self) -> NgramOptions:
        if self.prompt_lookup_min > self.prompt_lookup_max:
            raise ValueError(
                f"prompt_lookup_min ({self.prompt_lookup_min}) must be at most prompt_lookup_max "
                f"({self.prompt_lookup_max})"
            )
        return self
