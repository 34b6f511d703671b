"""The hook describes the backend; the backend says what it does not serve, and where."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError

import pytest
import torch
import triton

import quire_attn_triton
from quire.contracts import AttentionNeed, CacheKind, CacheSpec
from quire_attn_triton import availability
from quire_attn_triton.backend import TritonAttention
from quire_attn_triton.work import FP8

CACHE = CacheSpec(kind=CacheKind.FULL, num_kv_heads=2, head_dim=128, dtype="bfloat16")
NEED = AttentionNeed(device="cuda", dtype="bfloat16", cache=CACHE, num_q_heads=4, block_size=16)


def test_the_hook_describes_the_backend() -> None:
    gpu, interpreted = quire_attn_triton.quire_attention_backends()
    assert (gpu.name, gpu.api, gpu.priority, gpu.devices) == ("triton", 1, 50, frozenset({"cuda"}))
    assert (interpreted.name, interpreted.devices) == ("triton-interpreted", frozenset({"cpu"}))
    assert interpreted.priority < 0
    assert {gpu.target, interpreted.target} == {"quire_attn_triton.backend:TritonAttention"}


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, quire_attn_triton; sys.exit(bool({'torch', 'triton'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_asking_imports_no_kernels() -> None:
    code = "import sys, quire_attn_triton.backend; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("cache", ["same", FP8])
@pytest.mark.parametrize("block_size", [16, 32, 64, 128])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 192, 256])
def test_serves_what_it_says(dtype: str, cache: str, block_size: int, head_dim: int) -> None:
    kept = replace(CACHE, dtype=dtype if cache == "same" else cache, head_dim=head_dim)
    assert TritonAttention.reject(replace(NEED, dtype=dtype, cache=kept, block_size=block_size)) is None


@pytest.mark.parametrize(
    ("need", "reason"),
    [
        (replace(NEED, deterministic=True), "is not deterministic: how a row's keys are split varies"),
        (replace(NEED, dtype="float64"), "computes in float32, float16, bfloat16, not in float64"),
        (replace(NEED, cache=replace(CACHE, kind=CacheKind.LATENT)), "keeps K and V, not latent state"),
        (replace(NEED, cache=replace(CACHE, dtype="int8")), "or in float8_e4m3fn, not in int8"),
        (replace(NEED, cache=replace(CACHE, head_dim=257)), "heads have up to 256 elements, not 257"),
        (replace(NEED, num_q_heads=5), "5 query heads do not divide over 2 KV heads"),
        (replace(NEED, num_q_heads=512), "up to 128 query heads share a KV head, not 256"),
        (replace(NEED, block_size=512), "blocks have up to 256 tokens, not 512"),
    ],
)
def test_rejects_with_a_reason(need: AttentionNeed, reason: str) -> None:
    assert reason in str(TritonAttention.reject(need))


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the interpreter were off."""
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)


@pytest.mark.usefixtures("compiled")
def test_needs_a_gpu_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "PyTorch" in str(TritonAttention.reject(NEED))
    assert str(TritonAttention.reject(NEED)).endswith("sees no CUDA GPU")
    reason = str(TritonAttention.reject(replace(NEED, device="cpu")))
    assert reason == "runs on CUDA GPUs, on a cpu only in Triton's interpreter (TRITON_INTERPRET=1)"


@pytest.mark.usefixtures("compiled")
def test_needs_a_gpu_that_is_new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    fp8 = replace(NEED, cache=replace(CACHE, dtype=FP8))
    for capability, plain, quantized in (
        ((7, 5), "needs a GPU of compute capability 8.0 or later, not 7.5", "8.0 or later, not 7.5"),
        ((8, 6), "None", "an fp8 cache needs compute capability 8.9 or later, not 8.6"),
        ((9, 0), "None", "None"),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert str(TritonAttention.reject(NEED)) == plain
        assert quantized in str(TritonAttention.reject(fp8))


def test_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(availability, "version", missing)
    assert TritonAttention.reject(NEED) == "Triton is not installed: pip install 'triton>=3.6' (Linux)"
    monkeypatch.setattr(availability, "version", lambda name: "3.5.1")
    assert TritonAttention.reject(NEED) == "needs Triton 3.6 or newer, not 3.5.1"
