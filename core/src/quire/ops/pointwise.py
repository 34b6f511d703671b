"""Norms, rotary embedding, gated activations and token embedding: what works row by row."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F


class PointwiseOps:
    """Operations whose every output row needs one input row and the layer's constants."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """`x / rms(x) * weight` (Zhang and Sennrich, 2019).

        The rounding is that of Llama checkpoints: normalised in fp32, rounded to x's dtype, then
        multiplied by the weight.

        Args:
            x: `[..., H]`.
            weight: `[H]`, x's dtype.
            eps: added to the mean square.

        Returns:
            `[..., H]`, x's dtype.
        """
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(eps))  # [..., 1]
        return (wide * inverse).to(x.dtype) * weight

    def add_rms_norm(
        self, x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The residual addition and the norm that follows it.

        Returns:
            `(rms_norm(x + residual), x + residual)`, each `[..., H]`.
        """
        total = x + residual
        return self.rms_norm(total, weight, eps), total

    def rotary(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        cos_sin: torch.Tensor,
        positions: torch.Tensor,
        interleaved: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rotary position embedding (Su et al., 2021), computed in fp32.

        Args:
            q: `[T, Hq, D]`.
            k: `[T, Hk, D]`, q's dtype.
            cos_sin: `[P, R]` fp32 with R <= D: cosines in the first half, sines in the second.
                Elements R and up of a head are left as they are.
            positions: `[T]` integer, each below P.
            interleaved: pairs are (0, 1), (2, 3), ... if True; (i, i + R/2) if False (Llama, NeoX).

        Returns:
            q and k rotated, shapes and dtype unchanged; they may be strided.
        """
        rotary_dim = cos_sin.shape[-1]
        cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)  # [T, 1, R/2]
        heads = torch.cat((q, k), dim=1).float()  # [T, Hq + Hk, D]: one pass for both
        out = torch.empty_like(heads)
        first, second = _pairs(heads[..., :rotary_dim], interleaved)
        out_first, out_second = _pairs(out[..., :rotary_dim], interleaved)
        torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=out_second).addcmul_(first, sin)
        if rotary_dim < heads.shape[-1]:
            out[..., rotary_dim:] = heads[..., rotary_dim:]
        rotated = out.to(q.dtype)
        return rotated[:, : q.shape[1]], rotated[:, q.shape[1] :]

    def silu_and_mul(self, x: torch.Tensor) -> torch.Tensor:
        """`silu(gate) * up` of x = [gate, up] (SwiGLU): `[..., 2I] -> [..., I]`."""
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    def gelu_and_mul(self, x: torch.Tensor, approximate: Literal["none", "tanh"] = "none") -> torch.Tensor:
        """`gelu(gate) * up` of x = [gate, up] (GeGLU): `[..., 2I] -> [..., I]`."""
        gate, up = x.chunk(2, dim=-1)
        return F.gelu(gate, approximate=approximate).mul_(up)

    def embedding(self, ids: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
        """Rows of a table: ids `[T]` integer, table `[V, H]` -> `[T, H]`."""
        return F.embedding(ids, table)


def _pairs(x: torch.Tensor, interleaved: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Views of the first and the second elements of the rotated pairs, each `[..., R/2]`."""
    if interleaved:
        return x[..., 0::2], x[..., 1::2]
    half = x.shape[-1] // 2
    return x[..., :half], x[..., half:]
