"""From logits to tokens: rows are drawn, log probabilities gathered, and what was drawn is read and recorded.

Knows the sampler and the slots. Must never know how logits came about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from quire.contracts import Sampler, SampleRows
from quire.ops.upload import upload
from quire.plan import TokenLogprobs, TokenMasks
from quire.runtime.device import Device
from quire.runtime.in_flight import Forward, InFlight, Sampled
from quire.runtime.logprobs import GatheredLogprobs, gather
from quire.runtime.masking import masked_logits
from quire.runtime.processors import Processors
from quire.runtime.slot_state import SlotState
from quire.runtime.slots import SlotTable
from quire.runtime.verification import DraftRows

if TYPE_CHECKING:
    from quire.ops import Kernels

Isolate = Callable[[list[int], Callable[[list[int]], Any], dict[int, str]], list[Any]]
"""Runs for all slots at once, or fails those that raise alone: see `Worker`."""

_INVALID = "its logits held NaN, or its parameters left no token to sample"
_OUT_OF_FORM = (
    "its logits held NaN, or its parameters (bad_words, allowed_token_ids or extra_args) exclude every token "
    "that the form of its output (structured_outputs) allows next"
)


class Drawn(NamedTuple):
    """What a step drew for a slot.

    Attributes:
        token_ids: at least one.
        logprobs: an entry for each, if they were asked for.
    """

    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None


class Drawing:
    """Draws for one worker."""

    def __init__(
        self,
        sampler: Sampler,
        processors: Processors,
        kernels: Kernels,
        device: Device,
        table: SlotTable,
        state: SlotState | None,
        isolate: Isolate,
    ) -> None:
        """Nothing is under way.

        Args:
            sampler, processors, kernels, device: of the worker.
            table: its slots.
            state: of the slots on the device, where steps begin before the host knows what the last one drew.
            isolate: how one request's failure stays its own.
        """
        self._sampler = sampler
        self._processors = processors
        self._kernels = kernels
        self._device = device
        self._table = table
        self._state = state
        self._isolate = isolate

    def sample(self, forward: Forward, masks: TokenMasks | None, slots: list[int]) -> Sampled:
        """Draw for some of the slots that sample, unless the step has; have the results fetched."""
        logits, drawn, of = forward.logits, forward.drawn, forward.rows
        positions, drafts = of.lengths, of.drafts
        rows = None if drafts is None else DraftRows(of.sampled, positions, drafts)
        if len(slots) != len(positions):
            places = [of.sampled.index(slot) for slot in slots]
            positions = [positions[place] for place in places]
            drawn = drawn and (_rows(drawn[0], places), _rows(drawn[1], places))
            logits = _rows(logits, places if rows is None else rows.rows_of(places))
            rows = rows and rows.take(places)
        if rows is not None:
            each, before = rows.for_sampler()
            ids, invalid = self._draw(logits, each, masks, before)
            plain = rows.plain
            if self._state is not None and plain:
                at = [rows.starts[i] for i in plain]
                self._state.record([slots[i] for i in plain], [positions[i] for i in plain], _rows(ids, at))
            return self._fetch(slots, positions, logits, ids, invalid, each.slots, rows)
        ids, invalid = drawn or self._draw(logits, SampleRows(slots=slots, positions=positions), masks)
        if drawn is None and self._state is not None:
            self._state.record(slots, positions, ids)
        return self._fetch(slots, positions, logits, ids, invalid, slots, None)

    def read(self, step: InFlight, sampled: Sampled, drawn: dict[int, Drawn]) -> None:
        """Wait for what was drawn; record it in the sampler and in the slots, and add it to `drawn`."""
        # Lists throughout: see `SlotTable.append`.
        first, second, *rest = sampled.fetched.wait()  # the step's one wait for the device
        ids: list[int] = first.tolist()
        invalid: list[bool] = second.tolist()
        entries: dict[int, TokenLogprobs] = {}
        if sampled.logprobs is not None:
            wanted, counts = sampled.logprobs
            chosen, rank, top, top_ids = rest
            gathered = GatheredLogprobs(chosen, rank, top, top_ids, counts)
            entries = dict(zip(wanted, gathered.to_host([ids[row] for row in wanted]), strict=True))
        if sampled.rows is not None:
            self._read_drafts(step, sampled.rows, ids, invalid, entries, drawn)
            return
        slots, positions, tokens = sampled.slots, sampled.positions, ids
        if True in invalid:
            for place, wrong in enumerate(invalid):
                if wrong:
                    step.failed[slots[place]] = self._invalid(slots[place])
        kept = self._kept(step, slots)
        if kept is not None:
            slots, positions, tokens = ([one[i] for i in kept] for one in (slots, positions, ids))
        self._commit(step, slots, tokens, None)
        self._table.append(slots, positions, tokens)
        for row, (slot, token) in enumerate(zip(sampled.slots, ids, strict=True)):
            drawn[slot] = Drawn([token], [entries[row]] if row in entries else None)

    def _read_drafts(
        self,
        step: InFlight,
        rows: DraftRows,
        ids: list[int],
        invalid: list[bool],
        entries: dict[int, TokenLogprobs],
        drawn: dict[int, Drawn],
    ) -> None:
        """The same for requests of which some have drafts: what follows a rejected one does not count."""
        taken: list[list[int]] = []
        for slot, start, count in rows.accepted(ids):
            taken.append(ids[start : start + count])
            logprobs = [entries[row] for row in range(start, start + count)] if start in entries else None
            drawn[slot] = Drawn(taken[-1], logprobs)
            if True in invalid[start : start + count]:
                step.failed[slot] = self._invalid(slot)
        kept = self._kept(step, rows.slots)
        places = range(len(rows.slots)) if kept is None else kept
        slots, tokens = [rows.slots[i] for i in places], [taken[i] for i in places]
        self._commit(
            step, slots, [token for some in tokens for token in some], [len(some) for some in tokens]
        )
        ahead, ends, last = [], [], []
        for i, slot, some in zip(places, slots, tokens, strict=True):
            if rows.drafts[i]:
                self._table.extend_tokens(slot, rows.positions[i], some)
                ahead.append(slot)
                ends.append(rows.positions[i] + len(some) - 1)
                last.append(some[-1])
            else:  # it may have begun its next step already
                self._table.append([slot], [rows.positions[i]], some)
        if self._state is not None and ahead:
            self._state.record(ahead, ends, upload(self._state.last_ids.device, torch.tensor(last))[0])

    def _draw(
        self,
        logits: torch.Tensor,
        rows: SampleRows,
        masks: TokenMasks | None,
        before: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and invalid, `[R]` each, by the sampler itself, from what processors and masks leave."""
        logits = self._processors.apply(logits, rows, before)
        if masks is not None:
            # Log probabilities are of the logits without.
            logits = masked_logits(self._kernels, logits, rows, masks)
        distribution = self._sampler.process(logits, rows, before)
        return self._sampler.draw(distribution, rows), distribution.invalid

    def _fetch(
        self,
        slots: list[int],
        positions: list[int],
        logits: torch.Tensor,
        ids: torch.Tensor,
        invalid: torch.Tensor,
        slot_of_row: Sequence[int],
        rows: DraftRows | None,
    ) -> Sampled:
        """Have a draw, and the log probabilities that were asked for, on their way to the host."""
        results, logprobs, table = [ids, invalid], None, self._table
        if table.with_logprobs:
            wanted = [row for row, slot in enumerate(slot_of_row) if slot in table.with_logprobs]
            if wanted:
                counts = [table.info[slot_of_row[row]].logprobs or 0 for row in wanted]
                gathered = gather(self._kernels, _rows(logits, wanted), _rows(ids, wanted), counts)
                results += [gathered.chosen, gathered.rank, gathered.top, gathered.top_ids]
                logprobs = (wanted, gathered.counts)
        return Sampled(slots, positions, self._device.fetch(results), logprobs, rows)

    def _invalid(self, slot: int) -> str:
        """Why nothing could be drawn for a slot."""
        return _OUT_OF_FORM if slot in self._table.masked else _INVALID

    def _kept(self, step: InFlight, slots: list[int]) -> list[int] | None:
        """Places of the slots whose tokens count; None for all of them."""
        failed = step.failed
        if self._state is not None:  # the next step has begun, and may have given a slot to somebody else
            generation_of = dict(zip(step.plan.slots, step.plan.generations, strict=True))
            seated = self._table.generation
            kept = [
                place
                for place, slot in enumerate(slots)
                if slot not in failed and seated.get(slot) == generation_of[slot]
            ]
        elif failed:
            kept = [place for place, slot in enumerate(slots) if slot not in failed]
        else:
            return None
        return kept if len(kept) != len(slots) else None

    def record(self, slots: list[int], ids: list[int], counts: list[int]) -> None:
        """Let sampler and processors know of accepted tokens: `counts[i]` of slot `slots[i]`."""
        self._sampler.commit(slots, ids, counts)
        self._processors.commit(slots, ids, counts)

    def _commit(self, step: InFlight, slots: list[int], ids: list[int], counts: list[int] | None) -> None:
        """Record drawn ids in the sampler: `counts[i]` of slot `slots[i]`, or one each."""

        def run(some: list[int]) -> None:
            if len(some) == len(slots):
                self.record(some, ids, counts or [1] * len(some))
                return
            ends, numbers = 0, counts or [1] * len(slots)
            of_slot: dict[int, list[int]] = {}
            for slot, number in zip(slots, numbers, strict=True):
                of_slot[slot] = ids[ends : ends + number]
                ends += number
            parts = [of_slot[slot] for slot in some]
            self.record(some, [one for part in parts for one in part], [len(part) for part in parts])

        self._isolate(slots, run, step.failed)


def _rows(tensor: torch.Tensor, places: list[int]) -> torch.Tensor:
    """Some rows of a tensor of the device; a list as index would wait for it."""
    return tensor[upload(tensor.device, torch.tensor(places))[0]]
