"""What requests may say to active logits processors, checked where requests are admitted.

Knows the processors' pydantic models; imports no processor.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from quire.errors import InvalidRequestError
from quire.plugin_plan import import_target

__all__ = ["RequestArguments"]


class RequestArguments:
    """The models of all active processors."""

    def __init__(self, models: Mapping[str, str]) -> None:
        """Import them.

        Args:
            models: by the processor's name "module:PydanticModel".

        Raises:
            PluginError: one cannot be imported.
        """
        self._models: list[type[BaseModel]] = [
            import_target("logits_processor", name, target) for name, target in models.items()
        ]
        self._known = sorted({field for model in self._models for field in model.model_fields})

    def validate(self, given: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """The arguments in their checked form, those alone that were given.

        Raises:
            InvalidRequestError: a key that no active processor reads, or a value that its model refuses.
        """
        if not given:
            return None
        unknown = sorted(set(given) - set(self._known))
        if unknown:
            known = (
                f"Known are: {', '.join(self._known)}."
                if self._known
                else "None is active that takes any; `logits_processors` in the configuration activates them."
            )
            raise InvalidRequestError(
                f"extra_args: no active logits processor reads {unknown[0]!r}. {known}",
                field=f"extra_args.{unknown[0]}",
            )
        checked: dict[str, Any] = {}
        for model in self._models:
            own = {key: value for key, value in given.items() if key in model.model_fields}
            if not own:
                continue
            try:
                checked |= model.model_validate(own).model_dump(mode="json", exclude_unset=True)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(("extra_args", *(str(part) for part in first["loc"])))
                said, got = first["msg"].removeprefix("Value error, "), reprlib.repr(first["input"])
                raise InvalidRequestError(f"{where}: {said}, got {got}.", field=where) from error
        return checked
