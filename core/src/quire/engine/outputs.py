"""From token ids to what callers get: text, stop strings, log probabilities. Runs at the client's side.

Text is made when somebody looks at it: while nobody watches a request, and no stop string is looked for,
a step costs it no more than the ids' keeping.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from quire.engine.inputs import PreparedRequest
from quire.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from quire.plan import TokenLogprobs
from quire.request import StepOutput
from quire.sampling_params import SamplingParams
from quire.text.detokenizer import IncrementalDetokenizer
from quire.text.stop import StopMatcher
from quire.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class ProcessedOutputs:
    """What came of a batch of step outputs.

    Attributes:
        outputs: requests with news, each with all that was generated so far, or what is new of it.
        aborts: (request id, completion) whose text ended on a stop string: the engine does not know yet.
    """

    outputs: list[RequestOutput] = field(default_factory=list)
    aborts: list[tuple[str, int]] = field(default_factory=list)


class OutputProcessor:
    """Keeps the text side of every live request."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._requests: dict[str, _RequestState] = {}

    def add(self, request: PreparedRequest, *, deltas: bool = False) -> None:
        """Begin to follow a request.

        Args:
            request: as it was handed to the engine.
            deltas: its outputs hold what is new since the last one, instead of all so far.
        """
        self._requests[request.engine.request_id] = _RequestState(request, self._tokenizer, deltas)

    def discard(self, request_id: str) -> None:
        """Forget a request whose news nobody wants any more."""
        self._requests.pop(request_id, None)

    def process(self, steps: Iterable[StepOutput], *, only_finished: bool = False) -> ProcessedOutputs:
        """Take a step's news. News of requests that are not followed any more is dropped: they have ended.

        Args:
            steps: what the engine gave.
            only_finished: leave out requests that go on: nobody is watching them.
        """
        result = ProcessedOutputs()
        shown: dict[str, _RequestState] = {}
        now = time.monotonic()
        for step in steps:
            state = self._requests.get(step.request_id)
            if state is None:
                continue
            if state.take(step, now):
                result.aborts.append((step.request_id, step.index))
            if state.finished or not only_finished:
                shown[step.request_id] = state
        for request_id, state in shown.items():
            result.aborts += [(request_id, index) for index in state.settle()]
            if state.finished:
                del self._requests[request_id]
            result.outputs.append(state.snapshot())
        return result


