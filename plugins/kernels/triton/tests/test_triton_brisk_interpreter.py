"""What is interpreted briskly is what Triton's interpreter computes by itself."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed
from quire_kernels_triton.kernels import TritonKernels

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here")


def computed() -> list[torch.Tensor]:
    """Of kernels with integers, keys, two-dimensional blocks and branches."""
    kernels = TritonKernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
    logits = torch.randn(3, 700, generator=torch.Generator().manual_seed(1))
    top_k, top_p = torch.tensor([5, 700, 40]), torch.tensor([1.0, 0.7, 0.9], dtype=torch.float64)
    cut = kernels.apply_top_k_top_p(logits, top_k, top_p)
    drawn = kernels.draw_coupled(cut, torch.tensor([[1, 2], [3, 4], [5, 6]]))
    heads = logits[:, :640].reshape(3, 10, 64)
    turned = kernels.rotary(heads, heads, logits[:, :64], torch.tensor([2, 0, 1]))[0]
    return [cut, drawn, turned, kernels.rms_norm(logits.bfloat16(), logits[0].bfloat16(), 1e-5)]


def test_results_are_the_interpreters_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from triton.language import core

    quick = core.tensor.__init__
    brisk = computed()
    monkeypatch.undo()  # what the fixture changed
    assert core.tensor.__init__ is not quick
    for one, other in zip(brisk, computed(), strict=True):
        assert torch.equal(one, other)


def test_shapes_that_do_not_fit_are_refused() -> None:
    from triton.language import core
    from triton.runtime.interpreter import TensorHandle, interpreter_semantic

    def zeros(size: int) -> core.tensor:
        block = core.block_type(core.float32, [size])
        return core.tensor(TensorHandle(torch.zeros(size).numpy(), core.float32), block)

    assert interpreter_semantic.broadcast_impl_value(zeros(4), zeros(4))[0].type == zeros(4).type
    with pytest.raises(ValueError, match="incompatible dimensions"):
        interpreter_semantic.broadcast_impl_value(zeros(4), zeros(8))
    with pytest.raises(ValueError, match="power of 2"):
        zeros(3)
