"""Paged attention: `quire-attn-cpu` against `quire-attn-torch` and against what the machine can do.

    python bench/attention.py [--dtype bfloat16] [--threads 2] [--isa amx] [--model 135M] [--alone]

Decode is limited by reading K and V (GB/s, beside the rate of a plain read loop), prefill by arithmetic
(GFLOP/s of the visible half, beside a large matrix product). Every layer of a step has its own cache, as many
as it takes to leave the processor's caches behind. The sides alternate; medians.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator

import torch

from quire.contracts import (
    AttentionBackend,
    AttentionBatch,
    AttentionInit,
    AttentionLayer,
    AttentionNeed,
    CacheKind,
    CacheSpec,
    Rope,
)
from quire_attn_cpu.backend import CpuAttention
from quire_attn_cpu.options import CpuAttentionOptions
from quire_attn_torch.backend import TorchAttention

HEADS = {"135M": (9, 3, 64), "1B": (32, 8, 64)}
"""Query heads, KV heads, elements of a head."""

DECODE = [(1, 256), (1, 2048), (1, 8192), (8, 1024), (32, 512), (128, 256), (128, 1024)]
PREFILL = [128, 512, 1024, 4096]
BLOCK_SIZE = 16
FRESH_BYTES = 256 << 20
"""K and V that a round reads before it reads any again."""

SECONDS = 0.6
"""For each side of a line, if need be with fewer rounds."""


class Side:
    """One backend with the caches of several layers, and a step to compute on each in turn."""

    def __init__(
        self,
        backend_class: type[AttentionBackend],
        heads: tuple[int, int, int],
        dtype: str,
        batch: AttentionBatch,
        options: CpuAttentionOptions | None,
    ) -> None:
        q_heads, kv_heads, head_dim = heads
        cache = CacheSpec(kind=CacheKind.FULL, num_kv_heads=kv_heads, head_dim=head_dim, dtype=dtype)
        need = AttentionNeed(
            device="cpu", dtype=dtype, cache=cache, num_q_heads=q_heads, block_size=BLOCK_SIZE
        )
        rows = batch.positions.shape[0]
        bounds = {"max_num_seqs": 128, "max_num_batched_tokens": rows, "max_model_len": batch.max_seq_len}
        self.backend = backend_class(AttentionInit(need=need, device="cpu", options=options, **bounds))
        self.layer = AttentionLayer(
            index=0, num_q_heads=q_heads, num_kv_heads=kv_heads, head_dim=head_dim, scale=head_dim**-0.5
        )
        tokens = sum(batch.seq_lens_host)
        self.bytes = tokens * kv_heads * head_dim * 2 * getattr(torch, dtype).itemsize
        layers = min(64, max(1, FRESH_BYTES // self.bytes))
        layout = self.backend.kv_layout(int(batch.block_table.max()) + 1).tensors
        self.kv = [
            {name: torch.randn(one.shape).to(getattr(torch, dtype)) for name, one in layout.items()}
            for _ in range(layers)
        ]
        qkv = torch.randn(rows, q_heads + 2 * kv_heads, head_dim).to(getattr(torch, dtype))
        self.q, self.k, self.v = torch.split(qkv, [q_heads, kv_heads, kv_heads], 1)
        self.rope = Rope(torch.randn(batch.max_seq_len, head_dim)) if self.backend.applies_rotary else None
        self.plan = self.backend.plan(batch)

    def seconds(self) -> Iterator[float]:
        """Time of one layer, the next one each time."""
        while True:
            for kv in self.kv:
                start = time.perf_counter()
                self.backend.forward(self.q, self.k, self.v, kv, self.plan, self.layer, self.rope)
                yield time.perf_counter() - start


def step(requests: int, context: int, rows: int, shared: int = 0) -> AttentionBatch:
    """Each request computes its last `rows` of `context` tokens; blocks are dealt at random."""
    blocks = -(-context // BLOCK_SIZE)
    table = (torch.randperm(requests * blocks, dtype=torch.int32) + 1).view(requests, blocks)
    table[:, : shared // BLOCK_SIZE] = table[0, : shared // BLOCK_SIZE].clone()
    positions = torch.arange(context - rows, context)
    slots = table[:, positions // BLOCK_SIZE].long() * BLOCK_SIZE + positions % BLOCK_SIZE
    return AttentionBatch(
        query_start=torch.arange(0, requests * rows + 1, rows, dtype=torch.int32),
        seq_lens=torch.full((requests,), context, dtype=torch.int32),
        positions=positions.repeat(requests),
        block_table=table,
        slot_mapping=slots.flatten(),
        max_query_len=rows,
        max_seq_len=context,
        query_lens_host=[rows] * requests,
        seq_lens_host=[context] * requests,
    )


def medians(sides: list[Iterator[float]]) -> list[float]:
    """Each side's median seconds, sides in turn."""
    times: list[list[float]] = [[] for _ in sides]
    for side in sides:
        next(side)
    deadline = time.perf_counter() + SECONDS * len(sides)
    while len(times[0]) < 3 or time.perf_counter() < deadline:
        for side, taken in zip(sides, times, strict=True):
            taken.append(next(side))
    return [statistics.median(taken) for taken in times]


def rate(work: float, call: Callable[[], object]) -> float:
    """Thousand million units of work a second."""
    call()
    times = []
    for _ in range(7):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return work / statistics.median(times) / 1e9


def main() -> None:
    """Print the machine's limits, then one line per model and step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--isa", help="instruction set of quire-attn-cpu")
    parser.add_argument("--model", choices=sorted(HEADS), action="append")
    parser.add_argument("--alone", action="store_true", help="without quire-attn-torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dtype = getattr(torch, options.dtype)
    memory = torch.randint(0, 9, (FRESH_BYTES // 8,))
    a = torch.randn(2048, 2048).to(dtype)
    with torch.inference_mode():
        read, product = rate(memory.nbytes, memory.sum), rate(2 * 2048**3, lambda: a @ a)
        print(
            f"{options.dtype}, {options.threads} threads; read {read:.1f} GB/s, product {product:.0f} GFLOP/s"
        )
        print(f"{'model':>6} {'step':>22} {'cpu us':>9} {'torch us':>9} {'ratio':>6} {'rate':>18}")
        for model in options.model or HEADS:
            steps = [(f"decode {n} x {context}", step(n, context, 1)) for n, context in DECODE]
            steps += [("decode 32 x 576, 512 shared", step(32, 576, 1, shared=512))]
            steps += [(f"prefill {rows}", step(1, rows, rows)) for rows in PREFILL]
            for name, batch in steps:
                heads = HEADS[model]
                sides = [
                    Side(CpuAttention, heads, options.dtype, batch, CpuAttentionOptions(isa=options.isa))
                ]
                if not options.alone:
                    sides.append(Side(TorchAttention, heads, options.dtype, batch, None))
                ours, *others = medians([side.seconds() for side in sides])
                line = f"{model:>6} {name:>22} {ours * 1e6:>9.1f}"
                line += "".join(f" {other * 1e6:>9.1f} {other / ours:>6.1f}" for other in others)
                if batch.max_query_len == 1:
                    print(f"{line} {sides[0].bytes / ours / 1e9:>13.1f} GB/s")
                else:
                    flops = heads[0] * heads[2] * 2 * batch.max_seq_len**2
                    print(f"{line} {flops / ours / 1e9:>10.0f} GFLOP/s")


if __name__ == "__main__":
    main()
