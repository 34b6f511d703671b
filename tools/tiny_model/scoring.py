"""How good a trained model is on text that it was not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tiny_model.head import Eagle3
from tiny_model.model import Llama

#: Tokens per window of the held-out score; a token is predicted from what precedes it inside its window.
EVAL_WINDOW = 1024


@dataclass(frozen=True)
class HeldoutScore:
    """How well the model predicts the held-out files."""

    loss: float
    tokens: int
    bytes: int

    @property
    def perplexity(self) -> float:
        """Perplexity per token."""
        return math.exp(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """Bits per byte of UTF-8 text, which does not depend on the tokenizer."""
        return self.loss * self.tokens / self.bytes / math.log(2)


@dataclass(frozen=True)
class HeadScore:
    """How well a head predicts what its target says, where the text is held out.

    `loss` is the mean that training lowers.  `losses` and `acceptance` are lists: a number for the first
    token that it goes ahead, one for the second after that, and so on (see `Eagle3.losses`).
    """

    loss: float
    losses: list[float]
    acceptance: list[float]
    tokens: int


def windows_of(documents: list[list[int]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets [windows, length] of documents (`<|bos|>` text `<|eos|>`), a `<|bos|>` in each."""
    bos = documents[0][0]
    windows = [
        [bos, *document[at : at + EVAL_WINDOW]]
        for document in documents
        for at in range(1, len(document), EVAL_WINDOW)
    ]
    windows.sort(key=len)
    for at in range(0, len(windows), 8):
        group = windows[at : at + 8]
        width = max(len(window) for window in group)
        padded = torch.tensor([window + [-100] * (width - len(window)) for window in group])
        yield padded[:, :-1].clamp(min=0), padded[:, 1:]


@torch.no_grad()
def heldout_score(model: Llama, documents: list[list[int]], size: int) -> HeldoutScore:
    """Score a model on documents of `size` bytes."""
    total, tokens = 0.0, 0
    for ids, targets in windows_of(documents):
        count = int((targets != -100).sum())
        total += float(model(ids, targets)) * count
        tokens += count
    return HeldoutScore(total / tokens, tokens, size)


@torch.no_grad()
def head_score(head: Eagle3, documents: list[list[int]]) -> HeadScore:
    """Score a head."""
    total, tokens, sums = 0.0, 0, torch.zeros(2, head.preset.ahead)
    for ids, targets in windows_of(documents):
        if ids.shape[1] <= head.preset.ahead:
            continue
        count = int((targets[:, 1:] != -100).sum())
        found = head.losses(ids, targets)
        total += float(head.mean(found[0])) * count
        sums += torch.stack(found) * count
        tokens += count
    losses, acceptance = ([round(float(one), 4) for one in row / tokens] for row in sums)
    return HeadScore(total / tokens, losses, acceptance, tokens)