class _RequestState:
    """One request: its completions and its metrics.

    Attributes:
        finished: all its completions are.
    """

    # A step looks at every request once, with cold caches: slots spare it a memory access for each.
    __slots__ = (
        "_cached_tokens",
        "_completions",
        "_deltas",
        "_error",
        "_metrics",
        "_prompt_logprobs",
        "_request",
        "_token_times",
        "_tokenizer",
        "_waits",
        "finished",
    )

    def __init__(self, request: PreparedRequest, tokenizer: Tokenizer, deltas: bool) -> None:
        params = request.params
        self._deltas = deltas
        self._request = request
        self._tokenizer = tokenizer
        self._completions = [
            _Completion(index, request.engine.prompt_ids, params, tokenizer)
            for index in range(params.num_completions)
        ]
        self._prompt_logprobs: list[dict[int, Logprob] | None] | None = (
            [None] if params.prompt_logprobs is not None else None
        )
        self._metrics = RequestMetrics(arrival_time=request.engine.arrival_time)
        self._waits = True  # for its first token
        self._token_times: list[float] = []
        self._cached_tokens = 0
        self._error: str | None = None
        self.finished = False

    def take(self, step: StepOutput, now: float) -> bool:
        """Apply one completion's news, that came at `now`. True if a stop string has ended it."""
        if self._waits:
            metrics = self._metrics
            if metrics.first_scheduled_time is None:
                metrics.first_scheduled_time = step.scheduled_time
            # What comes before it has its turn was put in (the end of a thinking that has no budget at all).
            if step.token_ids and metrics.first_scheduled_time is not None:
                metrics.first_token_time = now
                self._waits = False
        if step.num_preemptions:
            self._metrics.num_preemptions = max(self._metrics.num_preemptions, step.num_preemptions)
        if step.index == 0:
            self._cached_tokens = step.num_cached_tokens
            self._token_times += [now] * len(step.token_ids)
        if self._prompt_logprobs is not None and step.prompt_logprobs:
            self._prompt_logprobs += [
                _logprobs(self._tokenizer, entry, self._request.params.detokenize)
                for entry in step.prompt_logprobs
            ]
        completion = self._completions[step.index]
        try:
            stopped = completion.take(step)
        except Exception as error:
            self._fail(completion, error)
            stopped = step.finish_reason is None
        if step.error is not None:
            self._error = step.error
        if completion.finished:
            self._see_end(now)
        return stopped

    def settle(self) -> list[int]:
        """Make the text of what has come. Returns the completions that this has ended."""
        failed = []
        for index, completion in enumerate(self._completions):
            going = not completion.finished
            try:
                completion.settle()
            except Exception as error:
                self._fail(completion, error)
                if going:
                    failed.append(index)
        if failed:
            self._see_end(time.monotonic())
        return failed

    def _fail(self, completion: _Completion, error: Exception) -> None:
        """One request's text must not take the others' with it."""
        logger.error("Detokenizing request %s failed", self._request.engine.request_id, exc_info=error)
        completion.fail()
        self._error = f"{type(error).__name__}: {error}"

    def _see_end(self, now: float) -> None:
        if not self.finished and all(one.finished for one in self._completions):
            self.finished = True
            self._metrics.finished_time = now

    def snapshot(self) -> RequestOutput:
        """All that was generated so far, or since the last snapshot; independent of what comes."""
        finished = self.finished
        prompt_logprobs = None if self._prompt_logprobs is None else list(self._prompt_logprobs)
        if self._deltas and self._prompt_logprobs is not None:
            self._prompt_logprobs = []
        return RequestOutput(
            request_id=self._request.engine.request_id,
            prompt=self._request.prompt,
            prompt_token_ids=self._request.engine.prompt_ids,
            outputs=self._chosen(finished),
            finished=finished,
            prompt_logprobs=prompt_logprobs,
            metrics=replace(self._metrics, token_times=tuple(self._token_times) if finished else ()),
            num_cached_tokens=self._cached_tokens,
            error=self._error,
        )

    def _chosen(self, finished: bool) -> list[CompletionOutput]:
        """All completions; of `best_of` the best `n` once all have ended, the first `n` until then."""
        n = self._request.params.n
        chosen = self._completions
        if finished and len(chosen) > n:
            chosen = sorted(chosen, key=lambda one: -one.cumulative_logprob)
        if self._deltas:
            return [one.delta() for one in chosen[:n]]
        outputs = [one.snapshot() for one in chosen[:n]]
        for index, output in enumerate(outputs):
            output.index = index
        return outputs


