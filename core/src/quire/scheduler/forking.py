"""How sequences come to be: the first of a request, other completions of its prompt, the beams of a search.

Knows sequences and the roster. Must never know plans or results, nor which beams are the better ones.
"""

from __future__ import annotations

from dataclasses import replace

from quire.kv import KVManager, TokenChain, root_digest
from quire.scheduler.beams import Beam, BeamGroup, BeamRules
from quire.scheduler.policy import Policy
from quire.scheduler.roster import Roster
from quire.scheduler.state import RequestState, Sequence, completion_seed

__all__ = ["Forking", "begin_beams"]


def begin_beams(state: RequestState) -> None:
    """Make a new request's state that of a beam search.

    Its beams sample nothing; the worker is asked for the most likely tokens of each.
    """
    params = state.request.params
    rules = BeamRules(
        width=params.width,
        max_tokens=state.max_len - len(state.request.prompt_ids),
        min_tokens=params.min_tokens,
        stop_ids=state.eos_ids | state.stop_ids,
        length_penalty=1.0 if params.length_penalty is None else params.length_penalty,
        early_stopping=params.early_stopping or False,
        num_logprobs=params.logprobs or 0,
    )
    state.beams = BeamGroup(rules)
    del state.unforked[1:]  # what it starts from is one sequence, however many come of it
    logprobs = rules.num_logprobs if rules.num_logprobs < 0 else max(rules.num_logprobs, rules.num_candidates)
    state.request = replace(state.request, params=replace(params, temperature=0.0, logprobs=logprobs))


class Forking:
    """Makes the sequences of one scheduler."""

    def __init__(self, kv: KVManager, roster: Roster, policy: Policy) -> None:
        self._kv = kv
        self._roster = roster
        self._policy = policy

    def start(self, state: RequestState) -> None:
        """Let the first completion that does not exist yet wait; the others will fork from it."""
        request = state.request
        extra = {"adapter": request.adapter, "cache_salt": request.cache_salt}
        root = root_digest({tag: value for tag, value in extra.items() if value is not None})
        token_ids = list(request.prompt_ids)
        chain = TokenChain(token_ids, self._kv.block_size, root)
        sequence = self._new(state, state.unforked.pop(0), token_ids, chain)
        if state.beams is not None:
            (sequence.beam,) = state.beams.live
        self._roster.enqueue(sequence)

    def complete(self, parent: Sequence) -> None:
        """Once the prompt is computed, make the other completions.

        Each starts one token short of the prompt, so that it recomputes the last one and samples its own
        first token from those logits. Its hold on the prompt's blocks does not depend on the parent.
        """
        state, prompt = parent.state, parent.state.request.prompt_ids
        shared = len(prompt) - 1
        for index in state.unforked:
            token_ids = list(prompt)
            chain = parent.chain.fork(token_ids, shared // self._kv.block_size)
            child = self._new(state, index, token_ids, chain)
            child.num_cached_tokens = parent.num_cached_tokens
            self._roster.fork(parent, child, shared)
        state.unforked.clear()

    def advance(self, group: BeamGroup, sequences: list[Sequence]) -> list[Sequence]:
        """Let a search take a step, with a sequence for each beam that goes on.

        The one that continues a sequence with the very token that the worker has drawn for it, the most
        likely one, takes it over. So may any that continues a sequence without a slot, of which the worker
        knows nothing. The others fork.

        Args:
            group: all its live beams have their answers.
            sequences: theirs.

        Returns:
            The sequences that no beam goes on with. They are still to be ended.
        """
        parents = [(one, one.beam.answer.token_ids[0]) for one in sequences if one.beam and one.beam.answer]
        children: dict[Beam | None, list[Beam]] = {}
        for beam in group.advance():
            children.setdefault(beam.parent, []).append(beam)
        deserted = []
        for sequence, drawn in parents:
            heir = None
            for beam in children.get(sequence.beam, ()):
                if heir is None and (beam.token_id == drawn or sequence.slot < 0):
                    heir = beam
                else:
                    self._branch(sequence, beam)
            if heir is None:
                deserted.append(sequence)
            else:
                sequence.beam = heir
                sequence.token_ids.append(heir.token_id)
        return deserted

    def _branch(self, parent: Sequence, beam: Beam) -> None:
        """Make the sequence of a beam that continues another sequence's; it has all its tokens but one."""
        shared = len(parent.token_ids)
        token_ids = [*parent.token_ids, beam.token_id]
        chain = parent.chain.fork(token_ids, shared // self._kv.block_size)
        index = 1 + max(one.index for one in parent.state.sequences)
        child = self._new(parent.state, index, token_ids, chain)
        child.beam = beam
        child.num_cached_tokens = parent.num_cached_tokens
        child.num_preemptions = parent.num_preemptions
        child.scheduled_time = parent.scheduled_time
        self._roster.fork(parent, child, shared if parent.slot >= 0 else 0)

    def _new(self, state: RequestState, index: int, token_ids: list[int], chain: TokenChain) -> Sequence:
        seed = completion_seed(state.request.seed, index)
        sequence = Sequence(state, index, seed, token_ids, chain)
        if (thinking := state.request.thinking) is not None:
            sequence.pause = sequence.num_prompt + thinking.free
        sequence.rank = self._policy.order(sequence)
        state.sequences.append(sequence)
        return sequence
