"""Finds the launch parameters of Triton's kernels on the GPU that is here, and prints their tables.

    python tools/tune_triton.py                 # all tables; most of the time is the compiler's
    python tools/tune_triton.py decode --dim 128
    python tools/tune_triton.py wna16

`decode` and `prefill` are in `quire_attn_triton.tables`; `wna16`, `w8a8` and `dequantize` in
`quire_kernels_triton.product_tables`. For each row of the tables it times the row's neighbours (tile, warps,
stages; for decode and products also how the work is cut; for prefill also the rows of a program) at a batch
and context, or sizes of an 8B model's projections, for which the row is used, and prints the fastest, with
the bytes per second that decode reaches, the FLOP/s of prefill, or times. `dequantize` finds the rows above
which weights are dequantized. Inputs are random and rotate among copies, so that none is read from the L2
cache; times are medians of replayed graphs. A neighbour that does not compile, or needs more shared memory
than there is, is left out.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Protocol

import torch
import triton

from quire.contracts import (
    AttentionBatch,
    AttentionInit,
    AttentionLayer,
    AttentionNeed,
    CacheKind,
    CacheSpec,
    KernelsInit,
    KernelsNeed,
    QuantizedWeight,
)
from quire_attn_triton import tables, work
from quire_attn_triton.backend import TritonAttention
from quire_attn_triton.tables import DecodeKey, Elements, PrefillKey
from quire_kernels_triton import product_tables
from quire_kernels_triton.kernels import TritonKernels

DEVICE = "cuda"
KV_HEADS, RATIO, BLOCK_SIZE = 8, 4, 16
DTYPES = {
    Elements.FP32: ("float32", "float32"),
    Elements.FP32_FP8: ("float32", work.FP8),
    Elements.HALF: ("bfloat16", "bfloat16"),
    Elements.HALF_FP8: ("bfloat16", work.FP8),
}
DECODE_STEPS = {8: [(1, 1024), (1, 8192), (8, 4096)], tables.ANY: [(64, 2048), (64, 4096), (256, 1024)]}
"""Batches and contexts that a row of `DECODE` is timed at, by the batch it holds up to."""
PREFILL_STEPS = {64: [(64, 2048)], tables.ANY: [(2048, 2048), (2048, 8192)]}
"""Rows and contexts that a row of `PREFILL` is timed at, by the rows it holds up to."""

PRODUCTS = [(4096, 4096), (4096, 28672), (14336, 4096)]
PRODUCT_ROWS = {16: [1, 16], 64: [32, 64], product_tables.ANY: [32, 64]}
"""Rows that a row of `WNA16` or `W8A8` is timed at, by the rows it holds up to; int8 has more."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step to be timed: requests of equal length.

    Attributes:
        requests, rows, context: how many, rows of each, and the tokens they end.
    """

    requests: int
    rows: int
    context: int

    def batch(self, num_blocks: int) -> AttentionBatch:
        """The step with blocks dealt at random."""
        width = -(-self.context // BLOCK_SIZE)
        blocks = torch.randperm(num_blocks - 1)[: self.requests * width] + 1
        rows = torch.arange(self.context - self.rows, self.context).repeat(self.requests)
        counts = torch.arange(self.requests + 1, dtype=torch.int32) * self.rows
        return AttentionBatch(
            query_start=counts.to(DEVICE),
            seq_lens=torch.full((self.requests,), self.context, dtype=torch.int32, device=DEVICE),
            positions=rows.to(DEVICE),
            block_table=blocks.view(self.requests, width).int().to(DEVICE),
            slot_mapping=torch.full((self.requests * self.rows,), -1, device=DEVICE),
            max_query_len=self.rows,
            max_seq_len=self.context,
            query_lens_host=[self.rows] * self.requests,
            seq_lens_host=[self.context] * self.requests,
        )

    def work(self, elements: Elements, dim: int) -> tuple[float, float]:
        """Bytes of K and V that it must read, and floating-point operations that it must do."""
        seen = self.rows * (self.context - (self.rows - 1) / 2)
        cached = self.requests * self.context * KV_HEADS * dim * 2 * elements.value[1]
        return cached, 4.0 * self.requests * seen * KV_HEADS * RATIO * dim


class Bench:
    """A backend for one kind of elements and head size, with caches enough to outlast the L2 cache."""

    def __init__(self, elements: Elements, dim: int) -> None:
        self.elements, self.dim = elements, dim
        dtype, cached = DTYPES[elements]
        spec = CacheSpec(kind=CacheKind.FULL, num_kv_heads=KV_HEADS, head_dim=dim, dtype=cached)
        need = AttentionNeed(
            device=DEVICE, dtype=dtype, cache=spec, num_q_heads=KV_HEADS * RATIO, block_size=BLOCK_SIZE
        )
        reason = TritonAttention.reject(need)
        if reason is not None:
            sys.exit(f"error: attention.triton {reason}")
        self.backend = TritonAttention(
            AttentionInit(
                need=need, device=DEVICE, max_num_seqs=256, max_num_batched_tokens=8192, max_model_len=8192
            )
        )
        self.dtype = getattr(torch, dtype)
        self.layer = AttentionLayer(
            index=0, num_q_heads=KV_HEADS * RATIO, num_kv_heads=KV_HEADS, head_dim=dim, scale=dim**-0.5
        )

    def time(self, step: Step) -> float:
        """Median seconds of attention (not of planning) in this step."""
        l2 = torch.cuda.get_device_properties(DEVICE).L2_cache_size
        read, _ = step.work(self.elements, self.dim)
        copies = max(1, min(8, round(4 * l2 / read)))
        num_blocks = step.requests * -(-step.context // BLOCK_SIZE) + 1
        caches = []
        for _ in range(copies):
            cache = {}
            for name, tensor in self.backend.kv_layout(num_blocks).tensors.items():
                values = torch.randn(tensor.shape, device=DEVICE, dtype=self.dtype)
                cache[name] = values.to(getattr(torch, tensor.dtype))
            caches.append(cache)
        plan = self.backend.plan(step.batch(num_blocks))
        rows, heads = step.requests * step.rows, KV_HEADS * RATIO
        q = torch.randn(rows, heads, self.dim, device=DEVICE, dtype=self.dtype)
        k, v = (torch.randn(rows, KV_HEADS, self.dim, device=DEVICE, dtype=self.dtype) for _ in range(2))

        def run() -> None:
            for cache in caches:
                self.backend.forward(q, k, v, cache, plan, self.layer)

        run()
        torch.cuda.synchronize()
        milliseconds: float = triton.testing.do_bench_cudagraph(run, return_mode="median")
        return milliseconds / 1e3 / copies


def neighbours(config: Any, choices: Mapping[str, list[int]]) -> Iterator[Any]:
    """The config, and all that differ from it in values among `choices`."""
    names = [field.name for field in fields(config) if field.name in choices]
    yield config
    for values in itertools.product(*(choices[name] for name in names)):
        other = replace(config, **dict(zip(names, values, strict=True)))
        if other != config:
            yield other


class Timed(Protocol):
    """What takes a table's parameters and times a step with them."""

    def time(self, step: Any) -> float:
        """Median seconds."""
        ...


