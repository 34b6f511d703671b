"""Ragged batches, long contexts, shared prefixes against dense attention; what else the backend promises."""

from __future__ import annotations

import ctypes
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.contracts import (
    AttentionBackend,
    AttentionInit,
    AttentionNeed,
    CacheKind,
    CacheSpec,
    KernelsInit,
    KernelsNeed,
    Rope,
)
from quire.errors import PluginError
from quire.ops import Kernels
from quire.testing.attention_rig import AttentionRig, Request, Shape
from quire_attn_cpu import backend as backend_module
from quire_attn_cpu.backend import CpuAttention
from quire_attn_cpu.options import CpuAttentionOptions
from quire_native_cpu import UnavailableError, available, load
from quire_native_cpu.attention import AttentionPlan

pytestmark = pytest.mark.skipif(not available(), reason="nothing was compiled")

ISAS = available()
DTYPES = ("bfloat16", "float32")


def on(isa: str) -> type[CpuAttention]:
    """The backend on one instruction set."""

    class OnInstructionSet(CpuAttention):
        def __init__(self, init: AttentionInit) -> None:
            super().__init__(replace(init, options=CpuAttentionOptions(isa=isa)))

    return OnInstructionSet


def rig_of(isa: str, shape: Shape, dtype: str, seed: int = 0, deterministic: bool = False) -> AttentionRig:
    """A rig whose rotary table reaches as far as its blocks."""
    rig = AttentionRig(
        on(isa), shape, device="cpu", dtype=dtype, num_blocks=600, seed=seed, deterministic=deterministic
    )
    angles = torch.randn(4096, shape.head_dim // 2, generator=torch.Generator().manual_seed(0))
    rig.rope = Rope(torch.cat((angles.cos(), angles.sin()), dim=-1))
    return rig


def counts(plan: object) -> tuple[int, int, int]:
    """A plan's tasks, merges and partial results."""
    assert isinstance(plan, AttentionPlan)
    result = (ctypes.c_int64 * 3)()
    load().calls.quire_attention_counts(plan.address, ctypes.addressof(result))
    return result[0], result[1], result[2]


def share(rig: AttentionRig, owner: Request, tokens: int, total: int) -> Request:
    """A request of `total` tokens whose first `tokens` are the owner's, and in its blocks."""
    blocks = tokens // rig.shape.block_size
    own = rig.add(total - tokens)
    q, k, v = (torch.cat((getattr(owner, name)[:tokens], getattr(own, name))) for name in ("q", "k", "v"))
    return Request(q, k, v, [*owner.blocks[:blocks], *own.blocks], computed=tokens)


@pytest.mark.parametrize("isa", ISAS)
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_ragged_batches_equal_dense_attention(isa: str, data: st.DataObject) -> None:
    shape = Shape(
        kv_heads=data.draw(st.integers(1, 2)),
        ratio=data.draw(st.sampled_from([1, 3, 4, 17])),
        head_dim=data.draw(st.sampled_from([12, 16, 32, 48, 64, 96])),
        block_size=data.draw(st.sampled_from([1, 3, 16, 32, 48])),
        window=data.draw(st.one_of(st.none(), st.integers(1, 200))),
        soft_cap=data.draw(st.sampled_from([None, 3.0])),
    )
    rig = rig_of(isa, shape, data.draw(st.sampled_from(DTYPES)), data.draw(st.integers(0, 99)))
    sequences = [rig.add(total) for total in data.draw(st.lists(st.integers(1, 140), min_size=1, max_size=4))]
    for _ in range(data.draw(st.integers(1, 3))):
        left = [sequence.q.shape[0] - sequence.computed for sequence in sequences]
        rig.check(sequences, [data.draw(st.integers(0, rows)) for rows in left])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 700])
def test_long_contexts_are_attended_in_parts(isa: str, dtype: str, window: int | None) -> None:
    rig = rig_of(isa, Shape(kv_heads=1, ratio=3, head_dim=32, window=window), dtype)
    long, short = rig.add(2500), rig.add(30)
    rig.run([long], [2498])
    rig.run([short], [20])
    if window is None:
        tasks, merges, _ = counts(rig.backend.plan(rig.batch([long, short], [1, 1])))
        assert tasks > 2
        assert merges == 1
    rig.check([long, short], [1, 1])
    rig.check([long, short], [1, 9])


@pytest.mark.parametrize("isa", ISAS)
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_shared_prefixes_equal_dense_attention(isa: str, data: st.DataObject) -> None:
    head_dim, block_size = data.draw(st.sampled_from([(32, 16), (20, 8), (16, 32)]))
    shape = Shape(
        kv_heads=1, ratio=data.draw(st.sampled_from([1, 3])), head_dim=head_dim, block_size=block_size
    )
    rig = rig_of(isa, shape, data.draw(st.sampled_from(DTYPES)))
    owner, stranger = rig.add(320), rig.add(150)
    rig.run([owner, stranger], [319, 149])
    prefixes = data.draw(st.lists(st.sampled_from([128, 160, 192, 256, 288]), min_size=1, max_size=7))
    heirs = [share(rig, owner, prefix, prefix + data.draw(st.integers(2, 60))) for prefix in prefixes]
    rig.run(heirs, [heir.q.shape[0] - heir.computed - 1 for heir in heirs])
    crowd = data.draw(st.permutations([owner, stranger, *heirs]))
    assert counts(rig.backend.plan(rig.batch(crowd, [1] * len(crowd))))[1] >= 1 + len(heirs)
    rig.check(crowd, [1] * len(crowd))


