"""The hook describes the backend; without FlashInfer it is listed with the reason; what it does not serve."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version

import pytest
import torch

import quire_attn_flashinfer
from quire import requirements
from quire.cli import main
from quire.contracts import AttentionNeed, CacheKind, CacheSpec
from quire_attn_flashinfer import availability
from quire_attn_flashinfer.backend import FlashInferAttention

CACHE = CacheSpec(kind=CacheKind.FULL, num_kv_heads=2, head_dim=128, dtype="bfloat16")
NEED = AttentionNeed(device="cuda", dtype="bfloat16", cache=CACHE, num_q_heads=4, block_size=16)
LACKS = "needs flashinfer-python, which is not installed: pip install 'flashinfer-python>=0.6'"


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if FlashInfer were not installed."""

    def without(name: str) -> str:
        if name == "flashinfer-python":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(requirements, "version", without)
    monkeypatch.setattr(availability, "find_spec", lambda name: None)


@pytest.fixture
def on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if FlashInfer and a GPU were here."""
    monkeypatch.setattr(availability, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))


def test_the_hook_describes_the_backend() -> None:
    (spec,) = quire_attn_flashinfer.quire_attention_backends()
    assert (spec.name, spec.api, spec.devices) == ("flashinfer", 1, frozenset({"cuda"}))
    assert spec.target == "quire_attn_flashinfer.backend:FlashInferAttention"
    assert spec.requires == ("flashinfer-python>=0.6",)


def test_importing_the_plugin_imports_nothing_heavy() -> None:
    code = "import sys, quire_attn_flashinfer; sys.exit(bool({'torch', 'flashinfer'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_asking_does_not_import_flashinfer() -> None:
    code = "import sys, quire_attn_flashinfer.backend; sys.exit('flashinfer' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("absent")
def test_without_flashinfer_it_is_listed_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "quire-attn-flashinfer" in line]
    assert LACKS in row
    assert main(["doctor", "tiny", "--device", "cpu"]) == 0  # no problem, as long as nobody asks for it
    assert f"rejected  quire-attn-flashinfer:flashinfer: {LACKS}" in capsys.readouterr().out


@pytest.mark.usefixtures("absent")
def test_without_flashinfer_it_cannot_be_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "tiny", "--device", "cpu", "--attention-backend", "flashinfer"]) == 1
    reason = f"attention 'flashinfer' was asked for and cannot be used: {LACKS}"
    assert reason in capsys.readouterr().out


@pytest.mark.usefixtures("absent")
def test_without_flashinfer_it_rejects_every_need() -> None:
    reason = "FlashInfer is not installed: pip install 'flashinfer-python>=0.6'"
    assert FlashInferAttention.reject(NEED) == reason


@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("block_size", [1, 16, 128])
@pytest.mark.parametrize(("window", "soft_cap"), [(None, None), (4096, 30.0)])
def test_serves_what_it_says(
    dtype: str, head_dim: int, block_size: int, window: int | None, soft_cap: float | None
) -> None:
    kind = CacheKind.FULL if window is None else CacheKind.SLIDING_WINDOW
    cache = CacheSpec(kind=kind, num_kv_heads=2, head_dim=head_dim, dtype=dtype, window=window)
    need = replace(NEED, dtype=dtype, cache=cache, block_size=block_size, soft_cap=soft_cap)
    assert FlashInferAttention.reject(need) is None


@pytest.mark.usefixtures("on_hopper")
@pytest.mark.parametrize(
    ("need", "reason"),
    [
        (replace(NEED, deterministic=True), "is not deterministic: how a row's keys are split varies"),
        (replace(NEED, dtype="float32"), "computes in float16, bfloat16, not in float32"),
        (replace(NEED, cache=replace(CACHE, kind=CacheKind.LATENT)), "keeps K and V, not latent state"),
        (
            replace(NEED, cache=replace(CACHE, dtype="float8_e4m3fn")),
            "stores K and V in the compute dtype, bfloat16, not in float8_e4m3fn",
        ),
        (replace(NEED, cache=replace(CACHE, head_dim=80)), "heads have 64, 128, 256 elements, not 80"),
        (replace(NEED, num_q_heads=5), "5 query heads do not divide over 2 KV heads"),
        (replace(NEED, device="cpu"), "runs on CUDA GPUs, not on a cpu"),
    ],
)
def test_rejects_with_a_reason(need: AttentionNeed, reason: str) -> None:
    assert reason in str(FlashInferAttention.reject(need))


@pytest.mark.usefixtures("on_hopper")
def test_needs_a_gpu_that_is_new_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    reason = "needs a GPU of compute capability 8.0 or later, not 7.5"
    assert FlashInferAttention.reject(NEED) == reason
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert str(FlashInferAttention.reject(NEED)).endswith("sees no CUDA GPU")
