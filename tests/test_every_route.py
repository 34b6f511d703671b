"""Every route that the server can have: who may ask, by what spelling, and what may happen while it answers.

Routes are taken from the application as it is mounted, plugins' included: a new one fails until it is
classified here and has an example in `route_examples`.
"""

from __future__ import annotations

import gzip
import json
import random
import tracemalloc
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from starlette.testclient import TestClient

from quire_server.testing import Example, LiveServer
from quire_server.testing.route_rig import SECRETS, check_quiet, concrete

from .route_examples import EVERY
from .whole_app import WholeApp

KEY = "the-key"
PUBLIC = {"/", "/health", "/ready"}
STATIC = "/playground/"
"""The playground's files, each a route, hold nothing of the model."""
KEYED = {
    *("/openapi.json", "/version", "/metrics", "/quire/engine", "/v1/models", "/v1/models/{model_id:path}"),
    *("/v1/responses/{response_id}", "/v1/responses/{response_id}/input_items"),
    *("/api/tags", "/api/ps", "/api/version", "/tokenizer_info"),
    *(one.path for one in EVERY),
}
ROUTES = sorted(WholeApp().routes())
GUARDED = sorted({path for _, path in ROUTES if path in KEYED})
READING = [one for one in EVERY if one.body is not None]
GENERATING = [one for one in EVERY if one.generates]


def named(examples: Sequence[Example]) -> list[str]:
    return [one.path for one in examples]


@pytest.fixture(scope="module")
def keyed() -> Iterator[LiveServer]:
    with LiveServer(WholeApp(api_keys=[KEY]).app) as server:
        yield server


@pytest.fixture(scope="module")
def whole() -> WholeApp:
    return WholeApp()


@pytest.fixture(scope="module")
def client(whole: WholeApp) -> Iterator[TestClient]:
    with TestClient(whole.app) as client:
        yield client


def status(server: LiveServer, method: str, target: str, more: str = "") -> int:
    request = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{more}Connection: close\r\n\r\n"
    return int(server.exchange(request.encode("latin-1"))[9:12])


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_is_classified_and_behaves_so(keyed: LiveServer, method: str, path: str) -> None:
    public = path in PUBLIC or path.startswith(STATIC)
    assert public != (path in KEYED), f"classify {path!r} as public or keyed"
    target = concrete(path)
    for header in ("", "Authorization: Bearer wrong\r\n", "x-api-key: the-ke\r\n"):
        assert (status(keyed, method, target, header) != 401) == public
    assert status(keyed, method, target, f"x-api-key: {KEY}\r\n") != 401


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW")


@pytest.mark.parametrize("path", GUARDED)
def test_no_method_and_no_spelling_gets_past_the_keys(keyed: LiveServer, path: str) -> None:
    plain = concrete(path)
    spellings = [
        *(plain, plain + "/", "/" + plain, "/." + plain, "/health/.." + plain, "/ready/..%2f" + plain[1:]),
        *(plain.upper(), plain.replace("/", "//"), plain.replace("/", "/%2e/"), plain + "%00", plain + "%0a"),
        *(plain + ";/health", plain + "?/health", plain + "%20", f"http://x{plain}", f"http://health{plain}"),
        "".join(f"%{ord(char):02x}" if char.isalnum() else char for char in plain),
    ]
    forwarded = (
        "X-Original-URL: /health\r\nX-Forwarded-Prefix: /playground\r\nX-HTTP-Method-Override: GET\r\n"
    )
    for method in METHODS:
        assert status(keyed, method, plain) == (400 if method == "BREW" else 401), method
    for spelling in spellings:
        assert status(keyed, "GET", spelling) in (400, 401), spelling
        assert status(keyed, "POST", spelling, forwarded) in (400, 401), spelling


@pytest.mark.parametrize("example", READING, ids=named(READING))
def test_a_compressed_body_is_not_unpacked(client: TestClient, example: Example) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    assert client.post(example.url, content=bomb, headers=headers).status_code == 415


# Templates

