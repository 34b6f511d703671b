"""What `RouteSuite` works with: examples of requests, a front end mounted by itself, streams read apart.

Knows the frame and the fake engine; knows no dialect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from starlette.testclient import TestClient

from quire_server.app import build_app
from quire_server.config import ServeConfig
from quire_server.errors import ApiError
from quire_server.front_end import FrontEnd
from quire_server.metrics import ServerMetrics
from quire_server.service import Service
from quire_server.testing.fake_engine import FakeEngine

Target = Callable[[Service, Any], FrontEnd]
"""What a `RouteSpec` names: `front_end(service, options)`."""

Answer = Any
"""A response. Starlette's client is built on httpx or on its successor, whichever is there."""

KEY = "suite-key-1f9d"
SECRETS = "0x7f00deadbeef, /usr/lib/secret.py, ipc:///tmp/engine.sock, tcp://127.0.0.1:4711"
"""What may stand in an exception and must not reach a client."""

_LEAKS = re.compile(
    r"0x[0-9a-f]{6,}|/(?:usr|home|tmp|root|work)/|\.py\b|Traceback|(?:ipc|tcp)://|127\.0\.0\.1:\d+|" + KEY
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A request that a route takes.

    Attributes:
        path: the route's, as it declares it.
        method: its method.
        body: a valid one, which asks for at least three tokens if it generates; None for a route that reads
            none.
        status: of the answer to it.
        generates: the engine is asked for tokens.
        model: the field that names the model; None if there is none.
        whole: fields that ask for a whole answer; None if there is no such answer.
        streamed: fields that ask for a stream; None if there are no streams.
        refused: fields that are refused by name, each with a value.
    """

    path: str
    method: str = "POST"
    body: Mapping[str, Any] | None
    status: int = 200
    generates: bool = True
    model: str | None = "model"
    whole: Mapping[str, Any] | None = field(default_factory=lambda: {"stream": False})
    streamed: Mapping[str, Any] | None = field(default_factory=lambda: {"stream": True})
    refused: Mapping[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """The path with something in its parameters' places."""
        return concrete(self.path)

    @property
    def ways(self) -> list[Mapping[str, Any]]:
        """Fields that ask for each form of answer that there is."""
        found = [one for one in (self.whole, self.streamed) if one is not None]
        return found if self.generates and found else [{}]


class Rig:
    """One front end in an application, with an engine to look into.

    Attributes:
        engine, service, front_end: what is mounted.
        client: asks it. Errors of the server are answers, not exceptions of the test.
    """

    def __init__(self, target: Target, options: Any, **settings: Any) -> None:
        self.engine = FakeEngine()
        self.service = Service(self.engine, ServeConfig(**settings), ServerMetrics())
        self.front_end = target(self.service, options)
        self.app = build_app(self.service, [self.front_end])
        self.client = TestClient(self.app, raise_server_exceptions=False)

    def ask(self, example: Example, *more: Mapping[str, Any], **headers: str) -> Answer:
        """Send an example with further fields; the answer, read to its end."""
        body: dict[str, Any] | None = None if example.body is None else dict(example.body)
        for fields in more:
            body = {**(body or {}), **fields}
        return self.client.request(example.method, example.url, json=body, headers=headers)

    def routes(self) -> Iterator[tuple[str, str]]:
        """Method and path of each of the front end's routes, as declared."""
        for route in self.front_end.router.routes:
            for method in sorted(getattr(route, "methods", None) or {"GET"}):
                yield method, str(getattr(route, "path", ""))

    def is_error(self, answer: Any) -> bool:
        """Whether a JSON value is an error in the front end's form."""
        return bool(shape(answer) == shape(self.front_end.render_error(ApiError(400, "message"))))


def concrete(path: str) -> str:
    """A path with something in its parameters' places."""
    return re.sub(r"\{[^}]*\}", "1", path)


def shape(value: Any) -> Any:
    """The keys of a JSON value, without what stands under them."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    return None


def events(text: str) -> list[Any]:
    """The JSON values of a stream: server-sent events' data, or lines."""
    found = []
    for line in text.splitlines():
        said = line.removeprefix("data:").strip()
        if line.startswith("event:") or not said or said == "[DONE]":
            continue
        found.append(json.loads(said))
    return found


def check_quiet(answer: Answer) -> None:
    """Fail if an answer tells of addresses, paths or keys."""
    found = _LEAKS.search(answer.text)
    assert found is None, f"{answer.status_code} tells of {found and found[0]!r}: {answer.text[:300]}"
