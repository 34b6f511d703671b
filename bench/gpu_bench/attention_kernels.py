"""What part `attention` compares: every installed backend over a paged cache, and PyTorch's own attention."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pydantic import BaseModel
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from gpu_bench.attention_cases import Case
from gpu_bench.bench import Bench
from gpu_bench.shapes import Shape
from quire.contracts import (
    AttentionBackend,
    AttentionBatch,
    AttentionInit,
    AttentionLayer,
    AttentionNeed,
    CacheKind,
    CacheSpec,
    GraphSupport,
    Rope,
)
from quire.errors import PluginError
from quire.plugin_plan import import_target
from quire.plugins import Found, discover

BLOCK_SIZE = 16
MOST_CACHES = 64
BEYOND_CACHE = 4
"""Caches in turn hold as many times the device's last cache together."""

Make = Callable[[Case, Bench], "list[Callable[[], object]]"]


def kernels(shape: Shape, device: str) -> dict[str, Make]:
    """What is compared, by name: backends that serve this shape here, and PyTorch's own attention.

    On a GPU the reference backend is left out: it is made to be read.
    """
    registry = discover()
    found: dict[str, Make] = {}
    for plugin in registry.of_kind("attention"):
        if device == "cuda" and plugin.spec.name == "torch":
            continue
        try:
            backend = registry.load(plugin)
        except PluginError:  # what it is built on is not installed
            continue
        if backend.reject(_need(shape, device)) is None:
            found[plugin.spec.name] = _paged(backend, _options(plugin))
    return {**found, "sdpa": dense}


def _options(plugin: Found) -> BaseModel | None:
    """A plugin's own defaults."""
    if plugin.spec.options is None:
        return None
    model: type[BaseModel] = import_target(plugin.kind, plugin.spec.name, plugin.spec.options)
    return model()


def _need(shape: Shape, device: str) -> AttentionNeed:
    q_heads, kv_heads, dim = shape.heads
    cache = CacheSpec(kind=CacheKind.FULL, num_kv_heads=kv_heads, head_dim=dim, dtype=shape.dtype)
    return AttentionNeed(
        device=device, dtype=shape.dtype, cache=cache, num_q_heads=q_heads, block_size=BLOCK_SIZE
    )


def _paged(backend_class: type[AttentionBackend], options: BaseModel | None) -> Make:
    def make(case: Case, bench: Bench) -> list[Callable[[], object]]:
        q_heads, kv_heads, dim = case.shape.heads
        dtype = getattr(torch, case.shape.dtype)
        rows = case.requests * case.rows
        backend = backend_class(
            AttentionInit(
                need=_need(case.shape, bench.device),
                device="cuda:0" if bench.device == "cuda" else "cpu",
                max_num_seqs=case.requests,
                max_num_batched_tokens=rows,
                max_model_len=case.context,
                options=options,
            )
        )
        layer = AttentionLayer(
            index=0, num_q_heads=q_heads, num_kv_heads=kv_heads, head_dim=dim, scale=dim**-0.5
        )
        batch = step(case, bench.device)
        layout = backend.kv_layout(int(batch.block_table.max()) + 1).tensors
        angles = torch.randn(case.context, dim // 2, device=bench.device)
        rope = Rope(torch.cat((angles.cos(), angles.sin()), -1)) if backend.applies_rotary else None
        qkv = torch.randn(rows, q_heads + 2 * kv_heads, dim, device=bench.device).to(dtype)
        q, k, v = torch.split(qkv, [q_heads, kv_heads, kv_heads], 1)
        metadata = backend.plan(batch)
        support = backend.graph_support
        able = support is GraphSupport.FULL if case.rows > 1 else support is not GraphSupport.NONE
        captures = able and bench.device == "cuda"
        if captures:
            backend.begin_capture(metadata)

        def one(kv: dict[str, torch.Tensor]) -> Callable[[], object]:
            def work() -> object:
                return backend.forward(q, k, v, kv, metadata, layer, rope)

            return captured(work) if captures else work

        return [
            one(
                {
                    name: torch.randn(tensor.shape, device=bench.device).to(getattr(torch, tensor.dtype))
                    for name, tensor in layout.items()
                }
            )
            for _ in range(caches(case, bench))
        ]

    return make


def dense(case: Case, bench: Bench) -> list[Callable[[], object]]:
    """`scaled_dot_product_attention` over contiguous K and V, by flash attention on a GPU.

    In decode the query heads of a KV head are rows of one product, so that K and V are read once; in prefill
    K and V are repeated for every head beforehand.
    """
    q_heads, kv_heads, dim = case.shape.heads
    dtype, group = getattr(torch, case.shape.dtype), q_heads // kv_heads
    decode = case.rows == 1

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, device=bench.device).to(dtype)

    q = normal(case.requests, kv_heads, group, dim) if decode else normal(1, q_heads, case.rows, dim)
    found: list[Callable[[], object]] = []
    for _ in range(caches(case, bench)):
        k, v = (normal(case.requests, kv_heads, case.context, dim) for _ in range(2))
        if not decode:
            k, v = (x.repeat_interleave(group, 1) for x in (k, v))

        def work(k: torch.Tensor = k, v: torch.Tensor = v) -> object:
            with _flash(bench.device):
                return F.scaled_dot_product_attention(q, k, v, is_causal=not decode)

        found.append(captured(work) if bench.device == "cuda" else work)
    return found


def _flash(device: str) -> AbstractContextManager[Any]:
    return sdpa_kernel(SDPBackend.FLASH_ATTENTION) if device == "cuda" else nullcontext()


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """The work as a CUDA graph: what launching it costs the host does not count."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def caches(case: Case, bench: Bench) -> int:
    """How many caches take turns, that none is found in L2; a prompt computes, and needs none."""
    if case.rows > 1:
        return 1
    wanted = -(-BEYOND_CACHE * bench.cache_bytes // case.read_bytes) + 1
    return min(wanted, 2 if bench.toy else MOST_CACHES)


def step(case: Case, device: str) -> AttentionBatch:
    """The batch; blocks are dealt at random."""
    requests, context, rows = case.requests, case.context, case.rows
    blocks = -(-context // BLOCK_SIZE)
    table = (torch.randperm(requests * blocks, dtype=torch.int32) + 1).view(requests, blocks)
    positions = torch.arange(context - rows, context)
    slots = table[:, positions // BLOCK_SIZE].long() * BLOCK_SIZE + positions % BLOCK_SIZE
    return AttentionBatch(
        query_start=torch.arange(0, requests * rows + 1, rows, dtype=torch.int32, device=device),
        seq_lens=torch.full((requests,), context, dtype=torch.int32, device=device),
        positions=positions.repeat(requests).to(device),
        block_table=table.to(device),
        slot_mapping=slots.flatten().to(device),
        max_query_len=rows,
        max_seq_len=context,
        query_lens_host=[rows] * requests,
        seq_lens_host=[context] * requests,
    )
