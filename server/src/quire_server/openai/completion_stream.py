"""The events of a streamed completion."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from quire import CompletionOutput, RequestOutput
from quire_server.openai.answers import Answer, Chunks, sound
from quire_server.openai.echo import Echo
from quire_server.openai.logprobs import CompletionLogprobs, Entry
from quire_server.service import Generation, Service, Work

if TYPE_CHECKING:
    from quire_server.openai.completions import CompletionBody


async def completion_events(
    generation: Generation, answer: Answer, body: CompletionBody, work: Work, service: Service
) -> AsyncGenerator[bytes, None]:
    """Chunks as the engine has news; raises what the generation raises."""
    n = work.params.n
    chunks = Chunks(answer, body, generation.usage)
    choices: dict[int, list[_Choice]] = {}
    dropped = 0
    async with aclosing(generation.__aiter__()) as news:
        async for at, output in news:
            if at not in choices:
                echo = await body.echo_of(service, output)
                choices[at] = [_Choice(at * n + index, body, echo) for index in range(n)]
            for one in sound(output):
                if body.nothing_new:
                    dropped += len(one.token_ids)
                chunk = choices[at][one.index].take(one, output)
                if chunk is not None:
                    yield chunks.chunk(chunk, dropped=dropped)
    yield chunks.end(dropped)


class _Choice:
    """One choice of the stream: what was sent of it already."""

    def __init__(self, index: int, body: CompletionBody, echo: Echo) -> None:
        self._index = index
        self._body = body
        self._echo = echo
        self._logprobs = None if body.logprobs is None else CompletionLogprobs(body.logprobs)
        self._before: list[Entry | None] = []
        self._begun = False
        self._ended = False

    def take(self, one: CompletionOutput, output: RequestOutput) -> dict[str, Any] | None:
        """The next chunk's choice; None if there is nothing to say."""
        if self._ended:
            return None
        body = self._body
        if self._echo.first is not None and not self._begun:
            # A long prompt is computed in several steps, each of which brings its part.
            missing = len(output.prompt_token_ids) - len(self._before)
            self._before += (output.prompt_logprobs or [])[:missing]
            if not one.token_ids and one.finish_reason is None:
                return None
        if body.nothing_new:
            self._ended = True
            return self._chunk("", [], [], "length", None, output)
        # A token whose text is held back, or has none, is still news: clients time the tokens by the chunks.
        if one.finish_reason is None and not one.text and not one.token_ids:
            return None
        self._ended = one.finish_reason is not None
        return self._chunk(
            one.text, one.token_ids, one.logprobs or [], one.finish_reason, one.stop_reason, output
        )

    def _chunk(
        self,
        text: str,
        ids: list[int],
        entries: list[Entry],
        finish_reason: str | None,
        stop_reason: int | str | None,
        output: RequestOutput,
    ) -> dict[str, Any]:
        logprobs = None
        opening, self._begun = not self._begun, True
        if self._logprobs is not None:
            if opening and self._echo.first is not None:
                whole = [*output.prompt_token_ids, *ids]
                logprobs = self._logprobs.take(whole, [*self._before, *entries], self._echo)
                self._before = []
            else:
                logprobs = self._logprobs.take(ids, entries)
        choice: dict[str, Any] = {
            "index": self._index,
            "text": self._echo.text + text if opening else text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
            "stop_reason": stop_reason,
        }
        if self._body.return_token_ids:
            if opening:
                choice["prompt_token_ids"] = output.prompt_token_ids
            choice["token_ids"] = ids
        return choice
