"""The active logits processors of a worker, and which slots each of them edits.

Knows rows and slots; never what an edit is for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from quire.contracts import LogitsProcessor, SampleRows
from quire.ops.upload import upload
from quire.sampling_params import SamplingParams


class Processors:
    """Runs processors in their order, each on the rows of the requests that it has something to do for."""

    def __init__(self, processors: Sequence[LogitsProcessor]) -> None:
        self._active = [(processor, set[int]()) for processor in processors]

    def add(
        self, slot: int, params: SamplingParams, prompt_ids: Sequence[int], output_ids: Sequence[int]
    ) -> None:
        """Seat a request with all of them."""
        for processor, slots in self._active:
            slots.discard(slot)
            if processor.add(slot, params, prompt_ids, output_ids):
                slots.add(slot)

    def remove(self, slot: int) -> None:
        """Free a slot. One processor's failure does not keep it from the others."""
        failures: list[Exception] = []
        for processor, slots in self._active:
            if slot in slots:
                slots.discard(slot)
                _collect(failures, processor.remove, slot)
        if failures:
            raise ExceptionGroup(f"slot {slot} was not freed everywhere", failures)

    def edits(self, slots: Sequence[int]) -> bool:
        """Whether any of them has something to do for any of these slots."""
        return any(not own.isdisjoint(slots) for _, own in self._active if own)

    def apply(
        self, logits: torch.Tensor, rows: SampleRows, draft_ids: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Edited logits `[R, V]`: the incoming ones, untouched, if nobody has anything to do."""
        edited = logits
        for processor, slots in self._active:
            places = [row for row, slot in enumerate(rows.slots) if slot in slots] if slots else []
            if not places:
                continue
            if edited is logits:
                edited = logits.float() if logits.dtype != torch.float32 else logits.clone()
            if len(places) == len(rows.slots):
                processor.process(edited, rows, draft_ids)
                continue
            where = upload(edited.device, torch.tensor(places))[0]
            part = edited[where]
            processor.process(part, _take(rows, places), None if draft_ids is None else draft_ids[places])
            edited[where] = part
        return edited

    def commit(self, slots: Sequence[int], ids: Sequence[int], counts: Sequence[int]) -> None:
        """Record accepted tokens with those that keep something of these slots."""
        for processor, own in self._active:
            if not own or own.isdisjoint(slots):
                continue
            mine, tokens, numbers, start = list[int](), list[int](), list[int](), 0
            for slot, count in zip(slots, counts, strict=True):
                if slot in own:
                    mine.append(slot)
                    tokens += ids[start : start + count]
                    numbers.append(count)
                start += count
            processor.commit(mine, tokens, numbers)


def _collect(failures: list[Exception], call: Callable[[int], None], slot: int) -> None:
    try:
        call(slot)
    except Exception as error:
        failures.append(error)


def _take(rows: SampleRows, places: list[int]) -> SampleRows:
    """Some of the rows. Rows of a slot go together, so chains of drafts stay whole."""
    counts = rows.draft_counts
    return SampleRows(
        slots=[rows.slots[place] for place in places],
        positions=[rows.positions[place] for place in places],
        draft_counts=None if counts is None else [counts[place] for place in places],
    )
