"""Log probabilities of chosen tokens and of the most likely ones."""

from __future__ import annotations

import torch

_SLICE_ELEMENTS = 1 << 21
"""Logits widened to fp32 at a time: twice 8 MiB, whatever the number of rows."""


class LogprobOps:
    """What `logprobs` and `prompt_logprobs` are answered from."""

    def log_softmax_gather(
        self, logits: torch.Tensor, ids: torch.Tensor, k: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log probability and rank of one id per row, and the k most likely ids.

        Works in slices of rows, so that the fp32 copy of the logits never exists as a whole.

        Args:
            logits: `[R, V]`, any float dtype.
            ids: `[R]` integer, the chosen token of each row, in [0, V).
            k: how many of the most likely to return, 0 to V.

        Returns:
            chosen log probabilities `[R]` fp32; rank `[R]` int64, 1 for the most likely (equals
            share the better rank); top log probabilities `[R, k]` fp32, descending; their ids `[R, k]` int64.
        """
        rows, vocab = logits.shape
        chosen = torch.empty(rows, dtype=torch.float32, device=logits.device)
        rank = torch.empty(rows, dtype=torch.int64, device=logits.device)
        top = torch.empty((rows, k), dtype=torch.float32, device=logits.device)
        top_ids = torch.empty((rows, k), dtype=torch.int64, device=logits.device)
        step = max(1, _SLICE_ELEMENTS // vocab)
        for start in range(0, rows, step):
            part = slice(start, start + step)
            wide = logits[part].float()  # [r, V]
            index = ids[part].long().unsqueeze(1)  # [r, 1]
            # Unlike logsumexp, log_softmax sums a row in an order that the number of rows does not change.
            logprobs = wide.log_softmax(-1)  # [r, V]
            chosen[part] = logprobs.gather(1, index).squeeze(1)
            rank[part] = (wide > wide.gather(1, index)).sum(-1) + 1
            best = wide.topk(k, dim=-1).indices  # [r, k]
            top_ids[part] = best
            top[part] = logprobs.gather(1, best)
        return chosen, rank, top, top_ids
