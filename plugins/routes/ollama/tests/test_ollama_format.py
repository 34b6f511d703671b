"""Ollama's `format`: what reaches the engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from quire.contracts.grammar import GrammarSource
from quire.errors import InvalidRequestError

BASES: dict[str, dict[str, Any]] = {
    "/api/generate": {"model": "fake", "prompt": "x", "options": {"num_predict": 4}},
    "/api/chat": {
        "model": "fake",
        "messages": [{"role": "user", "content": "x"}],
        "options": {"num_predict": 4},
    },
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
BOTH = pytest.mark.parametrize("path", BASES)


@BOTH
@pytest.mark.parametrize(
    ("form", "source"),
    [
        ("json", GrammarSource(form="json_object", text="")),
        (SCHEMA, GrammarSource(form="json_schema", text=json.dumps(SCHEMA))),
        ("", None),
        (None, None),
    ],
)
def test_what_reaches_the_engine(served: Any, path: str, form: Any, source: GrammarSource | None) -> None:
    for stream in (False, True):
        reply = served.http.post(path, json={**BASES[path], "format": form, "stream": stream})
        assert reply.status_code == 200, reply.text
        found = served.engine.params[-1].structured_outputs
        assert (None if found is None else found.source) == source


@BOTH
def test_what_no_backend_holds_is_told_by_the_clients_name(served: Any, path: str) -> None:
    served.engine.refuse = InvalidRequestError("json_schema cannot be held.", field="json_schema")
    reply = served.http.post(path, json={**BASES[path], "format": SCHEMA})
    assert reply.status_code == 400
    assert reply.json()["error"].startswith("format cannot")
