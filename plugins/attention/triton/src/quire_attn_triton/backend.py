"""`TritonAttention`: paged attention on NVIDIA GPUs in Triton.

Declares the cache and keeps the memory that steps share. How work is laid out is in `work` and `metadata`,
how it is computed in `kernels`; all that needs Triton is imported when a backend is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from quire.contracts import (
    AttentionBackend,
    AttentionBatch,
    AttentionInit,
    AttentionLayer,
    AttentionNeed,
    CacheKind,
    GraphSupport,
    KVLayout,
    KVTensor,
    Rope,
)
from quire_attn_triton.availability import machine_of, unavailable
from quire_attn_triton.tables import LARGEST_BLOCK, LARGEST_HEAD, LARGEST_RATIO, padded
from quire_attn_triton.work import FP8, work_of

if TYPE_CHECKING:
    from quire_attn_triton.metadata import StepMetadata

_KINDS = (CacheKind.FULL, CacheKind.SLIDING_WINDOW)
_DTYPES = ("float32", "float16", "bfloat16")


class TritonAttention(AttentionBackend):
    """Attention in fp32, fp16 and bf16, over a cache of the same or of fp8.

    Any step may be captured: what is launched depends on the numbers of requests and rows alone. A step
    captured with requests of few rows is replayed with such; one captured with a long one, with any. `plan`
    waits for nothing on the host and may be captured with the step; `begin_capture` and `begin_replay` serve
    runtimes that plan outside. Padding requests have a row or none, `seq_lens` 0 or 1 and slot -1.
    """

    applies_rotary = True
    graph_support = GraphSupport.FULL

    def __init__(self, init: AttentionInit) -> None:
        """Import Triton and the kernels."""
        super().__init__(init)
        from quire_attn_triton import launch, metadata

        self._launch, self._metadata = launch, metadata
        need = init.need
        self._quantized = need.cache.dtype == FP8
        self._geometry = launch.Geometry(
            block_size=need.block_size,
            quantized=self._quantized,
            interpreted=launch.INTERPRETED,
        )
        self._machine = machine_of(init.device)
        self._sums = self._stats = torch.empty(0, device=init.device)

    @classmethod
    def reject(cls, need: AttentionNeed) -> str | None:
        """Refuses what the kernels do not compute, and machines where they do not run."""
        cache = need.cache
        if need.deterministic:
            return "is not deterministic: how a row's keys are split varies with its batch"
        if cache.kind not in _KINDS:
            return f"keeps K and V, not {cache.kind.value} state"
        if need.dtype not in _DTYPES:
            return f"computes in {', '.join(_DTYPES)}, not in {need.dtype}"
        if cache.dtype not in (need.dtype, FP8):
            return f"stores K and V in the compute dtype, {need.dtype}, or in {FP8}, not in {cache.dtype}"
        if need.num_q_heads % cache.num_kv_heads:
            return f"{need.num_q_heads} query heads do not divide over {cache.num_kv_heads} KV heads"
        ratio = need.num_q_heads // cache.num_kv_heads
        if ratio > LARGEST_RATIO:
            return f"up to {LARGEST_RATIO} query heads share a KV head, not {ratio}"
        if cache.head_dim > LARGEST_HEAD:
            return f"heads have up to {LARGEST_HEAD} elements, not {cache.head_dim}"
        if need.block_size > LARGEST_BLOCK:
            return f"blocks have up to {LARGEST_BLOCK} tokens, not {need.block_size}"
        return unavailable(need.device, fp8=cache.dtype == FP8)

    def kv_layout(self, num_blocks: int) -> KVLayout:
        """`k` and `v`, `[num_blocks, num_kv_heads, block_size, head_dim]`.

        In fp8 also `k_scale` and `v_scale`, `[num_blocks, num_kv_heads, block_size]` fp32, one for each head
        of each token: what is stored times its scale is what was written.
        """
        need = self.init.need
        rows = (num_blocks, need.cache.num_kv_heads, need.block_size)
        tensors = {name: KVTensor((*rows, need.cache.head_dim), need.cache.dtype) for name in ("k", "v")}
        if self._quantized:
            tensors |= {name: KVTensor(rows, "float32") for name in ("k_scale", "v_scale")}
        return KVLayout(tensors)

    def plan(self, batch: AttentionBatch) -> StepMetadata:
        """Lay the step's work out on the device."""
        need = self.init.need
        work = work_of(need, self._machine, batch.query_lens_host, batch.max_query_len)
        # Grown, never shrunk; a captured step keeps what it was captured with.
        if work.partial_rows > self._stats.shape[0] // 2:
            device = self.init.device
            self._sums = torch.empty(work.partial_rows * padded(need.cache.head_dim), device=device)
            self._stats = torch.empty(work.partial_rows * 2, device=device)
        return self._metadata.StepMetadata(batch, work, self._metadata.Partials(self._sums, self._stats))

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        kv: Mapping[str, torch.Tensor],
        metadata: StepMetadata,
        layer: AttentionLayer,
        rope: Rope | None = None,
    ) -> torch.Tensor:
        """Rotate, write, attend."""
        if q.shape[0] == 0:
            return torch.empty_like(q)
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        cache = self._launch.Cache(kv["k"], kv["v"], kv.get("k_scale", kv["k"]), kv.get("v_scale", kv["v"]))
        q = self._launch.write(q, k, v, cache, metadata, self._geometry, rope)
        return self._launch.attend(q, cache, metadata, self._geometry, layer)

    def begin_capture(self, metadata: StepMetadata) -> None:
        """Give the metadata tensors of its own, its block table as wide as any will be."""
        metadata.settle(-(-self.init.max_model_len // self.init.need.block_size))

    def begin_replay(self, metadata: StepMetadata, batch: AttentionBatch) -> None:
        """Copy the batch over what was captured, and plan again; nothing is waited for."""
        metadata.refresh(batch)