class _Completion:
    """One completion: ids, text, stop strings, log probabilities.

    Attributes:
        finished: it has a finish reason.
        cumulative_logprob: of its tokens.
    """

    __slots__ = (
        "_detokenizer",
        "_ids",
        "_index",
        "_logprobs",
        "_matcher",
        "_output",
        "_params",
        "_passed",
        "_settled",
        "_text",
        "_tokenizer",
        "cumulative_logprob",
        "finished",
    )

    def __init__(
        self, index: int, prompt_ids: Sequence[int], params: SamplingParams, tokenizer: Tokenizer
    ) -> None:
        self._index = index
        self._params = params
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._passed = 0  # ids that went out in deltas
        self._settled = 0  # of `_ids`: those whose text has been made
        self._logprobs: list[dict[int, Logprob]] | None = [] if params.logprobs is not None else None
        self._text: list[str] = []
        self._detokenizer = (
            IncrementalDetokenizer(tokenizer, prompt_ids, skip_special_tokens=params.skip_special_tokens)
            if params.detokenize
            else None
        )
        stops = [params.stop] if isinstance(params.stop, str) else list(params.stop or ())
        self._matcher = StopMatcher(stops, include=params.include_stop_str_in_output) if stops else None
        self.cumulative_logprob = 0.0
        self._output = CompletionOutput(index=index, text="", token_ids=[])
        self.finished = False

    def take(self, step: StepOutput) -> bool:
        """Apply news; True if a stop string ended it before the engine did."""
        if self.finished:
            return False
        if self._matcher is not None:
            return self._take_watching(step, self._matcher)
        self._ids += step.token_ids
        if step.logprobs is not None:
            for entry in step.logprobs:
                self._take_logprobs(entry)
        if step.finish_reason is not None:
            self._end(step)
        return False

    def settle(self) -> None:
        """Make the text of the ids that have come since the last time."""
        if self._matcher is not None or self._detokenizer is None or self._settled < 0:
            return
        ids, self._settled = self._ids[self._settled :], len(self._ids)
        # The token that ended the completion adds no text, unless it was asked for.
        if ids and self._output.finish_reason == "stop" and not self._params.include_stop_str_in_output:
            ids.pop()
        self._text.append(self._detokenizer.append(ids))
        if self.finished:
            self._text.append(self._detokenizer.finish())
            self._settled = -1

    def fail(self) -> None:
        """End it with an error."""
        self._output.finish_reason = "error"
        self.finished = True
        self._settled = -1

    def snapshot(self) -> CompletionOutput:
        """The completion so far."""
        text = "".join(self._text)
        self._text = [text]
        return CompletionOutput(
            index=self._index,
            text=text,
            token_ids=list(self._ids),
            cumulative_logprob=self._shown_cumulative(),
            logprobs=None if self._logprobs is None else list(self._logprobs),
            finish_reason=self._output.finish_reason,
            stop_reason=self._output.stop_reason,
        )

    def delta(self) -> CompletionOutput:
        """What is new since the last delta; it is forgotten here, but for the cumulative log probability."""
        ids, self._ids = self._ids, []
        self._passed += len(ids)
        self._settled = min(self._settled, 0)
        logprobs = self._logprobs
        if logprobs is not None:
            self._logprobs = []
        text, self._text = "".join(self._text), []
        return CompletionOutput(
            index=self._index,
            text=text,
            token_ids=ids,
            cumulative_logprob=self._shown_cumulative(),
            logprobs=logprobs,
            finish_reason=self._output.finish_reason,
            stop_reason=self._output.stop_reason,
        )

    def _shown_cumulative(self) -> float | None:
        shown = self._params.logprobs is not None or self._params.use_beam_search
        return self.cumulative_logprob if shown else None

    def _end(self, step: StepOutput) -> None:
        self._output.finish_reason = step.finish_reason
        self.finished = True
        self._output.stop_reason = step.stop_reason

    def _take_watching(self, step: StepOutput, matcher: StopMatcher) -> bool:
        """Apply news token by token, looking for stop strings."""
        assert self._detokenizer is not None, "stop strings are refused without text"
        for position, token in enumerate(step.token_ids):
            self._ids.append(token)
            if step.logprobs is not None:
                self._take_logprobs(step.logprobs[position])
            last = step.finish_reason == "stop" and position == len(step.token_ids) - 1
            silent = last and not self._params.include_stop_str_in_output
            if self._stops_at("" if silent else self._detokenizer.append([token]), matcher):
                return step.finish_reason is None
        if step.finish_reason is not None and not self._stops_at(self._detokenizer.finish(), matcher):
            self._text.append(matcher.finish())
            self._end(step)
        return False

    def _stops_at(self, text: str, matcher: StopMatcher) -> bool:
        """Feed new text to the matcher; on a stop string the completion is finished."""
        if self._passed + len(self._ids) < self._params.min_tokens:
            self._text.append(text)
            return False
        match = matcher.feed(text)
        self._text.append(match.text)
        if match.stop is None:
            return False
        self._output.finish_reason = "stop"
        self.finished = True
        self._output.stop_reason = match.stop
        return True

    def _take_logprobs(self, entry: TokenLogprobs) -> None:
        self.cumulative_logprob += entry.logprobs[0]
        if self._logprobs is not None:
            self._logprobs.append(_logprobs(self._tokenizer, entry, self._params.detokenize))


def _logprobs(tokenizer: Tokenizer, entry: TokenLogprobs, decode: bool) -> dict[int, Logprob]:
    """The chosen token first, then the top ones; a chosen one among the top appears once."""
    ranks = [entry.rank, *range(1, len(entry.token_ids))]
    result: dict[int, Logprob] = {}
    for token, value, rank in zip(entry.token_ids, entry.logprobs, ranks, strict=True):
        if token not in result:
            text = tokenizer.decode([token], skip_special_tokens=False) if decode else None
            result[token] = Logprob(logprob=value, rank=rank, decoded_token=text)
    return result
