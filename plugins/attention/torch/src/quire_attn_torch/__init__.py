"""Paged attention in plain PyTorch, on any device: Quire's reference backend. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import AttentionSpec, hookimpl


@hookimpl
def quire_attention_backends() -> Iterable[AttentionSpec]:
    """`torch`: any device, every feature, no priority over faster backends."""
    yield AttentionSpec(
        name="torch",
        api=1,
        target="quire_attn_torch.backend:TorchAttention",
        priority=0,
        summary="Paged attention in plain PyTorch, on any device",
    )
