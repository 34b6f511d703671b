"""Counts what outputs think, and says when a budget of thinking is spent.

What thinking is the model's reasoning parser says, of the text; so this reads the outputs that have a
budget, token by token, until their thinking is over. Knows completions by request and index; knows no
scheduler and no device.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from quire.contracts import Content, ReasoningParser, ReasoningParserInit
from quire.request import EngineRequest, StepOutput, ThinkingBudget
from quire.text.detokenizer import IncrementalDetokenizer
from quire.text.tokenizer import Tokenizer

__all__ = ["ThinkingReader", "ThinkingRunner"]

logger = logging.getLogger(__name__)

Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class ThinkingReader:
    """What reads thinking.

    Attributes:
        tokenizer: the model's.
        parser: the reasoning parser's class.
        options: its options model, or None.
    """

    tokenizer: Tokenizer
    parser: type[ReasoningParser]
    options: Any = None


@dataclass(slots=True)
class _Request:
    """A live request with a budget, until the thinking of all its completions is over.

    Attributes:
        request: as it came.
        budget: its budget.
        left: completions whose thinking is not over.
    """

    request: EngineRequest
    budget: ThinkingBudget
    left: set[int]


@dataclass(slots=True)
class _Output:
    """A completion that may be thinking.

    Attributes:
        parser: has read all of it.
        text: makes its text.
        ids: its last tokens, as many as the end of the thinking has.
        num_tokens: of it.
        spent: tokens of its thinking.
    """

    parser: ReasoningParser
    text: IncrementalDetokenizer
    ids: list[int]
    num_tokens: int = 0
    spent: int = 0


class ThinkingRunner:
    """Follows the outputs of requests with a budget of thinking.

    An output is never ahead of what is known of it: `pause` says how long it may become before it has to be
    asked about again.

    Attributes:
        num_ended: outputs whose thinking was ended, since the start.
    """

    def __init__(self, load: Callable[[], ThinkingReader]) -> None:
        """Nothing is loaded before the first request with a budget.

        Args:
            load: makes the reader; called once, in a thread.
        """
        self.num_ended = 0
        self._load = load
        self._reader: Future[ThinkingReader] | None = None
        self._requests: dict[str, _Request] = {}
        self._outputs: dict[Key, _Output] = {}
        self._due: dict[Key, list[int]] = {}

    def add(self, request: EngineRequest) -> None:
        """A request was queued; what reads it is loaded while it waits and computes its prompt."""
        budget = request.thinking
        if budget is None:
            return
        if self._reader is None:
            thread = ThreadPoolExecutor(1, thread_name_prefix="quire-thinking")
            self._reader = thread.submit(self._load)
            thread.shutdown(wait=False)
        completions = range(request.params.num_completions)
        self._requests[request.request_id] = _Request(request, budget, set(completions))
        if not budget.free:  # the first token is the answer's already
            self._due |= {(request.request_id, index): list(budget.end_ids) for index in completions}

    def advance(self, outputs: Iterable[StepOutput]) -> list[tuple[Key, int | None]]:
        """Take in the news of a step.

        Returns:
            The completions that may become longer than was said before, each with the number of its tokens at
            which it is to be asked about again; None for never.
        """
        if not self._requests:
            return []
        moved: list[tuple[Key, int | None]] = []
        for news in outputs:
            request = self._requests.get(news.request_id)
            if request is None or news.index not in request.left:
                continue
            key = (news.request_id, news.index)
            if news.finish_reason is not None:
                self.forget(key)
            elif news.token_ids:
                moved += self._read(key, request, news.token_ids)
        return moved

    def due(self) -> list[tuple[Key, list[int]]]:
        """The completions that have spent their budget, each with what ends its thinking."""
        return list(self._due.items()) if self._due else []

    def ended(self, key: Key) -> None:
        """The thinking of a completion was ended."""
        self.num_ended += 1
        self.forget(key)

    def forget(self, key: Key) -> None:
        """A completion is no longer to be followed."""
        self._due.pop(key, None)
        self._outputs.pop(key, None)
        request = self._requests[key[0]]
        request.left.discard(key[1])
        if not request.left:
            del self._requests[key[0]]

    def _read(self, key: Key, request: _Request, ids: list[int]) -> list[tuple[Key, int | None]]:
        """Read new tokens of a completion; whether it may become longer now, and how long."""
        try:
            output = self._outputs.get(key) or self._begin(key, request)
            over = self._over(output, ids, request.budget)
        # Whatever a plugin raises over a text costs the one request its budget, and nobody anything else.
        except Exception:
            logger.exception("Request %s: its thinking cannot be read", key[0])
            over = True
        if over:
            self.forget(key)
            return [(key, None)]
        budget = request.budget
        if not output.parser.inside:
            return [(key, output.num_tokens + 1 + budget.tokens)]  # it takes a token to begin with
        if output.spent >= budget.tokens:
            self._due[key] = _rest(output.ids, list(budget.end_ids))
            return []
        return [(key, output.num_tokens + budget.tokens - output.spent)]

    def _begin(self, key: Key, request: _Request) -> _Output:
        assert self._reader is not None
        reader = self._reader.result()
        budget = request.budget
        init = ReasoningParserInit(prompt=budget.prompt, continued=budget.continued, options=reader.options)
        parser = reader.parser(init)
        hides = request.request.params.skip_special_tokens and not parser.special_tokens
        text = IncrementalDetokenizer(reader.tokenizer, request.request.prompt_ids, skip_special_tokens=hides)
        output = self._outputs[key] = _Output(parser, text, [])
        return output

    @staticmethod
    def _over(output: _Output, ids: list[int], budget: ThinkingBudget) -> bool:
        """Take new tokens; whether the thinking is over, or there is none."""
        parser = output.parser
        for token in ids:
            was = parser.inside
            events = parser.feed(output.text.append([token]))
            output.spent += was
            if (was and not parser.inside) or any(isinstance(event, Content) for event in events):
                return True
        output.num_tokens += len(ids)
        output.ids = [*output.ids, *ids][-len(budget.end_ids) :]
        return False


def _rest(ids: list[int], end_ids: list[int]) -> list[int]:
    """What is missing of the end, where an output has begun to write it: `ids` are its last tokens."""
    begun = range(min(len(ids), len(end_ids) - 1), 0, -1)
    return next((end_ids[size:] for size in begun if ids[-size:] == end_ids[:size]), end_ids)
