"""A pre-norm decoder layer.

The residual is carried along beside the last output, so that adding and normalising are one operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from quire.contracts import DecoderLayerParts, FusedLayer
from quire.layers.layer import Fusible
from quire.layers.mlp import GatedMLP
from quire.layers.norm import RMSNorm
from quire.layers.self_attention import SelfAttention
from quire.layers.step import Step

if TYPE_CHECKING:
    from quire.layers.build import Build


class DecoderLayer(Fusible):
    """Norm, token mixer, norm, feed-forward; each adds to the residual stream.

    Attributes:
        mixer: `(x [T, H], positions, step) -> [T, H]`, usually self-attention.
        mlp: `[T, H] -> [T, H]`.
        fused: what the kernels offer instead of all of it, for `SelfAttention` and a `GatedMLP`; None if
            they have nothing, and until `finish`.
    """

    def __init__(
        self, build: Build, *, input_norm: RMSNorm, mixer: nn.Module, post_norm: RMSNorm, mlp: nn.Module
    ) -> None:
        super().__init__()
        self._kernels = build.kernels
        self.fused: FusedLayer | None = None
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
        if self.fused is not None:
            return self.fused(x, residual, positions, step)
        if residual is None:
            x, residual = self.input_norm(x), x
        else:
            x, residual = self.input_norm(x, residual)
        x = self.mixer(x, positions, step)
        x, residual = self.post_norm(x, residual)
        return self.mlp(x), residual

    def fuse(self) -> None:
        """Ask the kernels for one callable, if everything in the layer can be described to them."""
        if not isinstance(self.mixer, SelfAttention) or not isinstance(self.mlp, GatedMLP):
            return
        attention, mlp = self.mixer.parts(), self.mlp.parts()
        if attention is None or mlp is None:
            return
        parts = DecoderLayerParts(
            input_norm=self.input_norm.parts(),
            attention=attention,
            post_norm=self.post_norm.parts(),
            mlp=mlp,
        )
        self.fused = self._kernels.decoder_layer(parts)
