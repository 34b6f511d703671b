"""`FlashInferAttention`: paged attention on NVIDIA GPUs by FlashInfer's kernels.

Declares the cache, writes K and V to it, and says which rows which of FlashInfer's wrappers attends to.
Rotary embedding is the kernels plugin's: `k` arrives rotated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
from quire_attn_flashinfer.availability import unavailable
from quire_attn_flashinfer.metadata import Part, StepMetadata
from quire_attn_flashinfer.pages import page_table
from quire_attn_flashinfer.runners import DecodeRunner, Geometry, PrefillRunner, workspace_bytes

_KINDS = (CacheKind.FULL, CacheKind.SLIDING_WINDOW)
_DTYPES = ("float16", "bfloat16")
_HEADS = (64, 128, 256)
_PROCESSOR = 4
"""Multiprocessors of a device that has none, for the size of its workspace."""


class FlashInferAttention(AttentionBackend):
    """Attention in fp16 and bf16, over a cache of the same.

    A step's requests of one row go to FlashInfer's decode where they come last, as the engine orders them,
    and all others to its prefill. Plans are made on the host, from `query_lens_host` and `seq_lens_host`:
    these must be what `query_start` and `seq_lens` hold, and no mere bounds of it. A plan is used up by the
    next one. Captured steps have requests of one row, and are planned anew before each replay.
    """

    graph_support = GraphSupport.DECODE

    def __init__(self, init: AttentionInit) -> None:
        """Import FlashInfer and take the memory that plans and splits share."""
        super().__init__(init)
        need, device = init.need, torch.device(init.device)
        self._geometry = Geometry(
            num_q_heads=need.num_q_heads,
            num_kv_heads=need.cache.num_kv_heads,
            head_dim=need.cache.head_dim,
            block_size=need.block_size,
            window=need.cache.window,
            soft_cap=need.soft_cap,
            dtype=getattr(torch, need.dtype),
        )
        multiprocessors = _PROCESSOR
        if device.type == "cuda":
            multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
        size = workspace_bytes(self._geometry, init.max_num_seqs, multiprocessors)
        self._workspace = torch.zeros(size, dtype=torch.uint8, device=device)
        self._prefill = PrefillRunner(self._geometry, self._workspace)
        self._decode = DecodeRunner(self._geometry, self._workspace)
        self._indices: torch.Tensor | None = None

    @classmethod
    def reject(cls, need: AttentionNeed) -> str | None:
        """Refuses what FlashInfer does not compute, and machines where it does not run."""
        cache = need.cache
        if need.deterministic:
            return "is not deterministic: how a row's keys are split varies with its batch"
        if cache.kind not in _KINDS:
            return f"keeps K and V, not {cache.kind.value} state"
        if need.dtype not in _DTYPES:
            return f"computes in {', '.join(_DTYPES)}, not in {need.dtype}"
        if cache.dtype != need.dtype:
            return f"stores K and V in the compute dtype, {need.dtype}, not in {cache.dtype}"
        if need.num_q_heads % cache.num_kv_heads:
            return f"{need.num_q_heads} query heads do not divide over {cache.num_kv_heads} KV heads"
        if cache.head_dim not in _HEADS:
            return f"heads have {', '.join(map(str, _HEADS))} elements, not {cache.head_dim}"
        return unavailable(need.device)

    def kv_layout(self, num_blocks: int) -> KVLayout:
        """`k` and `v`, `[num_blocks, block_size, num_kv_heads, head_dim]`: a token's heads lie together."""
        need = self.init.need
        shape = (num_blocks, need.block_size, need.cache.num_kv_heads, need.cache.head_dim)
        return KVLayout({name: KVTensor(shape, need.cache.dtype) for name in ("k", "v")})

    def plan(self, batch: AttentionBatch) -> StepMetadata:
        """Share the step's rows out, and plan for them."""
        lengths = batch.query_lens_host
        busy = [request for request, length in enumerate(lengths) if length]
        split = len(busy)  # requests from here on have one row each
        while split and lengths[busy[split - 1]] == 1:
            split -= 1
        rows = sum(lengths)
        border = rows - (len(busy) - split)
        parts = []
        if split:
            parts.append(self._planned(self._prefill, batch, busy[:split], slice(0, border)))
        if split < len(busy):
            parts.append(self._planned(self._decode, batch, busy[split:], slice(border, rows)))
        return StepMetadata(batch, tuple(parts))

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
        """Write, then attend part by part."""
        geometry = self._geometry
        own = (layer.num_q_heads, layer.window, layer.soft_cap)
        assert own == (geometry.num_q_heads, geometry.window, geometry.soft_cap), "planned for other layers"
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        if q.shape[0] == 0:
            return out
        _write(kv["k"], k, metadata)
        _write(kv["v"], v, metadata)
        q = q if q.stride(-1) == 1 else q.contiguous()
        for runner, rows, plan in metadata.parts:
            assert runner.plans == plan, "another step has been planned since"
            runner.run(q[rows], kv["k"], kv["v"], layer.scale, out[rows])
        return out

    def begin_capture(self, metadata: StepMetadata) -> None:
        """Give the step a wrapper of its own, whose plans stay where they are.

        Raises:
            ValueError: a request has another number of rows than one.
        """
        requests = _decodes(metadata.batch)
        if self._indices is None:
            # All captured steps keep their page ids here: each is planned anew before it is replayed.
            init = self.init
            pages = init.max_num_seqs * -(-init.max_model_len // init.need.block_size)
            self._indices = torch.zeros(pages, dtype=torch.int32, device=init.device)
        runner = DecodeRunner(self._geometry, self._workspace, requests=requests, indices=self._indices)
        metadata.parts = (self._planned(runner, metadata.batch, range(requests), slice(0, requests)),)

    def begin_replay(self, metadata: StepMetadata, batch: AttentionBatch) -> None:
        """Plan again, and take over where K and V go. Waits at most for the copy of its last plan.

        Raises:
            ValueError: the batch has another number of requests, or one with another number of rows than one.
        """
        (part,) = metadata.parts
        requests, wanted = _decodes(batch), part.rows.stop
        if requests != wanted:
            raise ValueError(
                f"The step was captured with {wanted} requests, and cannot be replayed with {requests}: "
                f"pad the batch."
            )
        metadata.parts = (self._planned(part.runner, batch, range(requests), part.rows),)
        metadata.move(batch)

    def _planned(
        self,
        runner: PrefillRunner | DecodeRunner,
        batch: AttentionBatch,
        requests: Sequence[int],
        rows: slice,
    ) -> Part:
        geometry = self._geometry
        runner.plan(page_table(batch, requests, geometry.block_size, geometry.window))
        return Part(runner, rows, runner.plans)


def _decodes(batch: AttentionBatch) -> int:
    """The number of requests of a step in which each has one row.

    Raises:
        ValueError: one has not.
    """
    lengths = batch.query_lens_host
    if any(length != 1 for length in lengths):
        raise ValueError(
            f"Captured steps have one row per request, not up to {max(lengths)}: run others uncaptured."
        )
    return len(lengths)


def _write(cache: torch.Tensor, x: torch.Tensor, metadata: StepMetadata) -> None:
    """Put the step's k or v, `[T, Hkv, D]`, where it goes.

    What goes nowhere is written over the null block's first token as what that is, zero: so there is no
    question that only the device can answer.
    """
    slots = cache.view(-1, *cache.shape[2:])  # [slots, Hkv, D]
    slots.index_copy_(0, metadata.targets, x.masked_fill(metadata.unwritten, 0))
