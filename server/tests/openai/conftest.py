"""An app with OpenAI's front end around a fake engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from quire_server.config import ServeConfig
from quire_server.openai.front_end import front_end
from quire_server.testing import FakeEngine, LiveServer, app_of

Post = Callable[..., Any]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def settings() -> ServeConfig:
    return ServeConfig(served_model_name=["fake", "org/alias"])


@pytest.fixture
def client(engine: FakeEngine, settings: ServeConfig) -> Iterator[TestClient]:
    with TestClient(app_of(engine, front_end, settings=settings)) as client:
        yield client


@pytest.fixture
def server(engine: FakeEngine, settings: ServeConfig) -> Iterator[LiveServer]:
    """The same app behind a real socket."""
    with LiveServer(app_of(engine, front_end, settings=settings)) as server:
        yield server


@pytest.fixture
def complete(client: TestClient) -> Post:
    """Post a completion; gives the body of its answer."""

    def post(**body: Any) -> Any:
        response = client.post("/v1/completions", json={"prompt": "abc", "max_tokens": 4} | body)
        assert response.status_code == 200, response.text
        return response.json()

    return post


@pytest.fixture
def chat(client: TestClient) -> Post:
    """Post a chat; gives the body of its answer."""

    def post(**body: Any) -> Any:
        start = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        response = client.post("/v1/chat/completions", json=start | body)
        assert response.status_code == 200, response.text
        return response.json()

    return post


@pytest.fixture
def events(client: TestClient) -> Post:
    """Post to a path with `stream`; gives the chunks, and checks the framing."""

    def post(path: str, **body: Any) -> list[Any]:
        response = client.post(path, json=body | {"stream": True})
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        parts = response.text.split("\n\n")
        assert parts.pop() == ""
        assert all(part.startswith("data: ") for part in parts)
        data = [part.removeprefix("data: ") for part in parts]
        if data[-1] == "[DONE]":
            data.pop()
        else:
            assert "error" in json.loads(data[-1])
        return [json.loads(one) for one in data]

    return post


@pytest.fixture
def refused(client: TestClient) -> Post:
    """Post what must be refused; gives the error object."""

    def post(path: str, body: Any, status: int = 400) -> Any:
        headers = {"content-type": "application/json"}
        response = client.post(path, content=json.dumps(body), headers=headers)
        assert response.status_code == status, response.text
        return response.json()["error"]

    return post
