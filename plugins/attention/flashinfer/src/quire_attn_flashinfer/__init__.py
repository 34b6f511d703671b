"""Paged attention over FlashInfer for NVIDIA GPUs. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import AttentionSpec, hookimpl

REQUIREMENT = "flashinfer-python>=0.6"
"""What this is built on. Nothing older was read."""


@hookimpl
def quire_attention_backends() -> Iterable[AttentionSpec]:
    """`flashinfer`: below Triton's backend, since it has not been measured faster on any GPU."""
    yield AttentionSpec(
        name="flashinfer",
        api=1,
        target="quire_attn_flashinfer.backend:FlashInferAttention",
        priority=40,
        devices=frozenset({"cuda"}),
        requires=(REQUIREMENT,),
        summary="Paged attention over FlashInfer for NVIDIA GPUs",
    )
