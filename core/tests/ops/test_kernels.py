"""Both kernels of the core pass the conformance suite."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops import Kernels
from quire.ops.torch_cpu import TorchCpuKernels
from quire.testing.kernels import KernelsSuite


class TestReference(KernelsSuite):
    @pytest.fixture
    def kernels_class(self) -> type[Kernels]:
        return Kernels


class TestTorchCpu(KernelsSuite):
    @pytest.fixture
    def kernels_class(self) -> type[Kernels]:
        return TorchCpuKernels


def test_torch_cpu_rejects_other_devices() -> None:
    reason = TorchCpuKernels.reject(KernelsNeed(device="cuda", dtype="bfloat16"))
    assert reason == "runs on cpu, not on cuda"


def test_torch_cpu_rejects_a_build_without_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert "oneDNN" in str(TorchCpuKernels.reject(KernelsNeed(device="cpu", dtype="bfloat16")))


def test_torch_cpu_does_not_keep_the_original() -> None:
    need = KernelsNeed(device="cpu", dtype="float32")
    weight = torch.randn(24, 16)
    x = torch.randn(3, 16)
    kernels = TorchCpuKernels(KernelsInit(need=need, device="cpu"))
    packed = kernels.pack_linear(weight)
    expected = x @ weight.T
    weight.fill_(float("nan"))
    torch.testing.assert_close(kernels.linear(x, packed), expected)


@pytest.mark.parametrize(("dtype", "packs"), [("float32", True), ("float16", False), ("float64", False)])
def test_torch_cpu_packs_what_onednn_multiplies(dtype: str, packs: bool) -> None:
    kernels = TorchCpuKernels(KernelsInit(need=KernelsNeed(device="cpu", dtype=dtype), device="cpu"))
    weight = torch.randn(8, 8, dtype=getattr(torch, dtype))
    assert kernels.pack_linear(weight).weight.is_mkldnn == packs
