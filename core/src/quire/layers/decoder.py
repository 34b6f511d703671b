"""A pre-norm decoder layer.

The residual is carried along beside the last output, so that adding and normalising are one operation.
"""

from __future__ import annotations

import torch
from torch import nn

from quire.layers.norm import RMSNorm
from quire.layers.step import Step


class DecoderLayer(nn.Module):
    """Norm, token mixer, norm, feed-forward; each adds to the residual stream.

    Attributes:
        mixer: `(x [T, H], positions, step) -> [T, H]`, usually self-attention.
        mlp: `[T, H] -> [T, H]`.
    """

    def __init__(self, *, input_norm: RMSNorm, mixer: nn.Module, post_norm: RMSNorm, mlp: nn.Module) -> None:
        super().__init__()
        self.input_norm = input_norm
        self.mixer = mixer
        self.post_norm = post_norm
        self.mlp = mlp

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None, positions: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One layer.

        Args:
            x: `[T, H]`, the last block's output, not yet added to the stream (in the first layer
                the embedding).
            residual: `[T, H]`, the stream before it; None in the first layer.
            positions: `[T]` int64.
            step: passed on to the mixer.

        Returns:
            This layer's output not yet added, and the stream before it.
        """
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm(x, residual)
        x = self.mixer(x, positions, step)
        x, residual = self.post_norm(x, residual)
        return self.mlp(x), residual
