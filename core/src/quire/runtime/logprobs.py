"""Log probabilities of sampled and of prompt tokens, from logits before any sampling parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from quire.plan import TokenLogprobs

if TYPE_CHECKING:
    from quire.contracts import Model
    from quire.ops import Kernels
    from quire.runtime.slots import SlotTable

# Bytes of fp32 logits that prompt log probabilities hold at a time: a long prompt of a model with a
# large vocabulary would otherwise need gigabytes.
_SLICE_BYTES = 64 * 2**20


@dataclass(slots=True)
class GatheredLogprobs:
    """Log probabilities of R rows, still on the device.

    Attributes:
        chosen: `[R]` of the chosen ids.
        rank: `[R]` of the chosen ids, 1 for the most likely.
        top: `[R, k]` the highest.
        top_ids: `[R, k]`.
        counts: R numbers: how many of the top each row asked for.
    """

    chosen: torch.Tensor
    rank: torch.Tensor
    top: torch.Tensor
    top_ids: torch.Tensor
    counts: Sequence[int]

    def to_host(self, ids: Sequence[int]) -> list[TokenLogprobs]:
        """One entry per row; `ids` are the chosen ones."""
        rows = zip(
            ids,
            self.chosen.tolist(),
            self.rank.tolist(),
            self.top.tolist(),
            self.top_ids.tolist(),
            self.counts,
            strict=True,
        )
        return [
            TokenLogprobs(token_ids=[token, *top_ids[:k]], logprobs=[chosen, *top[:k]], rank=rank)
            for token, chosen, rank, top, top_ids, k in rows
        ]


def gather(
    kernels: Kernels, logits: torch.Tensor, ids: torch.Tensor, counts: Sequence[int]
) -> GatheredLogprobs:
    """Log probabilities of `ids`, and the top `counts[r]` of each row.

    Args:
        kernels: of the engine.
        logits: `[R, V]`.
        ids: `[R]` int64.
        counts: R numbers; -1 for the whole vocabulary.
    """
    width = logits.shape[-1]
    asked = [width if count < 0 else min(count, width) for count in counts]
    distinct = sorted(set(asked))
    if len(distinct) <= 1:
        return GatheredLogprobs(*kernels.log_softmax_gather(logits, ids, max(asked, default=0)), asked)
    # Which of several equals are among the k most likely depends on k: no row is to see its neighbours' k.
    rows, most = logits.shape[0], distinct[-1]
    chosen = torch.empty(rows, dtype=torch.float32, device=logits.device)
    rank = torch.empty(rows, dtype=torch.int64, device=logits.device)
    top = torch.empty(rows, most, dtype=torch.float32, device=logits.device)
    top_ids = torch.empty(rows, most, dtype=torch.int64, device=logits.device)
    for k in distinct:
        part = [row for row, count in enumerate(asked) if count == k]
        chosen[part], rank[part], top[part, :k], top_ids[part, :k] = kernels.log_softmax_gather(
            logits[part], ids[part], k
        )
    return GatheredLogprobs(chosen, rank, top, top_ids, asked)


def prompt_logprobs(
    kernels: Kernels,
    model: Model,
    table: SlotTable,
    slot: int,
    hidden: torch.Tensor,
    first: int,
) -> list[TokenLogprobs]:
    """Entries for the prompt positions that one request's rows predict.

    Args:
        kernels, model: of the worker.
        table: the worker's slots.
        slot: the request.
        hidden: `[n, H]`, its rows of this step.
        first: position of the first row; row i predicts position `first + i + 1`.

    Returns:
        One entry per wanted prompt position, in order.
    """
    info = table.info[slot]
    if info.prompt_logprobs is None:
        return []
    start = max(info.prompt_logprobs_from, first + 1)
    stop = min(int(table.num_prompt[slot]), first + 1 + hidden.shape[0])
    entries: list[TokenLogprobs] = []
    while start < stop:
        logits = model.logits(hidden[start - first - 1 : start - first])  # one row tells the width
        step = max(1, _SLICE_BYTES // (4 * logits.shape[-1]))
        end = min(stop, start + step)
        if end - start > 1:
            logits = model.logits(hidden[start - first - 1 : end - first - 1])
        targets = table.token_ids[slot, start:end].tolist()
        ids = torch.tensor(targets, dtype=torch.int64, device=logits.device)
        entries += gather(kernels, logits, ids, [info.prompt_logprobs] * len(targets)).to_host(targets)
        start = end
    return entries
