"""The processor: excludes what would repeat an n-gram, by slot."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quire.contracts import LogitsProcessor, LogitsProcessorInit, SampleRows
from quire.ops.upload import upload
from quire.sampling_params import SamplingParams
from quire_logits_no_repeat_ngram.ngrams import Ngrams


class NoRepeatNgram(LogitsProcessor):
    """No n tokens in a row twice, prompt and output together."""

    def __init__(self, init: LogitsProcessorInit) -> None:
        super().__init__(init)
        self._ngrams: dict[int, Ngrams] = {}

    def add(
        self, slot: int, params: SamplingParams, prompt_ids: Sequence[int], output_ids: Sequence[int]
    ) -> bool:
        self._ngrams.pop(slot, None)
        size = (params.extra_args or {}).get("no_repeat_ngram_size", 0)
        if not size:
            return False
        self._ngrams[slot] = Ngrams(size, [*prompt_ids, *output_ids])
        return True

    def remove(self, slot: int) -> None:
        del self._ngrams[slot]

    def process(self, logits: torch.Tensor, rows: SampleRows, draft_ids: torch.Tensor | None = None) -> None:
        drafts = None if draft_ids is None else draft_ids.tolist()
        entries: list[tuple[int, int]] = []
        for row, slot in enumerate(rows.slots):
            ahead: list[int] = []
            if drafts is not None and rows.draft_counts is not None:
                ahead = drafts[row + 1 - rows.draft_counts[row] : row + 1]
            entries += [(row, token) for token in self._ngrams[slot].banned(ahead)]
        if entries:
            where, ids = upload(logits.device, torch.tensor(entries).T.contiguous())[0]
            logits[where, ids] = -torch.inf

    def commit(self, slots: Sequence[int], ids: Sequence[int], counts: Sequence[int]) -> None:
        start = 0
        for slot, count in zip(slots, counts, strict=True):
            self._ngrams[slot].extend(ids[start : start + count])
            start += count
