"""The wire between the engine and its workers: a step's plan, and its result.

A plan is a diff. Slots are stable seats: a request keeps its slot from its start until it ends
or is preempted; a resumed request is started anew, its output ids included. The worker keeps
each slot's token ids and `computed` count, and appends the ids it samples itself, so a plan
carries counts and never the last sampled ids: step N + 1 can be planned while N runs.

A step may compute tokens that are only proposed (drafts): behind a slot's last token, in the same forward
pass. Each of their rows is sampled from as if the drafts before it were accepted; the tokens that count are
those up to the first that differs from its draft, that one included. What was computed for the rejected
ones is overwritten later.

Plain data only (msgspec can encode every field); no torch, no scheduler.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quire.sampling_params import SamplingParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class SlotStart:
    """A request takes a slot.

    Attributes:
        slot: its seat.
        generation: counts the uses of the slot; results of an older use are discarded.
        request_id: for messages only.
        params: sampling parameters.
        seed: seed of its random stream.
        token_ids: prompt and, when it resumes, output ids emitted so far.
        num_prompt: how many of `token_ids` are the prompt.
        num_computed: tokens whose KV is in its blocks already (prefix cache, fork).
        block_ids: per KV group its blocks so far, in order.
        prompt_logprobs_from: first prompt position whose log probability is still wanted (positions
            below it were emitted before a preemption); None if none are.
        index: which completion of the request.
        masked: what it samples is masked, so that no step may draw for it by itself (see `TokenMasks`).
    """

    slot: int
    generation: int
    request_id: str
    params: SamplingParams
    seed: int
    token_ids: list[int]
    num_prompt: int
    num_computed: int
    block_ids: tuple[list[int], ...]
    prompt_logprobs_from: int | None = None
    index: int = 0
    masked: bool = False


@dataclass(frozen=True, slots=True)
class BlockCopy:
    """Copy one block's content before the step's forward pass.

    Attributes:
        group: KV group.
        src, dst: block ids.
        num_tokens: so many of the block's tokens, its first, are also those of whom it is copied for. What
            lies behind them may be copied or not.
    """

    group: int
    src: int
    dst: int
    num_tokens: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What one step does.

    A worker applies it in this order: free `ended`, seat `starts`, append `new_blocks`, put `appended` and
    `drafts` behind what it knows of their slots, do `copies`, compute `counts[i]` tokens of slot `slots[i]`,
    sample for every slot whose computed count then reaches its known length, and propose.

    Attributes:
        step_id: increases by one.
        ended: slots that ended, were preempted or aborted since the last plan.
        starts: requests that take a slot in this step. Each also appears in `slots`.
        slots, generations, counts: parallel lists: who computes how many tokens (at least 1).
        new_blocks: (slot, per KV group the block ids appended), only for slots that got some,
            and never for slots in `starts`.
        copies: block copies.
        appended: (slot, position, ids): tokens of a slot, from `position` on, that the worker need not draw,
            such as those that a grammar leaves no choice about. They are the slot's as if it had drawn them.
            The first may be such as it has drawn, in a step whose results are not in yet: then just these.
        drafts: (slot, ids): tokens proposed to follow all that is known of a slot; its count covers them.
        propose: (slot, k): propose up to k tokens, at least 1, to follow what this step samples for the slot.
        keep_states: keep of all rows of this step what a speculator may read of the model's hidden states. A
            hint: nothing but how well it guesses depends on that. Whoever reads none need not look.
    """

    step_id: int
    ended: list[int] = field(default_factory=list)
    starts: list[SlotStart] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    generations: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    new_blocks: list[tuple[int, tuple[list[int], ...]]] = field(default_factory=list)
    copies: list[BlockCopy] = field(default_factory=list)
    appended: list[tuple[int, int, list[int]]] = field(default_factory=list)
    drafts: list[tuple[int, list[int]]] = field(default_factory=list)
    propose: list[tuple[int, int]] = field(default_factory=list)
    keep_states: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens computed in this step."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class TokenMasks:
    """Which tokens some slots of a step may sample; the others may sample any.

    It goes from whoever follows the outputs to the worker when all drawn before is known, after the plan.

    Attributes:
        slots: which slots.
        counts: rows of each: one, and one more for each of its drafts in this step.
        bits: `[sum of counts, ceil(V / 32)]` int32 on the host: bit i % 32 of word i // 32 is set where
            token i is legal.
    """

    slots: list[int]
    counts: list[int]
    bits: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probabilities at one position.

    Attributes:
        token_ids: the chosen (or prompt) token first, then the top k, most likely first.
        logprobs: parallel to `token_ids`.
        rank: rank of the first entry, 1 for the most likely.
    """

    token_ids: list[int]
    logprobs: list[float]
    rank: int


@dataclass(slots=True)
class SlotResult:
    """What a step gave one slot.

    Attributes:
        slot, generation: key; a stale generation is discarded.
        token_ids: sampled ids, empty when the step ended inside the prompt; with k drafts 1 to k + 1, all but
            the last of them the drafts.
        logprobs: one entry per sampled id, or None if not asked.
        prompt_logprobs: entries for the prompt positions this step covered, in order.
        draft_ids: what is proposed to follow; empty if nothing was asked for, or came to mind.
        error: the request failed; the text says why. Nothing else counts then.
    """

    slot: int
    generation: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    draft_ids: list[int] = field(default_factory=list)
    error: str | None = None


@dataclass(slots=True)
class StepResult:
    """Result of one step: one `SlotResult` per slot of the plan, in the plan's order."""

    step_id: int
    slots: list[SlotResult]
