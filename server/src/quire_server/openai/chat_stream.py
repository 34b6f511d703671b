"""The events of a streamed chat."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from quire import CompletionOutput
from quire.contracts import CallArguments, CallBegun, CallBroken, Content, Event, Reasoning
from quire_server.openai.answers import Answer, Chunks, sound
from quire_server.openai.logprobs import chat_logprobs
from quire_server.service import AnswerParser, Generation, OpenedChat, Work

if TYPE_CHECKING:
    from quire_server.openai.chat import ChatBody


async def chat_events(
    generation: Generation, answer: Answer, body: ChatBody, work: Work, opened: OpenedChat
) -> AsyncGenerator[bytes, None]:
    """Chunks as the engine has news; raises what the generation raises.

    Each choice begins with a chunk that names the role and ends with one that has the finish reason.
    """
    chunks = Chunks(answer, body, generation.usage)
    going = [True] * work.params.n
    read = [_Parsed(opened.parser()) for _ in going] if opened.parses else None
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
                deltas = [{"content": one.text}] if one.text else []
                if read is not None:
                    deltas = read[one.index].deltas(one)
                # A token whose text is held back, or has none, is still news: clients time the tokens by it.
                # The last one's is the end of the text, and said by the finish reason.
                told = one.finish_reason is None or body.top is not None or body.return_token_ids
                if not deltas and one.token_ids and told:
                    deltas = [{"content": ""}]
                for place, delta in enumerate(deltas):
                    yield chunks.chunk(_choice(one, body, delta, first=not place))
                if one.finish_reason is not None:
                    going[one.index] = False
                    yield chunks.chunk(_finish(one, called=read is not None and read[one.index].called))
    yield chunks.end()


class _Parsed:
    """The deltas of one choice."""

    def __init__(self, parser: AnswerParser) -> None:
        self._parser = parser
        self._calls = -1

    @property
    def called(self) -> bool:
        """Whether a call is complete."""
        return self._parser.called

    def deltas(self, one: CompletionOutput) -> list[dict[str, Any]]:
        """What is new."""
        events = self._parser.feed(one.text, len(one.token_ids))
        if one.finish_reason is not None:
            events += self._parser.finish()
        return [delta for event in events if (delta := self._delta(event)) is not None]

    def _delta(self, event: Event) -> dict[str, Any] | None:
        match event:
            case Content(text) | CallBroken(text):
                return {"content": text}
            case Reasoning(text):
                return {"reasoning_content": text, "reasoning": text}
            case CallBegun(name):
                self._calls += 1
                head = {"index": self._calls, "id": self._parser.draw_id(), "type": "function"}
                return {"tool_calls": [{**head, "function": {"name": name, "arguments": ""}}]}
            case CallArguments(text):
                return {"tool_calls": [{"index": self._calls, "function": {"arguments": text}}]}
        return None


def _begin(index: int) -> dict[str, Any]:
    delta = {"role": "assistant", "content": "", "refusal": None}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _choice(one: CompletionOutput, body: ChatBody, delta: dict[str, Any], *, first: bool) -> dict[str, Any]:
    """A delta; tokens are told of with the first of those that they have given."""
    choice: dict[str, Any] = {
        "index": one.index,
        "delta": delta,
        "logprobs": None,
        "finish_reason": None,
    }
    if body.top is not None and first:
        choice["logprobs"] = chat_logprobs(one.token_ids, one.logprobs or (), body.top)
    if body.return_token_ids and first:
        choice["token_ids"] = one.token_ids
    return choice


def _finish(one: CompletionOutput, *, called: bool) -> dict[str, Any]:
    return {
        "index": one.index,
        "delta": {},
        "logprobs": None,
        "finish_reason": "tool_calls" if called and one.finish_reason == "stop" else one.finish_reason,
        "stop_reason": one.stop_reason,
    }
