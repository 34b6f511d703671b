"""A request as the engine sees it: token ids and numbers, no text.

`EngineRequest` is what a client hands over; `StepOutput` is what comes back each step. Both are
plain data (msgspec can encode every field).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from quire.outputs import FinishReason
from quire.plan import TokenLogprobs
from quire.sampling_params import SamplingParams

__all__ = ["CompiledGrammar", "EngineRequest", "StepOutput", "ThinkingBudget"]


@dataclass(frozen=True, slots=True)
class CompiledGrammar:
    """What an output must look like, compiled.

    Attributes:
        backend: name of the grammar plugin that made it, among those of the engine's plan.
        data: its artefact.
    """

    backend: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ThinkingBudget:
    """How much a request may think, and what its reasoning parser has to know.

    Attributes:
        tokens: of thinking, per completion.
        open: the prompt has opened it; else the model does, or does not.
        end_ids: tokens that end it.
        prompt, continued: see `ReasoningParserInit`.
    """

    tokens: int
    open: bool
    end_ids: tuple[int, ...]
    prompt: str
    continued: str | None = None

    @property
    def free(self) -> int:
        """Tokens that an output has before it can have thought too much: to open the thinking takes one."""
        return self.tokens if self.open else self.tokens + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """A validated request, ready for the scheduler.

    Attributes:
        request_id: unique among live requests; drawn by the client, never taken from outside.
        prompt_ids: prompt token ids, at least one.
        params: validated parameters; `params.max_tokens` is an int by now. The engine runs
            `max(n, best_of)` completions, or as many beams.
        seed: seed of the random stream; completion i uses a seed derived from it and i.
        priority: lower runs earlier under the policy "priority".
        arrival_time: `time.monotonic()` at the client.
        cache_salt: prefix-cache entries are shared only among equal salts.
        adapter: content digest of the adapter in use; None for the base model.
        eos_token_ids: ids that end the request unless `ignore_eos`.
        grammar: what each of its outputs must look like; None for anything.
        thinking: how much each of its completions may think; None for any amount.
    """

    request_id: str
    prompt_ids: list[int]
    params: SamplingParams
    seed: int
    priority: int = 0
    arrival_time: float = 0.0
    cache_salt: str | None = None
    adapter: str | None = None
    eos_token_ids: tuple[int, ...] = ()
    grammar: CompiledGrammar | None = None
    thinking: ThinkingBudget | None = None


@dataclass(slots=True, kw_only=True)
class StepOutput:
    """News of one completion of one request after a step.

    Attributes:
        request_id: the `EngineRequest`'s.
        index: which completion, 0 .. n - 1.
        token_ids: new ids; those of a beam search come all at its end.
        logprobs: one entry per new id, None if not asked. Of a beam search always.
        prompt_logprobs: entries for newly covered prompt positions (index 0 only); the entry of
            position p is about prompt token p, so there is none for position 0.
        finish_reason: set on the last output of this completion.
        stop_reason: stop token id that ended it; None for EOS and everything else.
        error: why it failed, with `finish_reason` "error".
        num_cached_tokens: prompt tokens found in the prefix cache at its first start.
        num_preemptions: so far.
        scheduled_time: first time it was scheduled, `time.monotonic()`.
    """

    request_id: str
    index: int = 0
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | None = None
    error: str | None = None
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    scheduled_time: float | None = None
