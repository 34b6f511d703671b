"""The contract of front ends as a test suite. Subclass it, and give it your front end and its requests:

    class TestMyRoutes(RouteSuite):
        examples = (Example(path="/my/complete", body={"prompt": "abc", "max_tokens": 5}),)

        @pytest.fixture
        def target(self) -> Target:
            return front_end

        def text(self, example: Example, answer: Any) -> str:
            return answer["text"]

        def usage(self, example: Example, answer: Any) -> tuple[int, int] | None:
            return answer["prompt_tokens"], answer["completion_tokens"]

What the dialect means by its fields is for its own tests; here is what every dialect owes the server.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import pytest

from quire.errors import EngineError, OverloadedError, RequestFailedError
from quire_server.http.fields import RequestModel
from quire_server.testing.impatient import hang_up, wait_for
from quire_server.testing.live_server import LiveServer
from quire_server.testing.route_rig import (
    KEY,
    SECRETS,
    Answer,
    Example,
    Rig,
    Target,
    check_quiet,
    concrete,
    events,
)

__all__ = ["Example", "RouteSuite", "Target", "refusals"]

Make = Callable[..., Rig]

_LARGEST = 4096  # bytes of a body
_FAR = "no-such-thing-here"


def refusals(model: type[RequestModel]) -> dict[str, Any]:
    """For `Example.refused`: the fields that a body's model refuses, with a value that asks for something."""
    return {name: {"asks": ["for", "something"]} for name in model.refused}