def fastest(
    bench: Timed, row: dict[Any, Any], key: Any, configs: Iterator[Any], steps: list[Any]
) -> tuple[Any, list[float]]:
    """The config with the least sum of times, each relative to those of the table's own, and its times."""
    own = row[key]
    best, best_score, best_times, base = own, float("inf"), [0.0] * len(steps), [1.0] * len(steps)
    for config in configs:
        row[key] = config
        try:
            times = [bench.time(step) for step in steps]
        except (
            triton.runtime.errors.OutOfResources,
            triton.CompilationError,
            torch.OutOfMemoryError,
        ) as error:
            print(f"#   left out {config}: {type(error).__name__}", file=sys.stderr)
            continue
        if config == own:
            base = times
        score = sum(time / first for time, first in zip(times, base, strict=True))
        if score < best_score:
            best, best_score, best_times = config, score, times
    row[key] = best
    return best, best_times


def tune_decode(dim: int | None) -> None:
    """Print `DECODE`."""
    print("DECODE: dict[DecodeKey, DecodeConfig] = {")
    for key, config in list(tables.DECODE.items()):
        if dim not in (None, key.dim):
            continue
        # First what a program is, then how the work is cut: the two hardly touch.
        shapes = {"tile": [16, 32, 64, 128], "warps": [2, 4, 8], "stages": [1, 2, 3, 5]}
        cuts = {"waves": [2, 4, 8, 16], "min_chunk": [64, 128, 256, 512]}
        steps = [
            Step(requests, 1, context)
            for requests, context in DECODE_STEPS[key.batch if key.batch == 8 else tables.ANY]
        ]
        bench = Bench(key.elements, key.dim)
        found, _ = fastest(bench, tables.DECODE, key, neighbours(config, shapes), steps)
        found, times = fastest(bench, tables.DECODE, key, neighbours(found, cuts), steps)
        rates = [
            step.work(key.elements, key.dim)[0] / time / 1e9 for step, time in zip(steps, times, strict=True)
        ]
        print(
            f"    {name_of(key)}: {found!r},  # {', '.join(f'{rate:.0f} GB/s' for rate in rates)}", flush=True
        )
    print("}")


