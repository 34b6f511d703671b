"""Proposals by a draft model: one token after another, for all requests that are asked about at once.

Each is drawn as the token itself will be: by the same sampler, with the same parameters and random numbers.
Where both models think alike the same numbers then say the same token, at any temperature, and what greedy
requests say is guessed greedily.
Knows tokens and logits. Must never know blocks, batches, or what becomes of a proposal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from quire.contracts import Speculator, SpeculatorInit

__all__ = ["DraftSpeculator"]


class DraftSpeculator(Speculator):
    """Lets a draft model go ahead."""

    def __init__(self, init: SpeculatorInit) -> None:
        super().__init__(init)
        assert init.draft_model is not None, "the engine loads what the spec asks for"
        self._model = init.draft_model

    def remove(self, slot: int) -> None:
        """Nothing is kept here."""

    def propose(
        self, slots: Sequence[int], counts: Sequence[int], contexts: Sequence[NDArray[np.int32]]
    ) -> list[list[int]]:
        """See the contract. Contexts that are as long as the model can follow get nothing."""
        model = self._model
        ahead = [
            min(count, model.max_len - len(context)) for count, context in zip(counts, contexts, strict=True)
        ]
        # Who is asked for most comes first: those that are done then leave at the end.
        order = sorted((i for i, count in enumerate(ahead) if count > 0), key=lambda i: -ahead[i])
        proposed: list[list[int]] = [[] for _ in slots]
        if not order:
            return proposed
        logits = model.begin([slots[i] for i in order])  # [N, V]
        drawn = [model.sample(logits)]
        for step in range(1, ahead[order[0]]):
            still = sum(ahead[i] > step for i in order)
            logits = model.extend(drawn[-1][:still])
            drawn.append(model.sample(logits))
        ids: list[int] = torch.cat(drawn).tolist()  # the one wait for the device
        start = 0
        for some in drawn:
            for i, token in zip(order, ids[start : start + len(some)], strict=False):
                proposed[i].append(token)
            start += len(some)
        return proposed