class RouteSuite:
    """What every front end must hold. Override `target`, `examples`, `text` and `usage`.

    Attributes:
        examples: one for each route that is not asked by GET or HEAD.
    """

    examples: ClassVar[Sequence[Example]] = ()

    @pytest.fixture
    def target(self) -> Target:
        """The front end under test: what its `RouteSpec` names."""
        raise NotImplementedError("Override the fixture `target`.")

    @pytest.fixture
    def options(self) -> Any:
        """The front end's options, if it has any."""
        return None

    def text(self, example: Example, answer: Any) -> str:
        """The generated text in a whole answer, or what an event of a stream adds to it ("" if nothing)."""
        raise NotImplementedError("Override `text`.")

    def usage(self, example: Example, answer: Any) -> tuple[int, int] | None:
        """Prompt and completion tokens that a whole answer or an event tells of; None if it tells nothing."""
        raise NotImplementedError("Override `usage`.")

    def failed(self, rig: Rig, event: Any) -> bool:
        """Whether an event of a stream is an error in the dialect's form."""
        return rig.is_error(event)

    @pytest.fixture
    def make(self, target: Target, options: Any) -> Make:
        """Mounts the front end under given settings of the server."""
        return lambda **settings: Rig(target, options, **settings)

    @staticmethod
    def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
        """Give each test the examples that it is about."""
        chosen: Mapping[str, Callable[[Example], bool]] = {
            "example": lambda one: True,
            "reading": lambda one: one.body is not None,
            "generating": lambda one: one.generates,
            "streaming": lambda one: one.generates and one.streamed is not None,
            "either": lambda one: one.generates and None not in (one.streamed, one.whole),
        }
        for name in chosen.keys() & set(metafunc.fixturenames):
            found = [one for one in metafunc.cls.examples if chosen[name](one)]
            metafunc.parametrize(name, found, ids=[f"{one.method} {one.path}" for one in found])

    # Access

    def test_every_route_that_acts_has_an_example(self, make: Make) -> None:
        acting = {(method, path) for method, path in make().routes() if method not in ("GET", "HEAD")}
        assert {(one.method, one.path) for one in self.examples} == acting

    def test_every_route_asks_for_a_key_but_the_public_ones(self, make: Make) -> None:
        rig = make(api_keys=[KEY])
        for method, path in rig.routes():
            public = path in rig.front_end.public
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                answer = rig.client.request(method, concrete(path), headers=headers)
                assert (answer.status_code == 401) != public, (method, path)
                if answer.status_code == 401 and method != "HEAD":
                    assert "www-authenticate" in answer.headers
                    check_quiet(answer)
            answer = rig.client.request(method, concrete(path), headers={"x-api-key": KEY})
            assert answer.status_code != 401, (method, path)

    def test_examples_are_served(self, make: Make, example: Example) -> None:
        rig = make(strict=True)
        for way in example.ways:
            assert (answer := rig.ask(example, way)).status_code == example.status, answer.text
        assert bool(rig.engine.params) == example.generates

    # Errors in the dialect's form

    def _refused(self, rig: Rig, answer: Answer, *statuses: int) -> None:
        assert answer.status_code in statuses, answer.text
        assert rig.is_error(answer.json()), answer.text
        assert rig.engine.running == 0
        check_quiet(answer)

    def test_errors_of_access_and_of_the_router(self, make: Make, example: Example) -> None:
        keyed, rig = make(api_keys=[KEY]), make()
        self._refused(keyed, keyed.ask(example), 401)
        self._refused(rig, rig.client.request("PATCH", example.url), 405)
        for prefix in rig.front_end.error_prefixes:
            self._refused(rig, rig.client.get(f"{prefix.rstrip('/')}/{_FAR}/{_FAR}"), 404)

    @pytest.mark.parametrize("body", [b"{", b"", b"[]", b"null", b"1", b'"x"', b"\xff{", b"[" * 100_000])
    def test_what_is_no_object_is_400(self, make: Make, reading: Example, body: bytes) -> None:
        rig = make(max_body_bytes=2**20)
        headers = {"Content-Type": "application/json"}
        self._refused(
            rig, rig.client.request(reading.method, reading.url, content=body, headers=headers), 400
        )

    def test_a_large_body_is_413(self, make: Make, reading: Example) -> None:
        rig = make(max_body_bytes=_LARGEST)
        self._refused(rig, rig.ask(reading, {"more": "x" * _LARGEST}), 413)

    def test_a_field_of_a_wrong_type_is_400_and_named(self, make: Make, reading: Example) -> None:
        if reading.status != 200:
            pytest.skip("this route refuses every body")
        rig = make()
        for name, right in (reading.body or {}).items():
            wrong = [["no such type"]] if isinstance(right, dict) else {"no": ["such", {"type": 1}]}
            answer = rig.ask(reading, {name: wrong})
            self._refused(rig, answer, 400)
            assert name in answer.text, answer.text

    def test_an_unknown_model_is_404(self, make: Make, reading: Example) -> None:
        if reading.model is None:
            pytest.skip("this route asks for no model")
        rig = make()
        for way in reading.ways:
            answer = rig.ask(reading, way, {reading.model: _FAR})
            self._refused(rig, answer, 404)
            assert _FAR in answer.text

    # Fields

    def test_unknown_fields_are_named(self, make: Make, reading: Example) -> None:
        rig = make()
        for way in reading.ways:
            answer = rig.ask(reading, way, {"field_of_the_future": 1, "zw\u00f6lf": 2})
            assert answer.status_code == reading.status, answer.text
            assert answer.headers["x-quire-ignored-fields"] == "field_of_the_future, zw?lf"

    def test_unknown_fields_are_refused_in_strict_mode(self, make: Make, reading: Example) -> None:
        rig = make(strict=True)
        for way in reading.ways:
            answer = rig.ask(reading, way, {"field_of_the_future": 1})
            self._refused(rig, answer, 400)
            assert "field_of_the_future" in answer.text

    def test_refused_fields_are_400_and_named(self, make: Make, reading: Example) -> None:
        rig = make()
        for name, value in reading.refused.items():
            for way in reading.ways:
                answer = rig.ask(reading, way, {name: value})
                self._refused(rig, answer, 400)
                assert name in answer.text
        assert not rig.engine.params

    def test_a_chat_template_is_refused(self, make: Make, reading: Example) -> None:
        """It is a program. Routes that know no chats may treat it as any unknown field."""
        rig = make()
        answer = rig.ask(reading, {"chat_template": "{{ 7 * 7 }}"})
        if "x-quire-ignored-fields" not in answer.headers:
            self._refused(rig, answer, 400)

    # Work

    def test_work_that_the_engine_does_not_take(self, make: Make, generating: Example) -> None:
        """A refused stream is an error with a status, not a stream with an error in it."""
        for way in generating.ways:
            rig = make()
            rig.engine.refuse = OverloadedError("The queue is full.")
            answer = rig.ask(generating, way)
            self._refused(rig, answer, 429)
            assert int(answer.headers["retry-after"]) >= 1
            rig.engine.refuse = EngineError(f"lost: {SECRETS}")
            self._refused(rig, rig.ask(generating, way), 503)
            rig.engine.refuse = RuntimeError(SECRETS)
            self._refused(rig, rig.ask(generating, way), 500)
            rig.engine.refuse = None
            for health in ("dead", "loading", "stalled"):
                rig.engine.health = health
                self._refused(rig, rig.ask(generating, way), 503)
            rig.engine.health = "ready"
            rig.service.draining = True
            answer = rig.ask(generating, way)
            self._refused(rig, answer, 503)
            assert "retry-after" in answer.headers
            assert rig.service.active == 0

    @pytest.mark.parametrize("after", [0, 2])
    def test_a_whole_answer_that_fails_is_an_error(self, make: Make, generating: Example, after: int) -> None:
        if generating.whole is None:
            pytest.skip("this route has no whole answers")
        for failure, status in _failures():
            rig = make()
            rig.engine.fail_after, rig.engine.failure = after, failure
            self._refused(rig, rig.ask(generating, generating.whole), status)
            assert rig.service.active == 0

    @pytest.mark.parametrize("after", [0, 2])
    def test_a_stream_that_fails_ends_with_an_error(self, make: Make, streaming: Example, after: int) -> None:
        for failure, _ in _failures():
            rig = make()
            rig.engine.fail_after, rig.engine.failure = after, failure
            answer = rig.ask(streaming, streaming.streamed or {})
            assert answer.status_code == 200
            assert "[DONE]" not in answer.text
            found = events(answer.text)
            assert [self.failed(rig, event) for event in found] == [False] * (len(found) - 1) + [True]
            check_quiet(answer)
            assert rig.service.active == 0

    @pytest.mark.parametrize("begun", [False, True])
    def test_a_client_that_goes_away_aborts_its_request(
        self, make: Make, generating: Example, begun: bool
    ) -> None:
        rig = make()
        rig.engine.hold_after = 2 if begun else 0
        with LiveServer(rig.app) as server:
            for count, way in enumerate(generating.ways, start=1):
                body = {**(generating.body or {}), **way}
                hang_up(server, generating.url, body, lambda: rig.engine.holding == 1)
                wait_for(lambda count=count: rig.engine.aborted == count)  # type: ignore[misc]
        assert (rig.engine.running, rig.service.active) == (0, 0)

    # Truth

    def test_usage_is_what_was_generated(self, make: Make, generating: Example) -> None:
        for way in generating.ways:
            rig = make()
            answer = rig.ask(generating, way)
            assert answer.status_code == 200, answer.text
            prompt = sum(one for one, _ in rig.engine.served)
            completion = sum(one for _, one in rig.engine.served)
            assert completion >= 3
            told = [
                found
                for one in (events(answer.text) if way == generating.streamed else [answer.json()])
                if (found := self.usage(generating, one)) is not None
            ]
            assert told[-1:] in ([(prompt, completion)], []), "usage is not what the engine made"
            assert told or way == generating.streamed, "a whole answer tells of its usage"

    def test_the_joined_stream_is_the_whole_answer(self, make: Make, either: Example) -> None:
        rig = make()
        whole = self.text(either, rig.ask(either, either.whole or {}).json())
        parts = [self.text(either, event) for event in events(rig.ask(either, either.streamed or {}).text)]
        assert whole
        assert "".join(parts) == whole
        assert sum(map(bool, parts)) > 1, "the stream holds the text in one piece"


def _failures() -> list[tuple[Exception, int]]:
    """What may go wrong inside the engine, and the status of a whole answer then."""
    return [
        (RequestFailedError(f"failed: {SECRETS}", request_id="1"), 500),
        (EngineError(f"died: {SECRETS}"), 503),
        (RuntimeError(SECRETS), 500),
    ]