def tune_prefill(dim: int | None) -> None:
    """Print `PREFILL`."""
    print("PREFILL: dict[PrefillKey, PrefillConfig] = {")
    for key, config in list(tables.PREFILL.items()):
        if dim not in (None, key.dim):
            continue
        choices = {
            "block_m": [16, 32, 64, 128],
            "tile": [16, 32, 64, 128],
            "warps": [4, 8],
            "stages": [1, 2, 3, 4],
        }
        steps = [
            Step(1, rows, context)
            for rows, context in PREFILL_STEPS[key.rows if key.rows == 64 else tables.ANY]
        ]
        bench = Bench(key.elements, key.dim)
        found, times = fastest(bench, tables.PREFILL, key, neighbours(config, choices), steps)
        rates = [
            step.work(key.elements, key.dim)[1] / time / 1e12 for step, time in zip(steps, times, strict=True)
        ]
        print(
            f"    {name_of(key)}: {found!r},  # {', '.join(f'{rate:.0f} TFLOP/s' for rate in rates)}",
            flush=True,
        )
    print("}")


@dataclass(frozen=True, slots=True)
class Product:
    """A product to be timed.

    Attributes:
        rows, inputs, outputs: its size.
    """

    rows: int
    inputs: int
    outputs: int


class ProductBench:
    """Weights of one kind in every size of `PRODUCTS`, enough of each to outlast the L2 cache.

    Args:
        dtype: of activations.
        bits: of a code, 4 or 8.
        activation: how activations are quantized, None for `wna16`.
    """

    def __init__(self, dtype: torch.dtype, bits: int, activation: Any = None) -> None:
        need = KernelsNeed(device=DEVICE, dtype=str(dtype).removeprefix("torch."))
        reason = TritonKernels.reject(need)
        if reason is not None:
            sys.exit(f"error: kernels.triton {reason}")
        kernels = TritonKernels(KernelsInit(need=need, device=DEVICE))
        pack, self.product = kernels.pack_wna16, kernels.wna16_linear
        if activation is not None:
            pack, self.product = kernels.pack_w8a8, kernels.w8a8_linear
        l2 = torch.cuda.get_device_properties(DEVICE).L2_cache_size
        self.dtype = dtype
        self.packed = {
            (inputs, outputs): [
                pack(weight(inputs, outputs, bits, activation))
                for _ in range(max(1, min(32, round(4 * l2 / (inputs * outputs * bits / 8)))))
            ]
            for inputs, outputs in PRODUCTS
        }

    def time(self, step: Product) -> float:
        """Median seconds of one product."""
        packed = self.packed[step.inputs, step.outputs]
        x = torch.randn(step.rows, step.inputs, device=DEVICE, dtype=self.dtype)

        def run() -> None:
            for one in packed:
                self.product(x, one)

        run()
        torch.cuda.synchronize()
        milliseconds: float = triton.testing.do_bench_cudagraph(run, return_mode="median")
        return milliseconds / 1e3 / len(packed)


