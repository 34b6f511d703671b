"""What a request may say about the form of its output. Names as in vLLM.

Knows the ways to say it, and sizes; whether a schema or a regular expression is any good is for those to say
who compile it.
"""

from __future__ import annotations

import json as _json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quire import _sampling_checks as check
from quire.contracts.grammar import GrammarSource
from quire.errors import InvalidRequestError

__all__ = ["GuidedDecodingParams", "StructuredOutputsParams"]

_FORMS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_MAX_TEXT = 1 << 20  # characters; the engine's configuration bounds a source further
_MAX_CHOICES = 16_384


@dataclass(slots=True)
class StructuredOutputsParams:
    """The form that an output must have: exactly one of the first six.

    Attributes:
        json: a JSON Schema, as a mapping, as JSON text, or as a pydantic model. An object that lists its
            properties has no others, unless its schema says so.
        regex: a regular expression that the whole output matches.
        choice: the output is one of these strings.
        grammar: a context-free grammar, in the EBNF of llama.cpp or in Lark's notation.
        json_object: True for any JSON object.
        structural_tag: free text with parts that follow a schema, in XGrammar's notation, as JSON or mapping.
        whitespace_pattern: regular expression of the whitespace between the tokens of JSON.
        disable_any_whitespace: no such whitespace at all.
        disable_additional_properties: as it is without, too; scripts written for vLLM may say so.

    Raises:
        InvalidRequestError: none of the six is given, or several; a value has a wrong type or is too long.
    """

    json: Any = None
    regex: str | None = None
    choice: Sequence[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: Any = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False

    def __post_init__(self) -> None:
        if self.json_object is not None:
            check.boolean("json_object", self.json_object)
        given = [name for name in _FORMS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            said = " and ".join(given) if given else "nothing"
            raise InvalidRequestError(
                f"structured_outputs says {said}: give exactly one of {', '.join(_FORMS)}.",
                field="structured_outputs",
            )
        for name in ("json", "structural_tag"):
            setattr(self, name, _as_json(name, getattr(self, name)))
        for name in ("json", "regex", "grammar", "structural_tag", "whitespace_pattern"):
            _check_text(name, getattr(self, name))
        if self.choice is not None:
            self.choice = _choices(self.choice)
        for name in ("disable_any_whitespace", "disable_additional_properties"):
            check.boolean(name, getattr(self, name))
        if self.whitespace_pattern is not None and self.disable_any_whitespace:
            raise InvalidRequestError(
                "whitespace_pattern goes not with disable_any_whitespace: leave one of them out.",
                field="whitespace_pattern",
            )

    @property
    def source(self) -> GrammarSource:
        """The same for those who compile it."""
        if self.json is not None:
            return self._json_source("json_schema", str(self.json))
        if self.json_object:
            return self._json_source("json_object", "")
        if self.choice is not None:
            return GrammarSource(form="choice", text=_json.dumps(list(self.choice), ensure_ascii=False))
        if self.regex is not None:
            return GrammarSource(form="regex", text=self.regex)
        if self.grammar is not None:
            return GrammarSource(form="grammar", text=self.grammar)
        return GrammarSource(form="structural_tag", text=str(self.structural_tag))

    def _json_source(self, form: Any, text: str) -> GrammarSource:
        return GrammarSource(
            form=form, text=text, compact=self.disable_any_whitespace, whitespace=self.whitespace_pattern
        )


@dataclass(slots=True)
class GuidedDecodingParams(StructuredOutputsParams):
    """The same by the name that vLLM had for it before 0.11, so that scripts written for it run as they are.

    Says nothing that `StructuredOutputsParams` does not; new code has no use for it.

    Attributes:
        backend: None or "auto": the engine's settings name the backend (`structured_outputs.backend`).
        backend_was_auto, disable_fallback: False, for the same reason.
    """

    backend: str | None = None
    backend_was_auto: bool = False
    disable_fallback: bool = False

    def __post_init__(self) -> None:
        StructuredOutputsParams.__post_init__(self)
        if self.backend not in (None, "auto"):
            check.refuse("backend", self.backend, "None: the setting structured_outputs.backend names it")
        for name in ("backend_was_auto", "disable_fallback"):
            if check.boolean(name, getattr(self, name)):
                check.refuse(name, True, "False: the setting structured_outputs.backend names one, or 'auto'")


def _as_json(name: str, value: Any) -> str | None:
    """A schema, however it was given, as JSON text."""
    if value is None or isinstance(value, str):
        return value
    schema_of = getattr(value, "model_json_schema", None)  # a pydantic model; Quire need not know it
    if isinstance(value, type) and callable(schema_of):
        value = schema_of()
    if not isinstance(value, Mapping | bool):
        check.refuse(name, value, "a mapping or JSON text")
    try:
        return _json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{name} is no plain JSON: {error}.", field=name) from error


def _check_text(name: str, value: object) -> None:
    if value is None:
        return
    if not isinstance(value, str) or not 0 < len(value) <= _MAX_TEXT:
        check.refuse(name, value, f"a text of 1 to {_MAX_TEXT} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{name} is no valid Unicode: {error.reason} at character {error.start}.", field=name
        ) from error


def _choices(value: object) -> list[str]:
    if not value or isinstance(value, str):
        check.refuse("choice", value, "a list of at least one string")
    choices = check.strings("choice", value, _MAX_CHOICES, _MAX_TEXT)
    for one in choices:
        _check_text("choice", one)
    return choices
