"""A build over the reference kernels and plain weights, on no backend or a recorded one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from quire.contracts import (
    AttentionBackend,
    AttentionBatch,
    AttentionInit,
    AttentionLayer,
    AttentionNeed,
    CacheSpec,
    KernelsInit,
    KernelsNeed,
    KVLayout,
    QuantizationInit,
    QuantizationNeed,
    Rope,
    TensorHeader,
    Weight,
    WeightMapping,
)
from quire.layers import AttentionGroups, Build, ParallelGroup, Unquantized
from quire.ops import Kernels

MAPPING = WeightMapping(
    stacked={"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
)


class EchoAttention(AttentionBackend):
    """Keeps nothing; returns q and remembers what it was called with."""

    calls: list[tuple[Any, ...]]

    def kv_layout(self, num_blocks: int) -> KVLayout:
        return KVLayout({})

    def plan(self, batch: AttentionBatch) -> Any:
        return batch

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        kv: Mapping[str, torch.Tensor],
        metadata: Any,
        layer: AttentionLayer,
        rope: Rope | None = None,
    ) -> torch.Tensor:
        self.calls.append((q, k, v, kv, metadata, layer, rope))
        return q


class EchoRotaryAttention(EchoAttention):
    """The same, but says it rotates by itself."""

    applies_rotary = True


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def kernels() -> Kernels:
    return Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))


class Summed(ParallelGroup):
    """A worker whose collectives do nothing: the test joins the parts by hand."""

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def all_gather(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture
def make_build(kernels: Kernels) -> Callable[..., Build]:
    """`make_build(config, rank=, size=, rotates=, headers=)`."""

    def make(
        config: Mapping[str, Any] | None = None,
        *,
        rank: int = 0,
        size: int = 1,
        rotates: bool = False,
        headers: Mapping[str, TensorHeader] | None = None,
        max_model_len: int = 32,
    ) -> Build:
        groups = AttentionGroups()
        backends: list[EchoAttention] = []

        def attention(
            cache: CacheSpec, num_q_heads: int, soft_cap: float | None
        ) -> tuple[int, AttentionBackend]:
            group = groups.add(cache, num_q_heads, soft_cap)
            if group == len(backends):
                need = AttentionNeed(
                    device="cpu", dtype="float32", cache=cache, num_q_heads=num_q_heads, block_size=4
                )
                init = AttentionInit(
                    need=need, device="cpu", max_num_seqs=4, max_num_batched_tokens=32, max_model_len=32
                )
                backend = (EchoRotaryAttention if rotates else EchoAttention)(init)
                backend.calls = []
                backends.append(backend)
            return group, backends[group]

        quantization = Unquantized(
            QuantizationInit(
                need=QuantizationNeed(device="cpu", dtype="float32"),
                headers=headers or {},
                kernels=kernels,
                device="cpu",
            )
        )
        return Build(
            config=config or {},
            kernels=kernels,
            quantization=quantization,
            attention=attention,
            mapping=MAPPING,
            max_model_len=max_model_len,
            parallel=ParallelGroup() if size == 1 else Summed(rank, size),
        )

    return make


@pytest.fixture
def fill() -> Callable[..., None]:
    """`fill(weights, tensors)`: what the loader does, from tensors in memory."""

    def fill(weights: list[Weight], tensors: Mapping[str, torch.Tensor]) -> None:
        for weight in weights:
            if weight.name in tensors:
                assert tensors[weight.name].shape == weight.shape
                part = tensors[weight.name][tuple(slice(s.start, s.stop) for s in weight.take)]
                assert part.shape == weight.target.shape
                weight.target.copy_(part)
            else:
                assert not weight.required, weight.name

    return fill