def weight(inputs: int, outputs: int, bits: int, activation: Any) -> QuantizedWeight:
    """Random codes: groups of 128 with zero points; a scale for each output if activations are quantized."""
    groups = inputs // 128 if activation is None else 1
    codes = torch.randint(1 << bits, (inputs, outputs), dtype=torch.uint8, device=DEVICE)
    return QuantizedWeight(
        codes=codes if activation is None else codes.view(torch.int8),
        bits=bits,
        scales=torch.rand(groups, outputs, device=DEVICE).half(),
        zeros=torch.randint(1 << bits, (groups, outputs), device=DEVICE) if activation is None else None,
        activation=activation,
    )


def tune_products(name: str, _: int | None) -> None:
    """Print `WNA16` or `W8A8`."""
    table = getattr(product_tables, name)
    print(f"{name}: Table = {{")
    shapes = {"columns": [32, 64, 128, 256], "warps": [2, 4, 8], "stages": [2, 3, 4, 5]}
    cuts = {"rows": [16, 32, 64, 128], "waves": [1, 2, 4, 8], "fewest": [1, 2, 4, 8]}
    for (element, most), config in list(table.items()):
        if name == "W8A8":
            bench = ProductBench(torch.bfloat16, 8, "int8_per_token")
            rows = PRODUCT_ROWS[most] if most <= 64 else [128, 1024]
        else:
            bench = ProductBench({2: torch.bfloat16, 4: torch.float32}[element], 4)
            rows = PRODUCT_ROWS[most]
        steps = [Product(count, *size) for size in PRODUCTS for count in rows]
        found, _times = fastest(bench, table, (element, most), neighbours(config, shapes), steps)
        found, times = fastest(bench, table, (element, most), neighbours(found, cuts), steps)
        bound = "ANY" if most == product_tables.ANY else most
        took = ", ".join(f"{1e6 * time:.1f}" for time in times)
        print(f"    ({element}, {bound}): {found!r},  # {took} us", flush=True)
    print("}")


def tune_dequantize(_: int | None) -> None:
    """Print `DEQUANTIZE_ABOVE`: the most rows at which products of all sizes together are faster unpacked."""
    found = {}
    for bits in list(product_tables.DEQUANTIZE_ABOVE):
        bench, found[bits] = ProductBench(torch.bfloat16, bits), 0
        for rows in (16, 32, 48, 64, 96, 128, 192, 256):
            steps = [Product(rows, *size) for size in PRODUCTS]
            product_tables.DEQUANTIZE_ABOVE[bits] = product_tables.ANY
            unpacked = sum(bench.time(step) for step in steps)
            product_tables.DEQUANTIZE_ABOVE[bits] = 0
            dequantized = sum(bench.time(step) for step in steps)
            print(
                f"#   {bits} bits, {rows} rows: {dequantized / unpacked:.2f} times the time", file=sys.stderr
            )
            if unpacked > dequantized:
                break
            found[bits] = rows
    print(f"DEQUANTIZE_ABOVE = {found}")


def name_of(key: DecodeKey | PrefillKey) -> str:
    """The key as the table spells it."""
    bound = "ANY" if key[2] == tables.ANY else str(key[2])
    return f"{type(key).__name__}(_{key.elements.name}, {key.dim}, {bound})"


TABLES: dict[str, Callable[[int | None], None]] = {
    "decode": tune_decode,
    "prefill": tune_prefill,
    "wna16": partial(tune_products, "WNA16"),
    "w8a8": partial(tune_products, "W8A8"),
    "dequantize": tune_dequantize,
}


def main() -> int:
    """Tune what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("table", nargs="?", choices=sorted(TABLES), help="which to tune; all if not given")
    parser.add_argument("--dim", type=int, choices=(64, 128, 256), help="padded head size; all if not given")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"error: PyTorch {torch.__version__} sees no CUDA GPU to tune on", file=sys.stderr)
        return 1
    print(f"# {torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    for name in [arguments.table] if arguments.table else sorted(TABLES):
        TABLES[name](arguments.dim)
    return 0


if __name__ == "__main__":
    sys.exit(main())
