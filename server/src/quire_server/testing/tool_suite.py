"""What every dialect owes those who call tools, as a test suite. Give a subclass front end and dialect:

    class TestMyTools(ToolSuite):
        dialect = MyTools()

        @pytest.fixture
        def target(self) -> Target:
            return front_end

Each installed parser of tools reads answers in its own form, with thinking before them or without. The engine
is a fake: that grammars hold what is asked of them here is shown elsewhere.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest
from starlette.testclient import TestClient

from quire.contracts import CallsForm, Tool, ToolParser
from quire.plugin_plan import import_target
from quire.plugins import OK, discover
from quire_server.config import ServeConfig
from quire_server.service.forcing import forced_calls, strict_calls
from quire_server.testing.fake_engine import FakeEngine
from quire_server.testing.route_rig import Target
from quire_server.testing.served import app_of
from quire_server.testing.tool_dialect import Asked, Reply, ToolDialect

__all__ = ["CITY", "ToolSuite", "installed_tool_parsers", "written"]

CITY: Mapping[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
}
_THINKING = {
    "think": ("<think>\nA city.\n</think>\n\n", None),
    "deepseek_r1": ("A city.</think>", "</think>"),
}
"""By reasoning parser: thinking as a model writes it, and what ends it where the template has opened it."""
_CITIES = ("Rome", 'a "b" {c}', "Żółć 🌍", "")
_DRAWS = 8


def installed_tool_parsers() -> dict[str, type[ToolParser]]:
    """Parsers by name."""
    return {
        one.spec.name: import_target("tool_parser", one.spec.name, one.spec.target)
        for one in discover().of_kind("tool_parser")
        if one.status == OK
    }


def written(form: CallsForm, calls: list[tuple[str, Any]], before: str = "") -> str:
    """An answer with these calls in this form, and text before them."""
    by_name = {call.name: call for call in form.calls}
    texts = [by_name[name].begin + json.dumps(arguments) + by_name[name].end for name, arguments in calls]
    told = form.begin + (form.separator or "").join(texts) + form.end
    mark = form.trigger or ""
    return before + mark + told if before and not told.startswith(mark) else before + told


class ToolSuite:
    """What every dialect with tools must hold. Override `dialect` and `target`.

    Attributes:
        dialect: how its clients speak.
    """

    dialect: ClassVar[ToolDialect]

    @pytest.fixture
    def target(self) -> Target:
        """The front end under test."""
        raise NotImplementedError("Override the fixture `target`.")

    @pytest.fixture
    def engine(self) -> FakeEngine:
        """What answers."""
        return FakeEngine()

    @pytest.fixture
    def client(self, engine: FakeEngine, target: Target) -> Iterator[TestClient]:
        """A client of the front end."""
        served = ServeConfig(served_model_name=["fake"])
        with TestClient(app_of(engine, target, settings=served)) as client:
            yield client

    def ask(self, client: TestClient, asked: Asked) -> list[Reply]:
        """Replies, which are the same whole and streamed."""
        whole = client.post(self.dialect.path, json=self.dialect.body(asked))
        assert whole.status_code == 200, whole.text
        replies = self.dialect.whole(whole.json())
        stream = client.post(self.dialect.path, json=self.dialect.streaming(asked))
        assert stream.status_code == 200, stream.text
        pieces = self.dialect.streamed(stream.text)
        assert pieces == replies
        if self.dialect.streams_arguments:  # of "{}" there is one piece; else the engine writes bytes
            for reply in pieces:
                assert reply.pieces > len(reply.calls) or all(len(str(one)) < 3 for _, one in reply.calls)
        return replies

    def parse(self, client: TestClient, engine: FakeEngine, tool_parser: str, thinking: str | None) -> None:
        """Have answers read by these parsers."""
        engine.use_parsers(tool_parser=tool_parser, **({"reasoning_parser": thinking} if thinking else {}))
        client.app.state.service.__dict__.pop("parsers", None)  # type: ignore[attr-defined]

    @pytest.mark.parametrize("thinking", [None, *_THINKING])
    @pytest.mark.parametrize("parser", sorted(installed_tool_parsers()))
    def test_answers_are_what_was_asked_for(
        self, client: TestClient, engine: FakeEngine, parser: str, thinking: str | None
    ) -> None:
        """Whatever the choice and the calls; whole as streamed, and held by a grammar where it has to be."""
        self.parse(client, engine, parser, thinking)
        rng = random.Random(f"{parser} {thinking}")
        for choice in ("none", "auto", "required", "named") * (_DRAWS // 4):
            self._answers(client, engine, rng, choice, installed_tool_parsers()[parser], thinking)

    def _answers(
        self,
        client: TestClient,
        engine: FakeEngine,
        rng: random.Random,
        choice: str,
        parser: type[ToolParser],
        thinking: str | None,
    ) -> None:
        strict = rng.choice([(), ("f",), ("f", "get_weather")])
        tools = [Tool(name=one, parameters=CITY, strict=one in strict) for one in ("get_weather", "f")]
        named = "f" if choice == "named" else None
        asked = Asked(
            tools=tools,
            choice="required" if named else choice,  # type: ignore[arg-type]  # one of these
            named=named,
            parallel=rng.random() < 0.5,
            n=rng.choice([1, 2]) if self.dialect.has_n else 1,
            logprobs=rng.random() < 0.5,
            temperature=1.0,
        )
        calls = [_call(rng, named) for _ in range(rng.randint(1, 3))]
        before = rng.choice(["", "Let me look."]) if choice == "auto" else ""
        form = parser.form(tools)
        text = written(form, calls, before)
        opening, end = ("", None) if thinking is None else _THINKING[thinking]
        engine.answer = opening + text
        replies = self.ask(client, asked)
        assert len(replies) == asked.n
        for reply in replies:
            assert reply.reasoning == ("A city." if thinking else ""), asked
            if choice == "none":
                assert (reply.content, reply.calls) == (text, []), asked
                continue
            assert reply.content == before, asked
            assert reply.calls == (calls if asked.parallel and named is None else calls[:1]), asked
            assert reply.ended == self.dialect.called, asked
        tag: Any = None
        if asked.choice == "required":
            tag = forced_calls(form, named=named, parallel=asked.parallel, thinking_end=end)
        elif choice == "auto" and strict:
            tag = strict_calls(form, tools, parallel=asked.parallel, thinking_end=end)
        for params in engine.params[-2:]:
            held = params.structured_outputs
            assert (None if held is None else json.loads(held.structural_tag or "")) == tag, asked

    @pytest.mark.parametrize("name", sorted(installed_tool_parsers()))
    def test_a_call_that_the_limit_has_cut_is_none(
        self, client: TestClient, engine: FakeEngine, name: str
    ) -> None:
        """It is told as text, and the answer does not end as one with calls does."""
        self.parse(client, engine, name, None)
        tools = [Tool(name="f", parameters=CITY)]
        engine.answer = written(installed_tool_parsers()[name].form(tools), [("f", {"city": "Rome"})])
        cut = engine.answer.index("Rome") + 2
        (reply,) = self.ask(client, Asked(tools=tools, max_tokens=cut))
        assert reply == Reply(content=engine.answer[:cut], ended=self.dialect.cut)


def _call(rng: random.Random, named: str | None) -> tuple[str, dict[str, Any]]:
    """A call: its tool and its arguments."""
    arguments: dict[str, Any] = {"city": rng.choice(_CITIES), "days": rng.randint(0, 9)}
    return named or rng.choice(["get_weather", "f"]), dict(
        rng.sample(sorted(arguments.items()), rng.randint(0, 2))
    )
