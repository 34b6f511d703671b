"""Part `wna16`: products with weights of 4 bits beside the same in bf16, in the same run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from gpu_bench.aims import PRODUCTS
from gpu_bench.attention_kernels import captured
from gpu_bench.bench import Bench
from gpu_bench.record import Label
from quire.contracts import KernelsInit, KernelsNeed, QuantizedWeight
from quire.errors import PluginError
from quire.ops import Kernels
from quire.plugins import discover

GROUP = 128
ROUNDS = 60
ROWS = (1, 16, 64, 256)
BEYOND_CACHE = 4
"""Weights in turn hold as many times the device's last cache together."""

MOST_WEIGHTS = 64


@dataclass(frozen=True, slots=True)
class Weights:
    """One weight in every form, as often as it takes to outlast the cache.

    Attributes:
        kind: "W4A16" or "bf16".
        nbytes: of one.
        products: of x with each.
    """

    kind: str
    nbytes: int
    products: list[Callable[[torch.Tensor], torch.Tensor]]


def run(bench: Bench) -> None:
    """All sizes, all rows, both kinds.

    Raises:
        RuntimeError: there is a GPU, and the Triton kernels cannot run on it.
    """
    ours = kernels(bench.device)
    for inputs, outputs in ((256, 96),) if bench.toy else PRODUCTS:
        both = [plain(ours, inputs, outputs, bench), nibbles(ours, inputs, outputs, bench)]
        for rows in (1, 16) if bench.toy else ROWS:
            x = torch.randn(rows, inputs, device=bench.device).to(torch.bfloat16)
            base = None
            for weights in both:
                labels: dict[str, Label] = {
                    "product": f"{inputs} x {outputs}",
                    "rows": rows,
                    "kernel": weights.kind,
                }
                if bench.late:
                    bench.row(labels, note="left out: no time")
                    continue
                seconds = time(bench, weights, x)
                base = base or seconds
                bench.row(
                    labels,
                    {
                        "ms": 1e3 * seconds,
                        "gb_s": weights.nbytes / seconds / 1e9,
                        "copy": bench.share(seconds, weights.nbytes),
                        "ahead": base / seconds if weights.kind != "bf16" else None,
                    },
                )


def kernels(device: str) -> Kernels:
    """The Triton kernels; where there is no GPU and they are not interpreted, the reference."""
    need = KernelsNeed(device=device, dtype="bfloat16")
    registry, reason = discover(), "they are not installed"
    for plugin in registry.of_kind("kernels"):
        if plugin.spec.name == "triton":
            try:
                found: type[Kernels] = registry.load(plugin)
                refused = found.reject(need)
            except PluginError as error:
                refused = str(error)
            if refused is None:
                return found(KernelsInit(need=need, device=device))
            reason = refused
    if device == "cuda":
        raise RuntimeError(f"kernels.triton: {reason}")
    return Kernels(KernelsInit(need=need, device=device))


def time(bench: Bench, weights: Weights, x: torch.Tensor) -> float:
    """Median seconds of one product, as a CUDA graph on a GPU."""
    with torch.inference_mode():
        works = [partial(product, x) for product in weights.products]
        if bench.device == "cuda":
            return bench.median_seconds([captured(work) for work in works], ROUNDS)
        return bench.median_seconds([*works], 2)


def plain(ours: Kernels, inputs: int, outputs: int, bench: Bench) -> Weights:
    """bf16, by whatever multiplies an unquantized layer: cuBLAS on a GPU."""
    nbytes = 2 * inputs * outputs

    def one() -> Callable[[torch.Tensor], torch.Tensor]:
        dense = torch.randn(outputs, inputs, device=bench.device).to(torch.bfloat16)
        packed = ours.pack_linear(dense)
        return lambda x: ours.linear(x, packed)

    return Weights("bf16", nbytes, [one() for _ in range(copies(nbytes, bench))])


def nibbles(ours: Kernels, inputs: int, outputs: int, bench: Bench) -> Weights:
    """4 bits, with scales in fp16 and zero points of their own for every 128 rows."""
    groups = inputs // GROUP
    nbytes = inputs * outputs // 2 + groups * outputs * 3

    def one() -> Callable[[torch.Tensor], torch.Tensor]:
        def codes(*size: int) -> torch.Tensor:
            return torch.randint(16, size, dtype=torch.uint8, device=bench.device)

        scales = (torch.rand(groups, outputs, device=bench.device) + 0.5).half()
        weight = QuantizedWeight(
            codes=codes(inputs, outputs), bits=4, scales=scales, zeros=codes(groups, outputs)
        )
        packed = ours.pack_wna16(weight)
        return lambda x: ours.wna16_linear(x, packed)

    return Weights("W4A16", nbytes, [one() for _ in range(copies(nbytes, bench))])


def copies(nbytes: int, bench: Bench) -> int:
    """How many weights take turns, that none is found in L2."""
    wanted = -(-BEYOND_CACHE * bench.cache_bytes // nbytes) + 1
    return min(wanted, 2 if bench.toy else MOST_WEIGHTS)