def test_a_shared_prefix_is_attended_once() -> None:
    rig = rig_of(ISAS[0], Shape(kv_heads=1, ratio=3, head_dim=32), "bfloat16")
    owner = rig.add(260)
    rig.run([owner], [259])
    heirs = [share(rig, owner, 256, 258) for _ in range(9)]
    rig.run(heirs, [1] * 9)
    _, merges, partials = counts(rig.backend.plan(rig.batch([owner, *heirs], [1] * 10)))
    assert merges == 10
    assert partials == 2 * 10 * 3  # each row's share of the prefix, and of its own rest


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [None, 1100])
def test_parts_of_long_contexts_have_the_same_bits_in_any_chunk(
    isa: str, dtype: str, window: int | None
) -> None:
    rig = rig_of(isa, Shape(kv_heads=1, ratio=2, head_dim=32, window=window), dtype, deterministic=True)
    subject, other = rig.add(2200), rig.add(2150)
    whole = rig.run([subject], [2200])[0]
    rig.run([other], [2149])
    for chunks in ([2199, 1], [1000, 1100, 92, 8], [2190, 4, 6]):
        subject.computed = 0
        for count in chunks:
            other.computed = 2149
            start = subject.computed
            out = rig.run([other, subject], [1, count])[1]
            assert torch.equal(out, whole[start : start + count])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("rotary_dim", [32, 24, 10])
def test_rotation_equals_the_reference(isa: str, dtype: str, interleaved: bool, rotary_dim: int) -> None:
    rig = rig_of(isa, Shape(head_dim=32), dtype)
    sequence = rig.add(50)
    angles = torch.randn(64, rotary_dim // 2)
    rope = Rope(torch.cat((angles.cos(), angles.sin()), dim=-1), interleaved)
    batch = rig.batch([sequence], [50])
    kernels = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype=dtype), device="cpu"))
    q, k = kernels.rotary(sequence.q, sequence.k, rope.cos_sin, batch.positions, interleaved=interleaved)
    before = sequence.q.clone()
    plan = rig.backend.plan(batch)
    out = rig.backend.forward(sequence.q, sequence.k, sequence.v, rig.kv, plan, rig.layer, rope)
    torch.testing.assert_close(
        out, rig.backend.forward(q, k, sequence.v, rig.kv, plan, rig.layer), atol=3e-2, rtol=3e-2
    )
    assert torch.equal(sequence.q, before)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("head_dim", [16, 20, 32])
@pytest.mark.parametrize("cascade", [False, True])
def test_bad_rows_spoil_no_others_in_their_tile(isa: str, head_dim: int, cascade: bool) -> None:
    rig = rig_of(isa, Shape(kv_heads=1, ratio=2, head_dim=head_dim), "bfloat16")
    good, bad = rig.add(300), rig.add(300)
    rig.run([good, bad], [298, 298])
    if cascade:
        bad = share(rig, good, 256, 300)
        rig.run([bad], [42])
    for tensor in (bad.q, bad.k, bad.v):
        tensor[298] = float("nan")
        tensor[299] = float("inf")
    outs = rig.run([bad, good], [2, 2])
    rig.close(outs[1], rig.expected(good, 298, 300))
    assert not outs[0].isfinite().any()


def test_plans_are_freed_and_workspaces_shared() -> None:
    rig = rig_of(ISAS[0], Shape(), "bfloat16")
    sequence = rig.add(20)
    batch = rig.batch([sequence], [20])
    first, second = rig.backend.plan(batch), rig.backend.plan(batch)
    assert isinstance(first, AttentionPlan)
    assert isinstance(second, AttentionPlan)
    assert first.address != second.address
    assert first.workspace == second.workspace
    assert first.workspace % 64 == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": CacheKind.LATENT}, "latent"),
        ({"dtype": "float16"}, "not in float16"),
        ({"head_dim": 513}, "512"),
        ({"num_kv_heads": 3}, "do not divide"),
    ],
)
def test_rejects_with_a_reason(changes: dict[str, object], reason: str) -> None:
    need = AttentionNeed(
        device="cpu",
        dtype="bfloat16",
        cache=CacheSpec(kind=CacheKind.FULL, num_kv_heads=2, head_dim=8, dtype="bfloat16"),
        num_q_heads=4,
        block_size=16,
    )
    assert CpuAttention.reject(need) is None
    cache = replace(need.cache, **changes)  # type: ignore[arg-type]
    assert reason in str(CpuAttention.reject(replace(need, cache=cache)))


def test_rejects_fp16() -> None:
    cache = CacheSpec(kind=CacheKind.FULL, num_kv_heads=2, head_dim=8, dtype="float16")
    need = AttentionNeed(device="cpu", dtype="float16", cache=cache, num_q_heads=4, block_size=16)
    assert CpuAttention.reject(need) == "computes in float32 and bfloat16, not in float16"


def test_says_why_there_is_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(name: str | None = None) -> None:
        raise UnavailableError(f"no {name} here")

    monkeypatch.setattr(backend_module, "load", unavailable)
    cache = CacheSpec(kind=CacheKind.FULL, num_kv_heads=2, head_dim=8, dtype="bfloat16")
    need = AttentionNeed(device="cpu", dtype="bfloat16", cache=cache, num_q_heads=4, block_size=16)
    assert CpuAttention.reject(need) == "no None here"
    backend: type[AttentionBackend] = on("avx2")
    with pytest.raises(PluginError, match=r"attention\.cpu: no avx2 here"):
        backend(
            AttentionInit(need=need, device="cpu", max_num_seqs=1, max_num_batched_tokens=1, max_model_len=1)
        )
