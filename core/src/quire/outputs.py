"""What callers get back: requests, completions, log probabilities, timings. No torch, no engine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["CompletionOutput", "FinishReason", "Logprob", "RequestMetrics", "RequestOutput"]

FinishReason = Literal["stop", "length", "abort", "error"]


@dataclass(frozen=True, slots=True)
class Logprob:
    """Log probability of a token under the model, before sampling parameters.

    Attributes:
        logprob: natural logarithm.
        rank: 1 for the most likely token.
        decoded_token: its text, None if detokenizing is off.
    """

    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


@dataclass(slots=True)
class CompletionOutput:
    """One completion of a request.

    Attributes:
        index: 0 .. n - 1.
        text: text so far.
        token_ids: generated ids so far.
        cumulative_logprob: sum over generated tokens, None unless `logprobs` or a beam search was asked.
        logprobs: per generated token a mapping id -> `Logprob`, None unless asked.
        finish_reason: None while running.
        stop_reason: the stop string or stop token id that ended it; None for EOS, length and abort.
    """

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        """True once it has a finish reason."""
        return self.finish_reason is not None


@dataclass(slots=True)
class RequestMetrics:
    """When things happened to a request, in seconds of `time.monotonic()`.

    Attributes:
        arrival_time: handed to the engine.
        first_scheduled_time: first step that computed for it.
        first_token_time: first token sampled.
        finished_time: last token sampled, or aborted.
        num_preemptions: how often it lost its blocks.
        token_times: when each token of completion 0 came; those of one step come together. Empty until
            the request has finished.
    """

    arrival_time: float
    first_scheduled_time: float | None = None
    first_token_time: float | None = None
    finished_time: float | None = None
    num_preemptions: int = 0
    token_times: tuple[float, ...] = ()


@dataclass(slots=True)
class RequestOutput:
    """A request and all that has been generated for it so far.

    Attributes:
        request_id: id given by the caller, or drawn.
        prompt: prompt text, None if it was given as token ids.
        prompt_token_ids: prompt ids.
        prompt_logprobs: per prompt token a mapping id -> `Logprob`; the first is None; None unless asked.
        outputs: `n` completions.
        finished: all completions are.
        metrics: timings.
        num_cached_tokens: prompt tokens found in the prefix cache.
    """

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    metrics: RequestMetrics | None = None
    num_cached_tokens: int = 0
    error: str | None = field(default=None)
