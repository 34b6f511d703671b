"""The KV tensors: blocks are clean when they are given out, and clean ones are left alone."""

from __future__ import annotations

from typing import Any

import torch

from quire.contracts import (
    AttentionBackend,
    AttentionBatch,
    AttentionInit,
    AttentionNeed,
    CacheKind,
    CacheSpec,
    KVLayout,
    KVTensor,
)
from quire.plan import BlockCopy
from quire.runtime.kv_cache import KVCache


class Storage(AttentionBackend):
    """Two tensors a layer, one with the block in the second axis; attends to nothing."""

    def kv_layout(self, num_blocks: int) -> KVLayout:
        return KVLayout(
            {
                "k": KVTensor((num_blocks, 3), "float32"),
                "v": KVTensor((2, num_blocks), "float32", block_axis=1),
            }
        )

    def plan(self, batch: AttentionBatch) -> None:
        return None

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        raise NotImplementedError


def cache() -> KVCache:
    spec = CacheSpec(kind=CacheKind.FULL, num_kv_heads=1, head_dim=3, dtype="float32", window=None)
    need = AttentionNeed(device="cpu", dtype="float32", cache=spec, num_q_heads=1, block_size=1)
    init = AttentionInit(need=need, device="cpu", max_num_seqs=1, max_num_batched_tokens=1, max_model_len=4)
    return KVCache([Storage(init)], [0, 0], 5, "cpu")


def test_a_block_that_was_given_out_before_is_cleared_in_all_layers() -> None:
    kv = cache()
    kv.clear(0, [1, 2])
    for layer in kv.layers:
        layer["k"][1:] = torch.nan
        layer["v"][:, 1:] = torch.nan
    kv.clear(0, [2])
    for layer in kv.layers:
        assert layer["k"].isnan().all(1).tolist() == [False, True, False, True, True]
        assert layer["v"].isnan().all(0).tolist() == [False, True, False, True, True]
        assert not layer["k"][2].any()


def test_a_block_given_out_for_the_first_time_is_not_touched() -> None:
    kv = cache()
    before = kv.layers[0]["k"]._version
    kv.clear(0, [3, 4])
    assert kv.layers[0]["k"]._version == before
    assert not any(tensor.any() for layer in kv.layers for tensor in layer.values())


def test_copies_reach_all_layers() -> None:
    kv = cache()
    kv.clear(0, [1, 2])
    for number, layer in enumerate(kv.layers, start=1):
        layer["k"][1] = number
    kv.copy([BlockCopy(group=0, src=1, dst=2, num_tokens=3)])
    assert [float(layer["k"][2, 0]) for layer in kv.layers] == [1, 2]
