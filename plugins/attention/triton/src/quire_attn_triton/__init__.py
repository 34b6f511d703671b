"""Paged attention in Triton for NVIDIA GPUs. See README.md."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import AttentionSpec, hookimpl

_TARGET = "quire_attn_triton.backend:TritonAttention"


@hookimpl
def quire_attention_backends() -> Iterable[AttentionSpec]:
    """`triton`, preferred on CUDA GPUs; `triton-interpreted`, for tests, preferred to nothing."""
    yield AttentionSpec(
        name="triton",
        api=1,
        target=_TARGET,
        priority=50,
        devices=frozenset({"cuda"}),
        summary="Paged attention in Triton for NVIDIA GPUs",
    )
    yield AttentionSpec(
        name="triton-interpreted",
        api=1,
        target=_TARGET,
        priority=-1,
        devices=frozenset({"cpu"}),
        summary="The same in Triton's interpreter, for tests (TRITON_INTERPRET=1)",
    )
