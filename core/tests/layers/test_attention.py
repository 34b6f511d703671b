from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from quire.contracts import CacheKind
from quire.layers import Attention, Build, Step

MakeBuild = Callable[..., Build]


def _run(attention: Attention, q: torch.Tensor, k: torch.Tensor) -> tuple[torch.Tensor, tuple[Any, ...]]:
    step = Step(metadata=["first", "second"], kv=[{"name": torch.zeros(1)}, {"name": torch.ones(1)}])
    out = attention(q, k, k, torch.arange(q.shape[0]), step)
    return out, attention.backend.calls[-1]  # type: ignore[attr-defined] # the tests' own backend


def test_layers_register_with_the_group_of_their_like(make_build: MakeBuild) -> None:
    build = make_build()
    for window in (None, 8, None, 8, 16):
        build.attention(4, 2, 8, window=window)
    assert [r.group for r in build.attention_layers] == [0, 1, 0, 1, 2]
    assert [r.layer.index for r in build.attention_layers] == [0, 1, 2, 3, 4]
    assert [r.cache.kind for r in build.attention_layers[:2]] == [CacheKind.FULL, CacheKind.SLIDING_WINDOW]
    assert build.attention_layers[0].backend is build.attention_layers[2].backend
    layer, _, cache, _ = build.attention_layers[4]
    assert (layer.window, cache.window, cache.dtype) == (16, 16, "float32")


def test_each_layer_reads_its_own_state(make_build: MakeBuild) -> None:
    build = make_build()
    build.attention(4, 2, 8)
    second = build.attention(4, 2, 8, window=8, scale=0.5, soft_cap=30.0)
    out, (q, k, _, kv, metadata, layer, rope) = _run(second, torch.randn(3, 32), torch.randn(3, 16))
    assert out.shape == (3, 32)
    assert (q.shape, k.shape) == ((3, 4, 8), (3, 2, 8))
    assert (kv["name"].item(), metadata, rope) == (1, "second", None)
    assert (layer.scale, layer.soft_cap) == (0.5, 30.0)


def test_scale_is_by_head_size(make_build: MakeBuild) -> None:
    assert make_build().attention(4, 2, 16).layer.scale == 0.25


@pytest.mark.parametrize("rotates", [False, True])
def test_rotary_is_applied_once(make_build: MakeBuild, rotates: bool) -> None:
    """By the kernels, or by a backend that says it does."""
    build = make_build(rotates=rotates)
    rotary = build.rotary(8)
    attention = build.attention(4, 2, 8, rotary=rotary)
    q, k = torch.randn(3, 4, 8), torch.randn(3, 2, 8)
    _, (seen_q, seen_k, *_, rope) = _run(attention, q, k)
    if rotates:
        assert rope is not None
        assert rope.cos_sin is rotary.cos_sin
        torch.testing.assert_close(seen_q, q)
    else:
        assert rope is None
        expected = build.kernels.rotary(q, k, rotary.cos_sin, torch.arange(3))
        torch.testing.assert_close(seen_q, expected[0])
        torch.testing.assert_close(seen_k, expected[1])


def test_heads_are_shared_out_and_kv_heads_replicated(make_build: MakeBuild) -> None:
    attention = make_build(rank=3, size=4).attention(8, 2, 16)
    assert (attention.layer.num_q_heads, attention.layer.num_kv_heads) == (2, 1)
    assert (attention.q_size, attention.kv_size) == (32, 16)
