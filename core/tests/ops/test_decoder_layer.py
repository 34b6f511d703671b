"""A toy plugin that fuses whole layers passes the suite; one that is wrong anywhere does not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from quire.contracts import (
    AttentionBackend,
    AttentionLayer,
    AttentionParts,
    DecoderLayerParts,
    NormParts,
    ProjectionParts,
)
from quire.layers import Step
from quire.ops import Kernels, PackedLinear
from quire.testing.decoder_layer import VARIANTS, DecoderLayerChecks
from quire.testing.kernels import KernelsSuite
from quire.testing.plain_attention import PlainAttention


@dataclass(frozen=True)
class Handle:
    """What the toy kernels and their backend agree on: a function that attends."""

    attend: Callable[..., torch.Tensor]


class HandyAttention(PlainAttention):
    """A backend with a native handle."""

    def native(self, layer: AttentionLayer) -> Handle:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, step: Step, group: int) -> torch.Tensor:
            return self.forward(q, k, v, step.kv[layer.index], step.metadata[group], layer)

        return Handle(attend)


class FusedKernels(Kernels):
    """Fuses layers on `HandyAttention` whose activation it knows, from the packed weights alone."""

    def decoder_layer(self, parts: DecoderLayerParts) -> Fused | None:
        known = isinstance(parts.attention.native, Handle) and parts.mlp.activation == "silu"
        attention, mlp = parts.attention, parts.mlp
        packed = [*attention.qkv.packed, *attention.out.packed, *mlp.gate_up.packed, *mlp.down.packed]
        plain = all(isinstance(one, PackedLinear) for one in packed)
        return Fused(parts) if known and plain else None


class Fused:
    """The layer in one function, written without the kernels' operations."""

    def __init__(self, parts: DecoderLayerParts) -> None:
        self.parts = parts

    def __call__(
        self, x: torch.Tensor, residual: torch.Tensor | None, positions: torch.Tensor, step: Step
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = self.parts
        stream = x if residual is None else x + residual
        out = _project(self.attend(_norm(stream, parts.input_norm), positions, step), parts.attention.out)
        stream = stream + out
        gate, up = _project(_norm(stream, parts.post_norm), parts.mlp.gate_up).chunk(2, dim=-1)
        return _project(F.silu(gate) * up, parts.mlp.down), stream

    def attend(self, x: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
        parts = self.parts.attention
        layer, head_dim = parts.layer, parts.layer.head_dim
        heads = [layer.num_q_heads, layer.num_kv_heads, layer.num_kv_heads]
        q, k, v = torch.split(_project(x, parts.qkv).view(len(x), -1, head_dim), heads, dim=1)
        q = q if parts.q_norm is None else _norm(q, parts.q_norm)
        k = k if parts.k_norm is None else _norm(k, parts.k_norm)
        q, k = (_rotate(one, positions, parts) for one in (q, k))
        assert isinstance(parts.native, Handle)
        return parts.native.attend(q, k, v, step, parts.group).flatten(1)


def _norm(x: torch.Tensor, parts: NormParts) -> torch.Tensor:
    return F.rms_norm(x.float(), x.shape[-1:], eps=parts.eps).to(x.dtype) * parts.weight


def _project(x: torch.Tensor, parts: ProjectionParts) -> torch.Tensor:
    assert parts.all_reduce is None
    outs = []
    for packed in parts.packed:
        assert isinstance(packed, PackedLinear)
        outs.append(F.linear(x, packed.weight, packed.bias))
    return torch.cat(outs, dim=-1)


def _rotate(x: torch.Tensor, positions: torch.Tensor, parts: AttentionParts) -> torch.Tensor:
    if parts.rope is None:
        return x
    cos, sin = parts.rope.cos_sin[positions].unsqueeze(1).chunk(2, dim=-1)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


class TestFusedKernels(KernelsSuite):
    @pytest.fixture
    def kernels_class(self) -> type[Kernels]:
        return FusedKernels

    @pytest.fixture
    def attention_class(self) -> type[AttentionBackend]:
        return HandyAttention


class ForgetsTheStream(Fused):
    def __call__(self, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        x, residual = super().__call__(*args)
        return x, residual * 0.99


class WritesToItsInput(Fused):
    def __call__(self, x: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        out = super().__call__(x, *args)
        x.mul_(2)
        return out


class KeepsOtherKeys(Fused):
    def attend(self, x: torch.Tensor, positions: torch.Tensor, step: Step) -> torch.Tensor:
        out = super().attend(x, positions, step)
        step.kv[self.parts.attention.layer.index]["k"].mul_(1.01)
        return out


@pytest.mark.parametrize("fused", [ForgetsTheStream, WritesToItsInput, KeepsOtherKeys])
def test_the_suite_finds_what_is_wrong(fused: type[Fused]) -> None:
    class Wrong(Kernels):
        def decoder_layer(self, parts: DecoderLayerParts) -> Fused:
            return fused(parts)

    with pytest.raises(AssertionError):
        _check(Wrong, HandyAttention, "gqa")


@pytest.mark.parametrize(
    ("variant", "compares"), [(name, "gelu" not in name and "int8" not in name) for name in VARIANTS]
)
def test_a_layer_is_fused_only_if_the_kernels_take_it(variant: str, compares: bool) -> None:
    if compares:
        _check(FusedKernels, HandyAttention, variant)
    else:
        with pytest.raises(pytest.skip.Exception, match="fuse no such layer"):
            _check(FusedKernels, HandyAttention, variant)
    with pytest.raises(pytest.skip.Exception, match="fuse no such layer"):
        _check(FusedKernels, PlainAttention, variant)  # it has no native handle


def _check(kernels: type[Kernels], attention: type[AttentionBackend], variant: str) -> None:
    DecoderLayerChecks().test_a_fused_decoder_layer_equals_the_unfused_one(
        kernels, attention, "cpu", [torch.float32], variant
    )
