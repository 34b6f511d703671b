"""Whatever a client sends, on any route of any front end: no answer is a server error or tells secrets.

Schemathesis reads the application's own OpenAPI schema and breaks it, without filters; beside it stands what
no schema has a word for: bytes that are no JSON, JSON that is no Unicode, numbers of any size, deep nesting,
names that come twice.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from quire_server.testing import Example, wait_for
from quire_server.testing.route_rig import check_quiet

from .route_examples import EVERY
from .whole_app import WholeApp

WHOLE = WholeApp()
# Schemathesis runs each request in an event loop of its own, which ends what runs in the background.
SCHEMA = schemathesis.openapi.from_asgi(
    "/openapi.json",
    WholeApp().app,
    config=schemathesis.Config.from_dict(
        {
            "seed": 1,
            "generation": {"mode": "all", "max-examples": 100, "deterministic": True, "database": "none"},
        }
    ),
)
READING = [one for one in EVERY if one.body is not None]
CALM = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(WHOLE.app, raise_server_exceptions=False) as client:
        yield client


def check(answer: Any) -> None:
    """No server error, no secrets, nothing left behind. 422 is not among the server's words."""
    assert answer.status_code < 500, answer.text
    assert answer.status_code != 422
    if answer.status_code >= 400:
        check_quiet(answer)


def check_nothing_runs() -> None:
    """Nothing is left behind. Responses in the background may take a moment."""
    wait_for(lambda: WHOLE.idle)


def test_the_schema_has_a_body_for_every_route_that_reads_one() -> None:
    paths = SCHEMA.raw_schema["paths"]
    for example in READING:
        assert "requestBody" in paths[example.path][example.method.lower()], example.path


@SCHEMA.parametrize()
@settings(CALM, max_examples=100)
def test_no_request_that_schemathesis_makes_is_a_server_error(case: Any) -> None:
    check(case.call())


class Raw(str):
    """JSON text that no value has."""


RAW = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" * 400, "-" + "9" * 4301, "1.0e-400", "-0.0"),
    *('"\\ud800"', '"\\udfff\\ud800"', '"\\u0000"', '"\\u202e"', '"\\uffff"', '"a\\ud83d"'),
    *("[" * 300 + "]" * 300, '{"a":' * 300 + "1" + "}" * 300, "[" * 3000 + "]" * 3000),
    *('{"a":1,"a":{}}', '{"":{"":[]}}', '{"__class__":1,"__proto__":{}}'),
    *("2147483648", "-2147483649", "9223372036854775808", "18446744073709551616", "true", "null"),
)
junk: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**31 - 1, 2**31, 2**63, 2**64, -1, -(2**63), 0])
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["\x00", "\ud800", "{{ 7 }}", "fake", "user", "text", "a" * 5000])
    | st.sampled_from([Raw(text) for text in RAW]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "name", "\x00", "\ud800"]), inner
        )
    ),
    max_leaves=8,
)


def written(value: Any) -> str:
    """JSON, raw pieces as they are; lone surrogates become escapes."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def fields_of(example: Example) -> list[str]:
    """Names that the route knows, and some that it does not."""
    operation = SCHEMA.raw_schema["paths"][example.path][example.method.lower()]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    while "$ref" in schema:
        schema = SCHEMA.raw_schema["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return [*schema["properties"], *example.refused, "odd", "\x00", "\ud800", "x" * 300]


@pytest.mark.parametrize("example", READING, ids=[one.path for one in READING])
def test_no_junk_is_a_server_error(client: TestClient, example: Example) -> None:
    names = st.sampled_from(fields_of(example))
    headers = {"Content-Type": "application/json"}

    @CALM
    @given(more=st.lists(st.tuples(names, junk), max_size=4), way=st.sampled_from(example.ways))
    def run(more: list[tuple[str, Any]], way: dict[str, Any]) -> None:
        # A list of pairs: a name may come twice.
        pairs = [*{**(example.body or {}), **way}.items(), *more]
        text = "{" + ",".join(f"{json.dumps(name)}:{written(value)}" for name, value in pairs) + "}"
        check(client.post(example.url, content=text.encode(), headers=headers))

    run()
    check_nothing_runs()


@pytest.mark.parametrize("example", READING, ids=[one.path for one in READING])
def test_no_bytes_are_a_server_error(client: TestClient, example: Example) -> None:
    whole = json.dumps(example.body).encode()
    types = st.sampled_from(
        ["application/json", "text/plain", "application/octet-stream", "multipart/form-data", ""]
    )

    @CALM
    @given(at=st.integers(0, len(whole)), inserted=st.binary(max_size=6), cut=st.booleans(), kind=types)
    def run(at: int, inserted: bytes, cut: bool, kind: str) -> None:
        body = whole[:at] + inserted + (b"" if cut else whole[at:])
        check(client.post(example.url, content=body, headers={"Content-Type": kind}))

    run()
    check_nothing_runs()


@CALM
@given(
    path=st.text(st.characters(max_codepoint=0x2FF), max_size=30),
    query=st.text(max_size=20),
    method=st.sampled_from(["GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "TRACE"]),
    prefix=st.sampled_from(
        ["/", *sorted({one.path.partition("{")[0] + "/" for one in EVERY}), "/v1/models/"]
    ),
)
def test_no_path_is_a_server_error(path: str, query: str, method: str, prefix: str) -> None:
    with TestClient(WHOLE.app, raise_server_exceptions=False) as client:
        check(client.request(method, prefix + quote(path, safe="/:;,%"), params={"q": query, "limit": path}))
