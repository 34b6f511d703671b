"""Per-slot state of a worker: token ids, computed counts, block tables. Host arrays, no tensors.

A slot is a running request's stable seat. Its arrays are written where the plan says and read
with vectorised indexing; there is no Python loop over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quire.plan import SlotStart, StepPlan

UNKNOWN = -1
"""`UNKNOWN - slot` stands in `SlotTable.token_ids` for a drawn token that has not reached the host."""


@dataclass(slots=True)
class SlotInfo:
    """What is kept of a seated request besides numbers.

    Attributes:
        request_id: for messages.
        logprobs: how many top log probabilities per sampled token; None for none at all.
        prompt_logprobs: the same per prompt token.
        prompt_logprobs_from: first prompt position whose entry is wanted; earlier ones were emitted.
    """

    request_id: str
    logprobs: int | None
    prompt_logprobs: int | None
    prompt_logprobs_from: int


class SlotTable:
    """The seats of one worker.

    Attributes:
        token_ids: `[slots, max_model_len + 1]` int32; prompt and output ids. The last place is for
            the sampled id that fits no context any more.
        num_tokens: `[slots]` int64; tokens of each slot, those included that have not reached the host.
        computed: `[slots]` int64; tokens whose KV is in the cache.
        num_prompt: `[slots]` int64.
        generation: by seated slot, which use of it this is.
        windows: per KV group its sliding window in tokens, None for none.
        tables: per KV group `[slots, max_blocks]` int32 block ids, 0 (the null block) past the end. Ids
            out of the window may be another's by now: `BatchBuilder` hides them.
        token_ids_view, num_tokens_view, computed_view, table_views: the same memory, element by element.
        version: of the tables of those that stay seated: how often some have grown.
        grown: what made that version of the last: KV group, slot, first place and block ids.
        info: the seated requests.
        masked: slots of which only masked logits may be sampled from.
        with_logprobs, with_prompt_logprobs: slots whose request asked for log probabilities of its tokens.
        num_seated: counts the requests that have taken a slot so far.
    """

    def __init__(
        self, num_slots: int, max_model_len: int, block_size: int, windows: Sequence[int | None]
    ) -> None:
        max_blocks = -(-max_model_len // block_size)
        num_groups = len(windows)
        self.block_size = block_size
        self.windows = tuple(windows)
        self.token_ids: NDArray[np.int32] = np.zeros((num_slots, max_model_len + 1), dtype=np.int32)
        self.num_tokens: NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self.computed: NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self.num_prompt: NDArray[np.int64] = np.zeros(num_slots, dtype=np.int64)
        self.num_blocks: NDArray[np.int64] = np.zeros((num_groups, num_slots), dtype=np.int64)
        self.tables: list[NDArray[np.int32]] = [
            np.zeros((num_slots, max_blocks), dtype=np.int32) for _ in range(num_groups)
        ]
        self.token_ids_view, self.num_tokens_view = self.token_ids.data, self.num_tokens.data
        self.computed_view = self.computed.data
        self.table_views = [table.data for table in self.tables]
        self.version = 0
        self.grown: list[tuple[int, int, int, list[int]]] = []
        self.info: dict[int, SlotInfo] = {}
        self.masked: set[int] = set()
        self.generation: dict[int, int] = {}
        self.with_logprobs: set[int] = set()
        self.with_prompt_logprobs: set[int] = set()
        self.num_seated = 0

    def seat(self, start: SlotStart) -> None:
        """Give a request its slot."""
        slot, length = start.slot, len(start.token_ids)
        self.token_ids[slot, :length] = start.token_ids
        self.num_tokens[slot] = length
        self.computed[slot] = start.num_computed
        self.num_prompt[slot] = start.num_prompt
        self.num_blocks[:, slot] = 0
        self.generation[slot] = start.generation
        self._append(slot, start.block_ids)
        wanted = start.prompt_logprobs_from
        info = self.info[slot] = SlotInfo(
            request_id=start.request_id,
            logprobs=start.params.logprobs,
            prompt_logprobs=start.params.prompt_logprobs if wanted is not None else None,
            prompt_logprobs_from=wanted or 0,
        )
        if info.logprobs is not None:
            self.with_logprobs.add(slot)
        if info.prompt_logprobs is not None:
            self.with_prompt_logprobs.add(slot)
        if start.masked:
            self.masked.add(slot)
        self.num_seated += 1

    def leave(self, slot: int) -> None:
        """Free a slot. Its tables are cleared, so that a stale block id can never be read."""
        if self.info.pop(slot, None) is not None:
            del self.generation[slot]
            self.with_logprobs.discard(slot)
            self.with_prompt_logprobs.discard(slot)
            self.masked.discard(slot)
            for table in self.tables:
                table[slot] = 0

    def extend(self, plan: StepPlan) -> None:
        """Append the plan's new blocks."""
        if plan.new_blocks:
            self.version += 1
            self.grown = []
        for slot, blocks in plan.new_blocks:
            self.grown += self._append(slot, blocks)

    # Written element by element: where a step's weights have driven numpy's code out of the caches, to write
    # by an array of indices takes it 20 to 30 us for 32 requests, and a loop a few.

    def advance(self, slots: Sequence[int], computed: Sequence[int]) -> None:
        """Of slot `slots[i]`, `computed[i]` tokens are in the cache now."""
        of = self.computed_view
        for slot, count in zip(slots, computed, strict=True):
            of[slot] = count

    def append(self, slots: Sequence[int], positions: Sequence[int], tokens: Sequence[int]) -> None:
        """Slot `slots[i]` has token `tokens[i]` at `positions[i]`, the last one unless it has more."""
        ids, lengths = self.token_ids_view, self.num_tokens_view
        for slot, position, token in zip(slots, positions, tokens, strict=True):
            ids[slot, position] = token
            if lengths[slot] <= position:
                lengths[slot] = position + 1

    def extend_tokens(self, slot: int, position: int, tokens: Sequence[int]) -> None:
        """The last tokens of a slot are `tokens`, from `position` on; the very last is not computed yet."""
        end = position + len(tokens)
        self.token_ids[slot, position:end] = tokens
        self.num_tokens[slot] = end
        self.computed[slot] = min(self.computed_view[slot], end - 1)

    def draft(self, slot: int, tokens: Sequence[int]) -> None:
        """Behind a slot's last token `tokens` are proposed. They count as nothing yet."""
        known = self.num_tokens_view[slot]
        self.token_ids[slot, known : known + len(tokens)] = tokens

    def context(self, slot: int) -> NDArray[np.int32]:
        """A slot's tokens, a view."""
        return self.token_ids[slot, : self.num_tokens_view[slot]]

    def _append(self, slot: int, blocks: tuple[list[int], ...]) -> list[tuple[int, int, int, list[int]]]:
        """Put blocks behind a slot's; returns them as in `grown`."""
        grown = []
        for group, ids in enumerate(blocks):
            if ids:
                first = int(self.num_blocks[group, slot])
                self.tables[group][slot, first : first + len(ids)] = ids
                self.num_blocks[group, slot] = first + len(ids)
                grown.append((group, slot, first, ids))
        return grown
