"""OpenAI's own Python client against a server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import openai
import pytest

from quire_server.testing import FakeEngine, LiveServer


@pytest.fixture
def api(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as api:
        yield api


def test_models(api: openai.OpenAI) -> None:
    assert [card.id for card in api.models.list()] == ["fake", "org/alias"]
    assert api.models.retrieve("org/alias").id == "org/alias"
    with pytest.raises(openai.NotFoundError) as caught:
        api.models.retrieve("gpt")
    assert caught.value.code == "model_not_found"


def test_completions(api: openai.OpenAI) -> None:
    answer = api.completions.create(
        model="fake", prompt="abc", max_tokens=4, logprobs=1, echo=True, user="me"
    )
    assert answer.choices[0].text == "abcabca"
    assert answer.choices[0].logprobs is not None
    values = answer.choices[0].logprobs.token_logprobs
    assert values is not None
    assert values.index(None) == 0  # type: ignore[arg-type]  # the client's types leave out the null
    assert answer.usage is not None
    assert answer.usage.total_tokens == 8
    stream = api.completions.create(model="fake", prompt="abc", max_tokens=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "abca"


def test_chats(api: openai.OpenAI) -> None:
    answer = api.chat.completions.create(
        model="fake",
        messages=[{"role": "developer", "content": "x"}, {"role": "user", "content": "hi"}],
        max_completion_tokens=6,
        logprobs=True,
        top_logprobs=2,
        extra_body={"top_k": 5, "chat_template_kwargs": {"enable_thinking": False}},
    )
    assert answer.choices[0].message.content == "system"
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content[0].top_logprobs) == 2


def test_a_streamed_chat_with_usage(api: openai.OpenAI) -> None:
    stream = api.chat.completions.create(
        model="fake",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=5,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "user:"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


def test_the_clients_stream_helper_gathers_the_whole(api: openai.OpenAI) -> None:
    with api.chat.completions.stream(
        model="fake", messages=[{"role": "user", "content": "hi"}], stop="r"
    ) as stream:
        assert stream.get_final_completion().choices[0].message.content == "use"


def test_errors_are_typed_and_name_the_field(api: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        api.completions.create(model="fake", prompt="abc", temperature=-1)
    assert (caught.value.param, caught.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as caught:
        api.chat.completions.with_raw_response.create(
            model="fake", messages=[{"role": "user", "content": "hi"}], reasoning_effort="low"
        )
    assert caught.value.param == "reasoning_effort"
    with pytest.raises(openai.BadRequestError, match="no pooling head"):
        api.embeddings.create(model="fake", input="abc")


def test_a_stream_that_fails_raises(api: openai.OpenAI, engine: FakeEngine) -> None:
    engine.fail_after = 2
    stream = api.completions.create(model="fake", prompt="abc", stream=True)
    assert [next(stream).choices[0].text for _ in range(2)] == ["a", "b"]
    with pytest.raises(openai.APIError, match="on purpose"):
        next(stream)


def test_leaving_a_stream_aborts_the_request(server: LiveServer, engine: FakeEngine) -> None:
    engine.delay = 0.01

    async def leave() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as api:
            stream = await api.completions.create(model="fake", prompt="abc", max_tokens=400, stream=True)
            async for _ in stream:
                break
            await stream.close()
        for _ in range(200):
            if engine.aborted:
                break
            await asyncio.sleep(0.01)

    asyncio.run(leave())
    assert (engine.aborted, engine.running) == (1, 0)


def test_the_raw_answer_has_its_headers(api: openai.OpenAI) -> None:
    raw = api.completions.with_raw_response.create(model="fake", prompt="abc", extra_body={"mystery": 1})
    assert raw.headers["x-quire-ignored-fields"] == "mystery"
    assert raw.headers["x-request-id"]
    assert raw.parse().choices[0].text.startswith("abc")
