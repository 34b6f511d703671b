"""Linear layers with plain weights: packed once at load, applied every step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """A linear layer's weights in the form its kernels want; opaque to everybody else.

    Attributes:
        weight: in whatever layout the kernels that packed it read.
        bias: `[N]` or None.
        nbytes: memory held.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    nbytes: int


class LinearOps:
    """`y = x W^T + b`."""

    def pack_linear(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> PackedLinear:
        """Prepare a layer's weights for `linear`.

        Args:
            weight: `[N, K]`; the caller may drop it afterwards.
            bias: `[N]` or None, weight's dtype.

        Returns:
            What `linear` of the same kernels reads.
        """
        held = weight.nbytes + (0 if bias is None else bias.nbytes)
        return PackedLinear(weight, bias, held)

    def linear(self, x: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
        """`[..., K] -> [..., N]`, bias included; x in the weight's dtype."""
        return F.linear(x, packed.weight, packed.bias)

    def head(self, hidden: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
        """Logits: `linear` of hidden states `[R, K] -> [R, N]`.

        The sampler asks for their `peak` next, which an override may find while it multiplies, and keep until
        then. So nobody is to write to logits: who masks them makes other ones.
        """
        return self.linear(hidden, packed)
