"""Root mean square layer normalisation (Zhang and Sennrich 2019, https://arxiv.org/abs/1910.07467)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import torch

from quire.contracts import NormParts, Span, Weight
from quire.layers.layer import Layer

if TYPE_CHECKING:
    from quire.ops import Kernels


class RMSNorm(Layer):
    """Normalises the last axis; with a residual, adds it first and returns the sum as well."""

    def __init__(
        self, name: str, size: int, eps: float, *, kernels: Kernels, device: str, dtype: torch.dtype
    ) -> None:
        super().__init__()
        self.weight = torch.empty(size, device=device, dtype=dtype)
        self.eps = eps
        self._kernels = kernels
        self._weights = [
            Weight(name=f"{name}.weight", shape=(size,), target=self.weight, take=(Span.whole(size),))
        ]

    @overload
    def forward(self, x: torch.Tensor) -> torch.Tensor: ...

    @overload
    def forward(self, x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]: ...

    def forward(
        self, x: torch.Tensor, residual: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """`x` `[..., size]` normalised; or `(norm(x + residual), x + residual)`."""
        if residual is None:
            return self._kernels.rms_norm(x, self.weight, self.eps)
        return self._kernels.add_rms_norm(x, residual, self.weight, self.eps)

    def parts(self) -> NormParts:
        """What kernels need to fuse it."""
        return NormParts(weight=self.weight, eps=self.eps)

    def weights(self) -> Sequence[Weight]:
        return self._weights

    def finish(self) -> None:
        self._weights = []

    def nbytes(self) -> int:
        return self.weight.nbytes
