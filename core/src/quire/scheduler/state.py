"""What the scheduler remembers of a request and of each of its completions.

Plain mutable records; who may run, and when, is decided elsewhere.

Lengths under overlap: a step can be planned before the results of the last one are in. `num_computed`
runs ahead with the plans, `num_confirmed` follows with the results, and `num_pending` counts the
sampled tokens still under way, so `len(token_ids) + num_pending` is an upper bound of the length. Those that
are certain beforehand are in `token_ids`, and not pending (`foreseen`). A sequence that has drafts, or waits
for some, is not planned again before its results are in: how many tokens it will have then is not known.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from quire.kv import TokenChain
from quire.request import EngineRequest
from quire.scheduler.acceptance import Acceptance
from quire.scheduler.beams import Beam, BeamGroup
from quire.scheduler.laggards import Account

__all__ = ["RequestState", "Sequence", "completion_seed", "num_completions"]


def num_completions(request: EngineRequest) -> int:
    """How many completions come of a request."""
    return request.params.num_completions


def completion_seed(seed: int, index: int) -> int:
    """Seed of completion `index`: the request's own for 0, else 63 bits of a hash of both."""
    if index == 0:
        return seed
    digest = hashlib.sha256(f"quire completion seed {seed} {index}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


@dataclass(slots=True, eq=False)
class RequestState:
    """A live request.

    Attributes:
        request: what came in; of a beam search with the parameters for its beams.
        number: position in the order of arrival at this scheduler.
        max_len: length at which each of its sequences ends with "length".
        eos_ids, stop_ids: ids that end a sequence.
        sequences: its live sequences.
        unforked: completions that do not exist yet; they fork from the first one once it has computed
            the prompt.
        beams: its beam search, if it is one; its sequences are the beams then.
    """

    request: EngineRequest
    number: int
    max_len: int
    eos_ids: frozenset[int]
    stop_ids: frozenset[int]
    sequences: list[Sequence] = field(default_factory=list)
    unforked: list[int] = field(default_factory=list)
    beams: BeamGroup | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """One completion, or beam, of a live request. Compared and hashed by identity: it is a KV holder.

    Attributes:
        state: the request it belongs to.
        index: which completion; of beams a number of its own.
        seed: seed of its random stream.
        token_ids: prompt and accepted output ids.
        chain: digests of its full blocks.
        rank: sort key given by the policy; smaller runs first.
        slot, generation: its seat in the worker; slot -1 while waiting.
        num_computed: tokens with KV once all planned steps are done.
        num_confirmed: tokens with KV by the results that are in.
        num_pending: sampled tokens still under way.
        drafts: tokens proposed to follow, for its next step; not among `token_ids`.
        speculating: a step under way has drafts of it, or is to propose some.
        asked: that step is to propose some.
        acceptance: how well its drafts do.
        account: what drafts have brought it, and have cost it.
        beam: what it is in its request's beam search, if that is one.
        pause: length at which it waits to be told how it goes on; None for never.
        forced: the last so many of `token_ids` the worker has yet to be told; it need not sample them.
        foreseen: results under way whose tokens are in `token_ids` already.
        num_prompt_logprobs: prompt positions already reported.
        num_cached_tokens: prompt tokens found in the prefix cache at its first start.
        num_preemptions: times it lost its blocks while running.
        scheduled_time: first start, by the scheduler's clock.
    """

    state: RequestState
    index: int
    seed: int
    token_ids: list[int]
    chain: TokenChain
    rank: tuple[int, ...] = ()
    slot: int = -1
    generation: int = 0
    num_computed: int = 0
    num_confirmed: int = 0
    num_pending: int = 0
    drafts: list[int] = field(default_factory=list)
    speculating: bool = False
    asked: bool = False
    acceptance: Acceptance = field(default_factory=Acceptance)
    account: Account = field(default_factory=Account)
    beam: Beam | None = None
    pause: int | None = None
    forced: int = 0
    foreseen: int = 0
    num_prompt_logprobs: int = 0
    num_cached_tokens: int = 0
    num_preemptions: int = 0
    scheduled_time: float | None = None

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.state.request.prompt_ids)

    @property
    def num_output(self) -> int:
        """Tokens generated and accepted."""
        return len(self.token_ids) - self.num_prompt

    @property
    def limit(self) -> int:
        """Length up to which tokens may be sampled."""
        longest = self.state.max_len
        return longest if self.pause is None else min(longest, self.pause)

    @property
    def num_missing(self) -> int:
        """Tokens that the next step could compute, drafts aside; 0 if only results under way can tell."""
        if self.speculating or (self.beam is not None and (self.num_pending or self.beam.answer is not None)):
            return 0
        length = len(self.token_ids) + self.num_pending
        return length - self.num_computed if length < self.limit else 0

    @property
    def idle(self) -> bool:
        """It is a beam whose result is in, and waits for those of the others."""
        return self.beam is not None and self.beam.answer is not None

    @property
    def prompt_logprobs_from(self) -> int | None:
        """First prompt position whose log probability is still to be reported, if any is."""
        if self.index != 0 or self.state.request.params.prompt_logprobs is None:
            return None
        position = 1 + self.num_prompt_logprobs
        return position if position < self.num_prompt else None

    def forget_computed(self) -> None:
        """Back to nothing computed, when its blocks are gone; results under way become stale."""
        self.num_computed = self.num_confirmed = self.num_pending = self.forced = self.foreseen = 0
        self.speculating = self.asked = False
        self.drafts = []
