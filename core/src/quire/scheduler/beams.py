"""Beam search: which of the continuations of a request's beams go on, and which are its results.

Knows tokens and log probabilities. Must never know sequences, slots or blocks, nor who computed what.

The rules are those of `generate(num_beams=...)` in transformers, so that its users get the same texts:

    * In each step the continuations of all beams are ranked by the sum of their tokens' log probabilities.
      The best `width` that do not end are the beams of the next step.
    * One that ends (on an end token, or because there is no room for more) is a result if it is among the
      best `width` of its step. The `width` best results are kept; a result's score is its sum divided by
      length ** length_penalty, the length being that of the output, end token included.
    * It is over when there are `width` results and no beam can be expected to become a better one than the
      worst of them: see `BeamRules.early_stopping`.
"""

from __future__ import annotations

import math
from bisect import insort
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from quire.plan import TokenLogprobs

__all__ = ["Beam", "BeamGroup", "BeamResult", "BeamRules"]


@dataclass(frozen=True, slots=True)
class BeamRules:
    """What a search is asked for.

    Attributes:
        width: beams, and results kept.
        max_tokens: length at which a beam ends.
        min_tokens: a beam does not end on an end token before it is longer than this.
        stop_ids: end tokens.
        length_penalty: exponent of the length in a result's score; above 0 it favours the longer ones.
        early_stopping: with `width` results, True ends the search at once. False ends it when the best beam,
            were it to end at its present length, is no better than the worst result; "never" the same, but
            with a positive length penalty at the length most favourable to it, `max_tokens`.
        num_logprobs: log probabilities to keep of the most likely tokens at each of a result's; -1 for all
            that are given.
    """

    width: int
    max_tokens: int
    min_tokens: int = 0
    stop_ids: frozenset[int] = frozenset()
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_logprobs: int = 0

    @property
    def num_candidates(self) -> int:
        """Most likely tokens that are looked at for each beam: enough if all that can end do so."""
        return self.width + len(self.stop_ids)

    def score(self, total: float, length: int) -> float:
        """Of `length` tokens whose log probabilities sum up to `total`."""
        return total / math.pow(length, self.length_penalty)


@dataclass(slots=True, eq=False)
class Beam:
    """An output so far: a token, and the beam that it continues. Compared and hashed by identity.

    Attributes:
        parent: None for the beam without tokens, from which the search starts.
        entry: its last token's log probability, and those of the most likely ones beside it.
        total: sum of its tokens' log probabilities.
        answer: what the model says may follow: any token first, then the most likely ones in order. None
            until that is known.
    """

    parent: Beam | None = None
    entry: TokenLogprobs | None = None
    total: float = 0.0
    answer: TokenLogprobs | None = None

    @property
    def token_id(self) -> int:
        """Its last token."""
        assert self.entry is not None, "the first beam has no token"
        return self.entry.token_ids[0]

    def entries(self) -> list[TokenLogprobs]:
        """One for each of its tokens, in order."""
        found: list[TokenLogprobs] = []
        beam: Beam | None = self
        while beam is not None and beam.entry is not None:
            found.append(beam.entry)
            beam = beam.parent
        return found[::-1]


@dataclass(frozen=True, slots=True)
class BeamResult:
    """An output that has ended.

    Attributes:
        beam: its tokens.
        score: results are ranked by it.
    """

    beam: Beam
    score: float


class _Candidate(NamedTuple):
    """A continuation of one of the beams.

    Attributes:
        total: sum of its log probabilities.
        beam: what it continues.
        rank: place of its token among the most likely ones, 1 for the first.
    """

    total: float
    beam: Beam
    rank: int


@dataclass(slots=True)
class BeamGroup:
    """A search under way.

    Attributes:
        rules: what was asked for.
        live: the beams that go on, best first; empty when the search is over.
        results: those that have ended, best first, at most `rules.width`.
        length: tokens of each live beam.
    """

    rules: BeamRules
    live: list[Beam] = field(default_factory=lambda: [Beam()])
    results: list[BeamResult] = field(default_factory=list)
    length: int = 0

    @property
    def answered(self) -> bool:
        """True if all live beams have their answers, so that `advance` may be called."""
        return all(beam.answer is not None for beam in self.live)

    def advance(self) -> list[Beam]:
        """Take a step: the beams that go on, each the child of one of those before. None if it is over."""
        rules = self.rules
        self.length += 1
        full = self.length >= rules.max_tokens
        going: list[Beam] = []
        for place, candidate in enumerate(self._candidates()):
            child = self._child(candidate)
            if full or child.token_id in rules.stop_ids:
                if place < rules.width:
                    self._finish(child)
            elif len(going) < rules.width:
                going.append(child)
            if place >= rules.width - 1 and (full or len(going) == rules.width):
                break
        for beam in self.live:
            beam.answer = None  # they are long, and descendants keep their ancestors
        self.live = [] if full or self._over(going) else going
        return self.live

    def _candidates(self) -> list[_Candidate]:
        """All continuations, best first; of equals that of the better beam, then the more likely token."""
        rules = self.rules
        barred = rules.stop_ids if self.length <= rules.min_tokens else frozenset[int]()
        found: list[_Candidate] = []
        for beam in self.live:
            assert beam.answer is not None, "a beam has no answer yet"
            most = 1 + rules.num_candidates
            ids, logprobs = beam.answer.token_ids[1:most], beam.answer.logprobs[1:most]
            for rank, (token_id, logprob) in enumerate(zip(ids, logprobs, strict=True), start=1):
                if token_id not in barred:
                    found.append(_Candidate(beam.total + logprob, beam, rank))
        found.sort(key=lambda one: -one.total)
        return found

    def _child(self, candidate: _Candidate) -> Beam:
        """The beam that a continuation is."""
        answer, rank, most = candidate.beam.answer, candidate.rank, self.rules.num_logprobs
        assert answer is not None
        end = len(answer.token_ids) if most < 0 else 1 + most
        entry = TokenLogprobs(
            token_ids=[answer.token_ids[rank], *answer.token_ids[1:end]],
            logprobs=[answer.logprobs[rank], *answer.logprobs[1:end]],
            rank=rank,
        )
        return Beam(candidate.beam, entry, candidate.total)

    def _finish(self, beam: Beam) -> None:
        """A beam has ended: keep it if it is among the best."""
        result = BeamResult(beam, self.rules.score(beam.total, self.length))
        insort(self.results, result, key=lambda one: -one.score)
        del self.results[self.rules.width :]

    def _over(self, going: list[Beam]) -> bool:
        """Whether no better results are to be expected from the beams that go on."""
        rules = self.rules
        if not going:
            return True
        if len(self.results) < rules.width:
            return False
        if rules.early_stopping is True or rules.width == 1:  # one beam is greedy search: its first end is it
            return True
        longest = rules.early_stopping == "never" and rules.length_penalty > 0
        best = rules.score(going[0].total, rules.max_tokens if longest else self.length)
        return best <= self.results[-1].score
