"""Paged attention in Triton for NVIDIA GPUs. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import AttentionSpec, hookimpl


@hookimpl
def quire_attention_backends() -> Iterable[AttentionSpec]:
    """`triton`: preferred on CUDA GPUs where Triton is installed."""
    yield AttentionSpec(
        name="triton",
        api=1,
        target="quire_attn_triton.backend:TritonAttention",
        priority=50,
        devices=frozenset({"cuda"}),
        summary="Paged attention in Triton for NVIDIA GPUs",
    )
