"""Decoder layers one after the other, from the embedding on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from quire.contracts import FusedStack
from quire.layers.decoder import DecoderLayer
from quire.layers.layer import Fusible
from quire.layers.step import Step

if TYPE_CHECKING:
    from quire.layers.build import Build


class DecoderStack(Fusible, nn.ModuleList):
    """A list of decoder layers that can be called as one.

    Attributes:
        fused: what the kernels offer instead of all of them, if each is fused; None if they have nothing,
            and until `finish`.
    """

    def __init__(self, build: Build, layers: Sequence[DecoderLayer]) -> None:
        super().__init__()
        self.extend(layers)
        self._kernels = build.kernels
        self.fused: FusedStack | None = None

    def forward(
        self, x: torch.Tensor, positions: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All layers.

        Args:
            x: `[T, H]`, the embedding.
            positions: `[T]` int64.
            step: passed on to the layers.

        Returns:
            The last layer's output, not yet added, and the stream before it.
        """
        if self.fused is not None:
            return self.fused(x, positions, step)
        residual: torch.Tensor | None = None
        for layer in self:
            x, residual = layer(x, residual, positions, step)
        assert residual is not None
        return x, residual

    def fuse(self) -> None:
        """Ask the kernels for one callable, if they had one for every layer."""
        fused = [cast(DecoderLayer, layer).fused for layer in self]
        whole = [one for one in fused if one is not None]
        if whole and len(whole) == len(fused):
            self.fused = self._kernels.decoder_stack(whole)
