"""Which of the served model's tokens a head can propose: often the most frequent ones only."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from quire.contracts import Span, Weight
from quire.errors import CheckpointError
from quire.layers import Layer
from quire_speculator_eagle.layout import Layout

__all__ = ["DraftVocabulary"]


class DraftVocabulary(Layer):
    """The head's tensor `d2t`: token i of the head is token i + d2t[i] of the served model."""

    def __init__(self, layout: Layout, device: str) -> None:
        super().__init__()
        self._width, self._file = layout.target_vocab_size, layout.d2t
        size = layout.draft_vocab_size
        self._offsets = torch.zeros(size, dtype=torch.int64, device=device)
        self._tokens = torch.empty(0, dtype=torch.int64, device=device)  # [D]; none if they are all, in order
        self._weights: list[Weight] = []
        if self._file is not None:
            whole = Span.whole(size)
            self._weights = [
                Weight(
                    name="d2t",
                    shape=(size,),
                    target=self._offsets,
                    take=(whole,),
                    dtypes=frozenset({"I64", "I32"}),
                    parameters=0,
                )
            ]

    def spread(self, logits: torch.Tensor) -> torch.Tensor:
        """`[R, D] -> [R, V]`, -inf where the head has no token."""
        if not len(self._tokens):
            return logits
        out = logits.new_full((len(logits), self._width), -torch.inf)
        return out.index_copy_(1, self._tokens, logits)

    def weights(self) -> Sequence[Weight]:
        return self._weights

    def finish(self) -> None:
        """Check what was read.

        Raises:
            CheckpointError: it names a token that the served model has not, or one twice.
        """
        self._weights = []
        size, width = len(self._offsets), self._width
        tokens = torch.arange(size, device=self._offsets.device) + self._offsets
        wrong = ((tokens < 0) | (tokens >= width)).nonzero()
        if len(wrong):
            place = int(wrong[0])
            raise CheckpointError(
                f"{self._file}: tensor 'd2t' maps token {place} of the head to token {int(tokens[place])}; "
                f"those of the served model are 0 to {width - 1}. Name a head made for this model."
            )
        counts = tokens.bincount()
        if bool((counts > 1).any()):
            twice = int(counts.argmax())
            raise CheckpointError(f"{self._file}: tensor 'd2t' maps two tokens of the head to token {twice}.")
        if size < width or bool(self._offsets.any()):
            self._tokens = tokens

    def nbytes(self) -> int:
        return self._offsets.nbytes + self._tokens.nbytes
