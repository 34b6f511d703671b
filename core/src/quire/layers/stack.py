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
        """All layers; the states that `step.tap` asks for are left there.

        Args:
            x: `[T, H]`, the embedding.
            positions: `[T]` int64.
            step: passed on to the layers.

        Returns:
            The last layer's output, not yet added, and the stream before it.
        """
        residual: torch.Tensor | None = None
        first = 0
        if step.tap is not None:
            for depth in sorted(step.tap.depths):
                x, residual = self._run(x, residual, positions, step, first, depth)
                step.tap.states[depth] = x if residual is None else x + residual
                first = depth
        x, residual = self._run(x, residual, positions, step, first, len(self))
        assert residual is not None
        return x, residual

    def _run(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        positions: torch.Tensor,
        step: Step,
        first: int,
        stop: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The layers from `first` up to `stop`; there may be none."""
        if self.fused is not None and first < stop:
            return self.fused(x, residual, positions, step, first, stop)
        for index in range(first, stop):
            x, residual = self[index](x, residual, positions, step)
        return x, residual

    def fuse(self) -> None:
        """Ask the kernels for one callable, if they had one for every layer."""
        fused = [cast(DecoderLayer, layer).fused for layer in self]
        whole = [one for one in fused if one is not None]
        if whole and len(whole) == len(fused):
            self.fused = self._kernels.decoder_stack(whole)
