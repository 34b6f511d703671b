"""The events of a streamed chat."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from quire import CompletionOutput
from quire_server.openai.answers import Answer, Chunks, sound
from quire_server.openai.logprobs import chat_logprobs
from quire_server.service import Generation, Work

if TYPE_CHECKING:
    from quire_server.openai.chat import ChatBody


async def chat_events(
    generation: Generation, answer: Answer, body: ChatBody, work: Work
) -> AsyncGenerator[bytes, None]:
    """Chunks as the engine has news; raises what the generation raises.

    Each choice begins with a chunk that names the role and ends with one that has the finish reason.
    """
    chunks = Chunks(answer, body, generation.usage)
    going = [True] * work.params.n
    begun = False
    async with aclosing(generation.__aiter__()) as news:
        async for _, output in news:
            completions = sound(output)
            if not begun:
                begun = True
                extra = {"prompt_token_ids": output.prompt_token_ids} if body.return_token_ids else None
                for index in range(work.params.n):
                    yield chunks.chunk(_begin(index), extra)
                    extra = None
            for one in completions:
                if not going[one.index]:
                    continue
                # A token whose text is held back, or has none, is still news: clients time the tokens by it.
                # The last one's is the end of the text, and said by the finish reason.
                told = one.finish_reason is None or body.top is not None or body.return_token_ids
                if one.text or (one.token_ids and told):
                    yield chunks.chunk(_content(one, body))
                if one.finish_reason is not None:
                    going[one.index] = False
                    yield chunks.chunk(_finish(one))
    yield chunks.end()


def _begin(index: int) -> dict[str, Any]:
    delta = {"role": "assistant", "content": "", "refusal": None}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _content(one: CompletionOutput, body: ChatBody) -> dict[str, Any]:
    choice: dict[str, Any] = {
        "index": one.index,
        "delta": {"content": one.text},
        "logprobs": None,
        "finish_reason": None,
    }
    if body.top is not None:
        choice["logprobs"] = chat_logprobs(one.token_ids, one.logprobs or (), body.top)
    if body.return_token_ids:
        choice["token_ids"] = one.token_ids
    return choice


def _finish(one: CompletionOutput) -> dict[str, Any]:
    return {
        "index": one.index,
        "delta": {},
        "logprobs": None,
        "finish_reason": one.finish_reason,
        "stop_reason": one.stop_reason,
    }
