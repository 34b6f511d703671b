"""How many tokens are proposed ahead of whom, and what became of them.

Drafts pay if the tokens that they are expected to bring are worth more than the time of their rows. Both are
learned: acceptance per sequence (`Acceptance`), a step's time over its rows (`StepCost`). As neither is ever
known, an allowance bounds what being wrong may cost: a small share of the time of all steps, plus what
speculation has gained, up to a few steps' worth. What is spent of it is measured, whatever the cause: wrong
drafts, slow proposals, steps that no longer overlap. When it is used up nobody is asked until it has grown.
What is gained by some is not paid by others, as long as nobody waits for their seats (`Laggards`).

Knows counts, and seconds that it is told. Must never know who proposes, nor what. The same times give the
same decisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Many
from dataclasses import dataclass

from quire.scheduler.laggards import Laggards
from quire.scheduler.state import Sequence
from quire.scheduler.states import Keeping
from quire.scheduler.step_cost import Cost, StepCost

__all__ = ["DraftStats", "Drafting"]

_SHARE = 0.005
"""Of the time of all steps, that speculation may cost."""
_FIRST, _MOST = 4.0, 6.0
"""Allowance at the start and at most, in plain steps: gains outlast a few pauses of the machine."""
_DOUBTS = 2.0
"""Standard errors of what a plain step takes by which it may be wrong."""
_MARGIN = 0.03
"""Expected gain, as a share of a step, from which drafts are worth it."""
_MEAN_WEIGHT = 20.0
"""Verifications that the mean acceptance over all sequences looks back on, about."""
_LIKELY = 0.3
"""Chance of the last token of a trial, at least, if it has more than one."""
_GRAVEST = -1.5
"""What a step may count for at worst, in plain steps: more than that is a pause of the machine."""
_REST, _LONGEST_REST = 8, 64
"""Steps without a thought after one in which nobody was worth asking, since thinking and timing cost, too.
Doubled each time that it comes to nothing again; over when somebody comes or goes."""
_REFRESH, _PAUSE = 64, 2
"""Steps with drafts after which so many go without, to see what a plain step takes by now."""


@dataclass(frozen=True, slots=True)
class DraftStats:
    """What speculation came to since the start.

    Attributes:
        num_drafts: times that a sequence had drafts in a step.
        num_draft_tokens: these drafts.
        num_accepted_tokens: those that proved to be what the target model says.
        num_emitted_tokens: tokens that came of those steps: the accepted ones, and one more each.
        accepted_per_position: the accepted ones by how far ahead they were proposed, the nearest first.
    """

    num_drafts: int = 0
    num_draft_tokens: int = 0
    num_accepted_tokens: int = 0
    num_emitted_tokens: int = 0
    accepted_per_position: tuple[int, ...] = ()


class Drafting:
    """Says how far ahead of each sequence to propose."""

    def __init__(self, num_speculative_tokens: int) -> None:
        """Propose for nobody if `num_speculative_tokens` is 0."""
        self._most = num_speculative_tokens
        self._num_drafts = self._num_draft_tokens = 0
        self._per_position = [0] * num_speculative_tokens
        self._cost = StepCost()
        self._allowance = _FIRST
        self._right, self._tried = 0.6, 1.0  # fading counts over all sequences
        self._skipped = 0.0  # share of those asked that miss the next step for it
        self._since_plain = 0
        self._rest = 0  # steps until it is thought over again
        self._laggards = Laggards()
        self._accounted = False  # some run beside each other, and nobody waits for a seat
        self.keeping = Keeping()
        self._next_rest = _REST
        self._number = 0  # of sequences that it was thought over for

    @property
    def enabled(self) -> bool:
        """False if nothing is ever proposed."""
        return self._most > 0

    @property
    def resting(self) -> bool:
        """True if it need not be told of plain steps at the moment."""
        return self._rest > 0

    def ask(self, sequences: Many[Sequence], *, full: bool = False) -> list[int]:
        """Tokens to propose for each sequence once the step being planned has sampled for it; 0 for none.

        Nobody is asked before the time of a plain step is known.

        Args:
            sequences: all that sample in that step; their counts are those after it.
            full: others wait for their seats.
        """
        number = len(sequences)
        # One that runs alone loses by its own drafts only, which is what the allowance is for.
        self._accounted = number > 1 and not full
        if self._rest and number == self._number:
            self._rest -= 1
            return [0] * number
        most = [self._bound(sequence) for sequence in sequences]
        if not any(most) or self._allowance <= 0 or self._cost.plain(number) is None:
            if self._allowance <= 0:
                self._decide_rest(number, False)
            return [0] * number
        self._since_plain += 1
        if self._since_plain > _REFRESH:
            if self._since_plain >= _REFRESH + _PAUSE:
                self._since_plain = 0
            return [0] * number
        asked = self._choose(sequences, most, self._cost.of(number))
        self._decide_rest(number, any(asked))
        return asked

    def _decide_rest(self, number: int, asking: bool) -> None:
        """Rest if nobody is asked, and it is known well enough what a plain step takes."""
        if number != self._number or asking:
            self._next_rest = _REST
        self._number, self._rest = number, 0
        if not asking and self._cost.settled(number):
            self._rest = self._next_rest
            self._next_rest = min(2 * self._next_rest, _LONGEST_REST)
            self._allowance = min(self._allowance + _SHARE * self._rest, _MOST)

    def _bound(self, sequence: Sequence) -> int:
        """The token after the last draft has to have its place, too; 0 for who is to be left alone."""
        length = len(sequence.token_ids) + sequence.num_pending  # at least
        if length < sequence.acceptance.silent_until:
            return 0
        return max(0, min(self._most, sequence.limit - length - 1))

    def _choose(self, sequences: Many[Sequence], most: list[int], cost: Cost) -> list[int]:
        """All whose drafts are worth their rows, if together they are worth a step with drafts.

        As many as pay best; fewer, should some fall behind too far by that.
        """
        room = self._laggards.room(sequences) if self._accounted else None
        ahead = self._most
        while ahead:
            found = self._worth(sequences, [min(ahead, count) for count in most], cost)
            if found is None:
                break
            asked, excess, tokens = found
            if room is None or Laggards.bear(room, excess, tokens):
                return self._with_trials(sequences, most, asked, cost, room)
            ahead //= 2
        return self._with_trials(sequences, most, [0] * len(sequences), cost, room)

    def _worth(
        self, sequences: Many[Sequence], most: list[int], cost: Cost
    ) -> tuple[list[int], float, list[float]] | None:
        """Those whose drafts are worth their rows; None if a step with drafts is not worth it for them.

        Returns:
            How many to propose for each, what they cost in all, as a share of a plain step, and the tokens
            that each is expected to have of it.
        """
        number = len(sequences)
        row, ask = cost.weights[1:]
        mean = self._right / self._tried
        asked, gains, rows = [0] * number, [0.0] * number, 0.0
        for place, sequence in enumerate(sequences):
            if not most[place]:
                continue
            chance, answers = sequence.acceptance.chance(mean), sequence.acceptance.answers()
            count, tokens, next_one = 0, 0.0, chance
            while count < most[place] and answers * (next_one - row) > ask:
                count += 1
                tokens += next_one
                next_one *= chance
            if count and answers * (tokens - row * count) - ask * count > self._skipped:
                asked[place] = count
                gains[place] = answers * tokens - self._skipped
                rows += answers * count
        of_each, total = 1 / number, sum(asked)
        gain, excess = sum(gains) * of_each, cost.of(rows * of_each, total * of_each)
        if not total or gain - excess <= _MARGIN:
            return None
        worst = cost.at_worst(rows * of_each, total * of_each)
        return (asked, excess, gains) if worst - gain / 2 <= self._allowance else None

    def _with_trials(
        self,
        sequences: Many[Sequence],
        most: list[int],
        asked: list[int],
        cost: Cost,
        room: list[float] | None,
    ) -> list[int]:
        """Also some for those that are due for another trial, as far as the allowance and the room go."""
        of_each, rows = 1 / len(sequences), 0
        mean, least = self._right / self._tried, math.inf if room is None else min(room)
        for place, sequence in enumerate(sequences):
            if asked[place] or not most[place] or len(sequence.token_ids) < sequence.acceptance.due:
                continue
            # Where drafts may well be right, more of them tell the cost of a row from that of any drafts.
            chance = sequence.acceptance.chance(mean)
            count = 1
            while count < most[place] and chance ** (count + 1) > _LIKELY:
                count += 1
            while count and self._exceeds(cost, (rows + count) * of_each, of_each, least):
                count -= 1
            if not count:
                break
            rows += count
            asked[place] = count
        return asked

    def _exceeds(self, cost: Cost, rows: float, of_each: float, room: float) -> bool:
        """Whether trials of so many rows per sequence may cost more than the allowance, or than the room.

        What one draft costs is looked at whenever the allowance is as much as at the start: it may be
        misjudged.
        """
        if cost.of(rows, rows) > room:
            return True
        if self._allowance >= _FIRST and rows <= of_each:
            return False
        return cost.at_worst(rows, rows) + self._skipped * of_each > self._allowance

    def answered(self, sequence: Sequence, found: bool) -> None:
        """Somebody was asked to propose for a sequence, and did or did not."""
        sequence.acceptance.answered(len(sequence.token_ids), found)

    def verified(self, sequence: Sequence, num_drafts: int, num_accepted: int) -> None:
        """A step had `num_drafts` drafts of a sequence, of which the first `num_accepted` were right."""
        self._num_drafts += 1
        self._num_draft_tokens += num_drafts
        for position in range(num_accepted):
            self._per_position[position] += 1
        fade = 1 - 1 / _MEAN_WEIGHT
        self._right = self._right * fade + num_accepted
        self._tried = self._tried * fade + num_accepted + (num_accepted < num_drafts)
        sequence.acceptance.verified(len(sequence.token_ids), num_drafts, num_accepted)
        if self._accounted:
            self._laggards.credit(sequence, num_accepted - self._skipped)

    def timed(
        self,
        sequences: int,
        skipping: int,
        drafts: int,
        asked: int,
        emitted: int,
        behind: int,
        seconds: float,
    ) -> None:
        """A step without any of a prompt took so long.

        Args:
            sequences: that sampled in it.
            skipping: that would have, had they not been waiting for the results of the step before.
            drafts: verified in it.
            asked: most that were to be proposed in it.
            emitted: tokens that came of it.
            behind: most tokens that one of those asked had had since it was last asked.
            seconds: its time.
        """
        # To catch up, with a prompt or after a rest, is paid for, but does not say what the next ask takes.
        steady = behind <= self._most + 1
        excess = self._cost.learn(sequences, drafts, asked, seconds, steady=steady)
        grown = self._allowance + _SHARE
        if asked:
            self._skipped *= 0.9
        if skipping:
            self._skipped = min(1.0, self._skipped + 0.1)
        if excess is not None and (drafts or asked) and self._accounted:
            # Not as it was measured: a pause of the machine is not due to the drafts.
            self._laggards.charge(self._cost.of(sequences).of(drafts / sequences, asked / sequences))
        if excess is not None and (drafts or asked or skipping):
            # In plain steps: what the same tokens would have taken without, less what they took. As what they
            # would have taken is known but to an error, which may be the same for long, that is charged, too.
            doubt = _DOUBTS * self._cost.doubt(sequences)
            gain = emitted / (sequences + skipping) - 1 - excess - doubt
            grown += max(gain, _GRAVEST)
        self._allowance = min(grown, _MOST)

    def stats(self) -> DraftStats:
        """The totals."""
        accepted = sum(self._per_position)
        return DraftStats(
            self._num_drafts,
            self._num_draft_tokens,
            accepted,
            accepted + self._num_drafts,
            tuple(self._per_position),
        )
