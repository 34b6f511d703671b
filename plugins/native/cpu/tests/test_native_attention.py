"""What attention's callers share in Python."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import AttentionBatch
from quire_native_cpu import available, load
from quire_native_cpu.attention import AttentionPlan, Shape
from quire_native_cpu.memory import Memory

pytestmark = pytest.mark.skipif(not available(), reason="nothing was compiled")


def batch(requests: int, context: int) -> AttentionBatch:
    blocks = -(-context // 16)
    return AttentionBatch(
        query_start=torch.arange(requests + 1, dtype=torch.int32),
        seq_lens=torch.full((requests,), context, dtype=torch.int32),
        positions=torch.full((requests,), context - 1),
        block_table=torch.arange(1, requests * blocks + 1, dtype=torch.int32).view(requests, blocks),
        slot_mapping=torch.full((requests,), -1),
        max_query_len=1,
        max_seq_len=context,
        query_lens_host=[1] * requests,
        seq_lens_host=[context] * requests,
    )


def test_plans_of_a_group_share_a_workspace_that_suffices_for_the_largest() -> None:
    memory = Memory()
    shape = Shape(block_size=16, q_heads=4, kv_heads=1, head_dim=64, dtype=1, layout=1)
    one = AttentionPlan(load(), shape, batch(1, 5000), memory)
    again = AttentionPlan(load(), shape, batch(1, 20), memory)
    assert one.address != again.address
    assert one.workspace == again.workspace
    size = load().calls.quire_attention_workspace
    assert size(again.address) < size(one.address) <= memory.take(0).numel()