TEMPLATES = (
    "{{ 987654 * 1009 }}",
    "{% for i in range(9) %}{{ i }}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ raise_exception('no') }}",
)
PLACES = (
    *("chat_template", "template", "tokenizer", "jinja"),
    *("extra_body.chat_template", "options.template", "options.chat_template", "metadata.chat_template"),
    *(f"chat_template_kwargs.{name}" for name in ("chat_template", "tokenizer", "renderer", "messages")),
)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("example", READING, ids=named(READING))
def test_a_template_in_a_request_is_refused_or_plays_no_part(
    whole: WholeApp, client: TestClient, example: Example, place: str
) -> None:
    outer, _, inner = place.partition(".")
    whole.engine.prompts.clear()
    ways = [{**(example.body or {}), **way} for way in example.ways]
    plain = [client.post(example.url, json=body).status_code for body in ways]
    prompts = list(whole.engine.prompts)
    for template in TEMPLATES:
        whole.engine.prompts.clear()
        for body, expected in zip(ways, plain, strict=True):
            value = {**body.get(outer, {}), inner: template} if inner else template
            answer = client.post(example.url, json={**body, outer: value})
            assert answer.status_code in (400, expected)
            assert "996542886" not in answer.text
        assert whole.engine.prompts in ([], prompts)


# Sizes

HUGE: tuple[dict[str, Any], ...] = (
    {"n": 10**9},
    {"best_of": 10**9},
    {"max_tokens": 2**40},
    {"max_completion_tokens": 2**64},
    {"max_output_tokens": 2**64},
    {"logprobs": 10**9},
    {"top_logprobs": 10**9, "logprobs": True},
    {"top_k": 2**64},
    {"stop": ["x"] * 40_000},
    {"stop_sequences": ["x"] * 40_000},
    {"stop_token_ids": [1] * 40_000},
    {"bad_words": ["x"] * 40_000},
    {"logit_bias": {str(number): 1 for number in range(30_000)}},
    {"prompt": ["x"] * 30_000},
    {"prompt": [[1]] * 30_000},
    {"prompt": [None] * 60_000},
    {"messages": [1] * 60_000},
    {"messages": [{"role": 1}] * 30_000},
    {"input": [{}] * 40_000},
    {"tokens": [-1] * 60_000},
    {"include": [1] * 60_000},
    {"metadata": {str(number): 1 for number in range(30_000)}},
    {"options": {"num_predict": 2**64}},
    {"options": {"stop": ["x"] * 40_000}},
    {"options": {"top_k": 2**64}},
)


@pytest.mark.parametrize("example", READING, ids=named(READING))
def test_what_is_too_much_is_refused_before_memory_is_taken(
    whole: WholeApp, client: TestClient, example: Example
) -> None:
    """A parsed body of this size takes some ten times its text; no answer may take much more."""
    client.post(example.url, json=example.body)
    for more in HUGE:
        content = json.dumps({**(example.body or {}), **more}).encode()
        whole.engine.params.clear()
        tracemalloc.start()
        try:
            answer = client.post(example.url, content=content, headers={"Content-Type": "application/json"})
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        name = next(iter(more))
        assert answer.status_code in (400, example.status), (name, answer.text[:200])
        assert peak < 40 * len(content) + 4 * 2**20, (name, peak, len(content))
        if answer.status_code == 200:
            ignored = answer.headers.get("x-quire-ignored-fields", "")
            assert name in ignored or name == "metadata", (name, "was taken")


# What is told


@pytest.mark.parametrize(("method", "path"), [one for one in ROUTES if not one[1].startswith(STATIC)])
def test_no_failure_tells_of_the_inside(method: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = WholeApp()

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(SECRETS)

    for name in ("render_chat", "submit", "tokenize", "detokenize", "get_tokenizer"):
        monkeypatch.setattr(whole.engine, name, fail)
    monkeypatch.setattr(whole.engine, "stats", None)
    body = next((one.body for one in EVERY if (one.method, one.path) == (method, path)), None)
    with TestClient(whole.app, raise_server_exceptions=False) as client:
        check_quiet(client.request(method, concrete(path), json=body))


def test_the_number_of_series_is_bounded() -> None:
    chance = random.Random(0)
    whole = WholeApp()

    def word() -> str:
        return "".join(chance.choice("abcdefgh") for _ in range(8))

    with TestClient(whole.app) as client:

        def series() -> int:
            for method, path in ROUTES:
                example = next((one for one in EVERY if (one.method, one.path) == (method, path)), None)
                body = None if example is None else example.body
                headers = {"X-Request-Id": word(), "User-Agent": word()}
                url = path.replace("{response_id}", word()).replace("{model_id:path}", word())
                client.request(method, url, json=body, headers=headers)
                client.request(
                    method, url, json=None if body is None else {**body, "model": word(), word(): 1}
                )
                client.request(word().upper(), url)
                client.get(f"{url}/{word()}")
            lines = client.get("/metrics").text.splitlines()
            return sum(not line.startswith("#") for line in lines)

        series()
        assert series() == series()
