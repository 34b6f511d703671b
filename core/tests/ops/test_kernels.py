"""Both kernels of the core pass the conformance suite."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops import Kernels
from quire.ops.torch_cpu import TorchCpuKernels, padded_rows
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


def test_torch_cpu_meets_few_numbers_of_rows_and_pads_little() -> None:
    padded = {rows: padded_rows(rows) for rows in range(8193)}
    assert len(set(padded.values())) < 96  # oneDNN keeps a primitive for each, in every shape
    assert all(rows <= wide <= rows + rows // 8 for rows, wide in padded.items())


@pytest.mark.parametrize("shape", [(17, 16), (3, 11, 16), (33, 16), (1, 16)])
def test_torch_cpu_gives_back_the_rows_it_was_given(shape: tuple[int, ...]) -> None:
    kernels = TorchCpuKernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
    weight, x = torch.randn(24, 16), torch.randn(*shape)
    out = kernels.linear(x, kernels.pack_linear(weight))
    torch.testing.assert_close(out, x @ weight.T)
