"""The standard sampler: processors in a fixed order, then one draw per row.

Knows which rows need which processor; how one is computed is the kernels' business, what a
slot keeps is `slots`'.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quire.contracts import CapturedDraw, Distribution, Sampler, SamplerInit, SampleRows
from quire.ops.philox import DRAW, uniforms, words
from quire.ops.upload import upload
from quire.sampling_params import SamplingParams
from quire_sampler_standard.captured import DrawBySlot
from quire_sampler_standard.slots import Ids, SlotTable, Trait


@dataclass(slots=True)
class _Target(Distribution):
    """A distribution that remembers what was found on the way.

    Attributes:
        best: `[R]` int64, argmax of every row, if all rows are greedy; else None. No parameter, so that
            who replaces the logits does not take it over.
    """

    best: torch.Tensor | None = field(default=None, init=False)


@dataclass(slots=True)
class _Step:
    """The rows of one call, on the host.

    Attributes:
        slots, positions, traits: `[R]`.
        drafts: per row the draft tokens before it in this step; None if there are none at all.
    """

    slots: Ids
    positions: Ids
    traits: NDArray[np.int32]
    drafts: list[list[int]] | None

    def having(self, trait: int) -> list[int]:
        """Rows whose slot has a trait."""
        return np.flatnonzero(self.traits & int(trait)).tolist()

    def draft(self, row: int) -> list[int]:
        """Draft tokens before a row."""
        return self.drafts[row] if self.drafts is not None else []


class StandardSampler(Sampler):
    """Every field of `SamplingParams`, vectorised over the batch.

    Order of the processors, the same as vLLM's:
        1. `allowed_token_ids`: everything else is excluded.
        2. `bad_words`: the token that would complete one after the output so far (the prompt does not count).
        3. `min_tokens`: stop tokens, and end tokens unless `ignore_eos`, are excluded until there are enough,
           but for rows that have nothing else left: what has a form cannot go on behind its end.
        4. `logit_bias`.
        5. penalties: repetition over prompt and output, then frequency and presence over the output.
        6. `temperature`. A row below 1e-5 stops here and takes its argmax.
        7. `min_p`.
        8. `top_k`, then `top_p` relative to what top-k left.

    Among equals the lowest id ranks first, for the argmax as for top-k and top-p. A row that holds
    +inf shares all probability among these tokens. A row is invalid if a NaN came in or if
    everything is excluded; the other rows do not notice.

    A token is drawn by inverting the cumulative distribution at one Philox uniform of (seed,
    position), so a request's tokens depend on neither batch, slot nor step. Where draws are to be coupled it
    is the winner of a race instead, whose lots come of the same Philox numbers. The distribution that
    `process` returns must not be written to before it is drawn from: masks belong on the logits that go in.
    """

    def __init__(self, init: SamplerInit) -> None:
        super().__init__(init)
        self._slots = SlotTable(init.max_num_seqs, init.need.vocab_size, init.eos_token_ids)

    def captured_draw(self) -> CapturedDraw | str:
        kernels = self.init.kernels
        if not kernels.captures_sampling:
            return f"{type(kernels).__name__} cannot draw inside a graph"
        return DrawBySlot(kernels, self._slots, self.init.device, coupled=self.init.need.coupled)

    def add(
        self,
        slot: int,
        params: SamplingParams,
        seed: int,
        prompt_ids: Sequence[int],
        output_ids: Sequence[int],
    ) -> None:
        self._slots.add(slot, params, seed, prompt_ids, output_ids)

    def remove(self, slot: int) -> None:
        self._slots.remove(slot)

    def commit(self, slots: Sequence[int], ids: Sequence[int], counts: Sequence[int]) -> None:
        assert len(ids) == sum(counts)
        if not self._slots.demanding:
            return
        keeping = self._slots.traits[np.asarray(slots, dtype=np.int64)] & Trait.RECORDS
        if not keeping.any():
            return
        ends = np.cumsum(counts)
        for i in np.flatnonzero(keeping).tolist():
            self._slots.rare[slots[i]].record(ids[ends[i] - counts[i] : ends[i]])

    def process(
        self, logits: torch.Tensor, rows: SampleRows, draft_ids: torch.Tensor | None = None
    ) -> Distribution:
        if not self._slots.demanding:  # what follows would come to the same
            best, _, invalid = self.init.kernels.peak(logits)
            target = _Target(logits, [True] * len(rows.slots), invalid)
            target.best = best
            return target
        step = self._step(rows, draft_ids)
        used = int(np.bitwise_or.reduce(step.traits, initial=0))
        greedy = (step.traits & Trait.GREEDY) != 0
        # Neither the argmax nor a plain draw is changed by widening; what edits logits works in fp32.
        work = logits.float() if used & (Trait.SPARSE | Trait.CUTS) else logits  # [R, V]
        hidden = work.amax(-1).isnan() if used & Trait.REMOVES and work.numel() else None
        if used & Trait.SPARSE:
            work = self._edit(work, step, used)
        best, peak, invalid = self.init.kernels.peak(work)
        if hidden is not None:
            invalid |= hidden
        chance = not greedy.all()
        if chance:
            work = self._shape(work, peak, step, used)
        target = _Target(work, greedy.tolist(), invalid)
        target.best = None if chance else best
        return target

    def draw(self, distribution: Distribution, rows: SampleRows) -> torch.Tensor:
        if isinstance(distribution, _Target) and distribution.best is not None:
            return distribution.best
        kernels, logits = self.init.kernels, distribution.logits
        greedy = np.asarray(distribution.greedy, dtype=np.bool_)
        if greedy.all():
            return kernels.argmax(logits)
        seeds = self._slots.seed[np.asarray(rows.slots, dtype=np.int64)]
        coupled = self.init.need.coupled
        numbers = torch.from_numpy((words if coupled else uniforms)(seeds, rows.positions, DRAW))
        draw: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = kernels.draw_from
        if coupled:
            draw = kernels.draw_coupled
        if not greedy.any():
            return draw(logits, numbers)
        # Indices rather than masks: how many rows a mask has is known to the device alone.
        chosen = [torch.from_numpy(np.flatnonzero(of)) for of in (greedy, ~greedy)]
        certain, chance = upload(logits.device, *chosen)
        ids = torch.empty(len(greedy), dtype=torch.int64, device=logits.device)
        ids[certain] = kernels.argmax(logits[certain])
        ids[chance] = draw(logits[chance], numbers[chosen[1]])
        return ids

    def _step(self, rows: SampleRows, draft_ids: torch.Tensor | None) -> _Step:
        slots = np.asarray(rows.slots, dtype=np.int64)
        traits = self._slots.traits[slots]
        drafts: list[list[int]] | None = None
        counts = rows.draft_counts
        if draft_ids is not None and counts is not None and (traits & Trait.RECORDS).any():
            # Row r of a chain comes right after the rows of its c drafts, whose ids lie at r - c + 1 .. r.
            ids = draft_ids.tolist()
            drafts = [ids[row - count + 1 : row + 1] for row, count in enumerate(counts)]
        return _Step(slots, np.asarray(rows.positions, dtype=np.int64), traits, drafts)

    def _edit(self, work: torch.Tensor, step: _Step, used: int) -> torch.Tensor:
        """Processors 1 to 5: those that name tokens."""
        kernels, table = self.init.kernels, self._slots
        seats = step.slots.tolist()
        if used & Trait.ALLOWED:
            rows = step.having(Trait.ALLOWED)
            lists = [ids for row in rows if (ids := table.rare[seats[row]].allowed) is not None]
            work = kernels.keep_tokens(work, *_entries(rows, lists))
        if used & Trait.BAD_WORDS:
            rows = step.having(Trait.BAD_WORDS)
            lists = [table.rare[seats[row]].banned(step.draft(row)) for row in rows]
            if any(map(len, lists)):
                work = kernels.mask_tokens(work, *_entries(rows, lists))
        if used & Trait.MIN_TOKENS:
            # Positions count draft tokens too, so a chain needs nothing special here.
            early = step.positions < table.free_from[step.slots]
            rows = [row for row in step.having(Trait.MIN_TOKENS) if early[row]]
            if rows:
                ending = _entries(rows, [table.rare[seats[row]].ending for row in rows])
                work = _unless_nothing_is_left(work, kernels.mask_tokens(work, *ending))
        if used & Trait.BIAS:
            rows = step.having(Trait.BIAS)
            rare = [table.rare[seats[row]] for row in rows]
            values = torch.from_numpy(np.concatenate([one.bias for one in rare]))
            work = kernels.bias_tokens(work, *_entries(rows, [one.bias_ids for one in rare]), values)
        if used & Trait.PENALTIES:
            work = self._penalise(work, step, seats)
        return work

    def _penalise(self, work: torch.Tensor, step: _Step, seats: list[int]) -> torch.Tensor:
        table = self._slots
        rows = step.having(Trait.PENALTIES)
        ids: list[Ids] = []
        counts: list[NDArray[np.float32]] = []
        for row in rows:
            history = table.rare[seats[row]].history
            assert history is not None
            seen, times = history.entries(step.draft(row))
            ids.append(seen)
            counts.append(times)
        return self.init.kernels.apply_penalties(
            work,
            *_entries(rows, ids),
            torch.from_numpy(np.concatenate(counts)),
            *(torch.from_numpy(x[step.slots]) for x in (table.repetition, table.frequency, table.presence)),
        )

    def _shape(self, work: torch.Tensor, peak: torch.Tensor, step: _Step, used: int) -> torch.Tensor:
        """Processors 6 to 8: those that look at the whole row."""
        kernels, table = self.init.kernels, self._slots
        temperature = torch.from_numpy(table.temperature[step.slots])
        # The peak goes through the same division, so it tells of an overflow without another pass.
        work = kernels.apply_temperature(work, temperature)
        peak = peak / upload(peak.device, temperature)[0]
        infinite = (peak == torch.inf).unsqueeze(1)
        if peak.device.type != "cpu" or bool(infinite.any()):  # looking is free on a CPU, a pass on a GPU
            certain = torch.where(work == torch.inf, 0.0, -torch.inf)
            work = torch.where(infinite, certain, work)
        if used & Trait.MIN_P:
            work = kernels.apply_min_p(work, torch.from_numpy(table.min_p[step.slots]))
        if used & Trait.TOP:
            top_k, top_p = table.top_k[step.slots], table.top_p[step.slots]
            work = kernels.apply_top_k_top_p(work, torch.from_numpy(top_k), torch.from_numpy(top_p))
        return work


def _unless_nothing_is_left(logits: torch.Tensor, fewer: torch.Tensor) -> torch.Tensor:
    """`fewer`, `[R, V]`, but the rows of `logits` where it has no token."""
    nothing = fewer.amax(-1, keepdim=True) == -torch.inf
    if fewer.device.type == "cpu" and not bool(nothing.any()):  # looking is free on a CPU, a pass on a GPU
        return fewer
    return torch.where(nothing, logits, fewer)


def _entries(rows: Sequence[int], lists: Sequence[NDArray[Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and ids of sparse entries, `[E]` int64 each, on the host."""
    repeated = np.repeat(np.asarray(rows, dtype=np.int64), [len(ids) for ids in lists])
    return torch.from_numpy(repeated), torch.from_numpy(np.concatenate(lists))
