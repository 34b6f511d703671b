"""Paged attention in C++ for processors. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import AttentionSpec, hookimpl


@hookimpl
def quire_attention_backends() -> Iterable[AttentionSpec]:
    """`cpu`: preferred on processors where the native library is compiled."""
    yield AttentionSpec(
        name="cpu",
        api=1,
        target="quire_attn_cpu.backend:CpuAttention",
        options="quire_attn_cpu.options:CpuAttentionOptions",
        priority=50,
        devices=frozenset({"cpu"}),
        summary="Paged attention in C++ for processors",
    )
