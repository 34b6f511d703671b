"""Structural tags for llguidance: free text, and in it parts that follow a schema.

Of XGrammar's notation the form `{"structures": [{"begin", "schema", "end"}], "triggers": [...]}`, which
vLLM's users write too.
"""

from __future__ import annotations

import json
from typing import Any

from quire.errors import InvalidRequestError
from quire_grammar_llguidance.schema import WHITESPACE, prepared

__all__ = ["tags_to_lark"]


def tags_to_lark(text: str) -> str:
    """The grammar of structural tags.

    Raises:
        InvalidRequestError: they are malformed, or of another form.
    """
    from llguidance import StructTag

    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"structural_tag is no JSON: {error}.", field="structural_tag") from error
    if isinstance(said, dict) and said.get("type") == "structural_tag" and "format" in said:
        raise _refused(
            "with a 'format', as forced and strict calls have it, it is for the backend xgrammar, "
            "or auto where that is installed"
        )
    structures = said.get("structures") if isinstance(said, dict) else None
    triggers = said.get("triggers") if isinstance(said, dict) else None
    if not (isinstance(structures, list) and structures and isinstance(triggers, list)):
        raise _refused("it needs lists of 'structures' and 'triggers'")
    tags = [_tag(one, triggers) for one in structures]
    return str(StructTag.to_grammar([StructTag(**tag) for tag in tags], assume_special=False))


def _tag(one: Any, triggers: list[Any]) -> dict[str, Any]:
    if not (isinstance(one, dict) and isinstance(one.get("begin"), str) and isinstance(one.get("end"), str)):
        raise _refused("a structure needs 'begin', 'schema' and 'end'")
    trigger = next((t for t in triggers if isinstance(t, str) and t and one["begin"].startswith(t)), None)
    if trigger is None:
        raise _refused(f"no trigger begins {one['begin'][:100]!r}")
    schema = json.loads(prepared(json.dumps(one.get("schema", {}))))
    if schema is True:
        schema = {}
    if isinstance(schema, dict):
        schema["x-guidance"] = {"whitespace_pattern": WHITESPACE, "coerce_one_of": True}
    text = json.dumps(schema, ensure_ascii=False)
    return {"trigger": trigger, "begin": one["begin"], "grammar": text, "end": one["end"]}


def _refused(why: str) -> InvalidRequestError:
    return InvalidRequestError(f"structural_tag cannot be used: {why}.", field="structural_tag")
