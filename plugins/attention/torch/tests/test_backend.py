"""The reference backend passes the conformance suite, and what only it promises."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from quire.contracts import AttentionBackend, AttentionBatch, AttentionNeed, CacheKind, CacheSpec
from quire.testing.attention import SHAPES, AttentionSuite
from quire.testing.attention_rig import AttentionRig, Shape
from quire_attn_torch import backend, metadata
from quire_attn_torch.backend import TorchAttention


class TestTorchAttention(AttentionSuite):
    dtypes: Sequence[str] = ("float32", "float16", "bfloat16")

    @pytest.fixture
    def backend_class(self) -> type[AttentionBackend]:
        return TorchAttention


@pytest.mark.parametrize("name", ["plain", "window-cap"])
def test_groups_and_slices_of_any_size_give_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "_BIAS_ELEMENTS", 0)
    monkeypatch.setattr(metadata, "_GROUP_TOKENS", 40)
    monkeypatch.setattr(backend, "_SCORE_ELEMENTS", 512)
    rig = AttentionRig(TorchAttention, SHAPES[name], device="cpu", dtype="float32", num_blocks=200)
    sequences = [rig.add(total) for total in (64, 60, 58, 40)]
    rig.check(sequences, [20, 41, 1, 3])
    rig.check(sequences, [40, 18, 1, 3])


def test_padding_stays_within_its_bound() -> None:
    lengths = [3, 500, 8, 90, 400, 17, 460, 20]
    rig = AttentionRig(TorchAttention, Shape(), device="cpu", dtype="float32", num_blocks=400)
    sequences = [rig.add(length) for length in lengths]
    for sequence, length in zip(sequences, lengths, strict=True):
        sequence.computed = length - 1
    plan = rig.backend.plan(rig.batch(sequences, [1] * len(lengths)))
    assert isinstance(plan, metadata.StepMetadata)
    groups = plan.grouping(None).groups
    padded = sum(group.requests * group.length for group in groups)
    needed = sum(-(-length // 16) * 16 for length in lengths)
    assert padded - needed <= len(groups) * metadata._GROUP_OVERHEAD
    assert len(groups) < len(lengths)


def test_cache_rows_beyond_int32_are_indexed() -> None:
    block, block_size, kv_heads = 2**31 - 1, 16, 8
    batch = AttentionBatch(
        query_start=torch.tensor([0, 1], dtype=torch.int32),
        seq_lens=torch.tensor([3], dtype=torch.int32),
        positions=torch.tensor([2]),
        block_table=torch.tensor([[block]], dtype=torch.int32),
        slot_mapping=torch.tensor([block * block_size + 2]),
        max_query_len=1,
        max_seq_len=3,
        query_lens_host=[1],
        seq_lens_host=[3],
    )
    plan = metadata.StepMetadata(batch, block_size, kv_heads, 1, torch.float32)
    assert plan.targets.tolist() == [(block * kv_heads + head) * block_size + 2 for head in range(kv_heads)]
    (group,) = plan.grouping(None).groups
    assert group.blocks.tolist() == [block * kv_heads + head for head in range(kv_heads)]


@pytest.mark.parametrize(
    ("kind", "dtype", "q_heads", "reason"),
    [
        (CacheKind.RECURRENT, "float32", 4, "recurrent"),
        (CacheKind.LATENT, "float32", 4, "latent"),
        (CacheKind.FULL, "float8_e4m3fn", 4, "float8_e4m3fn"),
        (CacheKind.FULL, "float32", 3, "do not divide"),
    ],
)
def test_rejects_with_a_reason(kind: CacheKind, dtype: str, q_heads: int, reason: str) -> None:
    cache = CacheSpec(kind=kind, num_kv_heads=2, head_dim=8, dtype=dtype)
    need = AttentionNeed(device="cpu", dtype="float32", cache=cache, num_q_heads=q_heads, block_size=16)
    assert reason in str(TorchAttention.reject(need))
