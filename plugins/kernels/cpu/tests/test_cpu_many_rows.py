"""Prompts so long that each thread computes rows of its own: right, and within the scratch memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from quire.contracts import DecoderLayerParts, Quantization
from quire.layers import Unquantized
from quire.testing.decoder_layer import TOLERANCES, TwoLayers
from quire.testing.runner import PagedRunner
from quire.testing.wna16_projections import OrderedWna16Projections, Wna16Projections
from quire_attn_cpu.backend import CpuAttention
from quire_kernels_cpu.kernels import CpuKernels
from quire_native_cpu import available

pytestmark = pytest.mark.skipif(not available(), reason="nothing was compiled")

_GUARD = 4096
_ROUND = {"hidden_size": 64, "head_dim": 32, "intermediate_size": 96}
"""Sizes with which gates meet what they gate before they are stored."""


class Unfused(CpuKernels):
    def decoder_layer(self, parts: DecoderLayerParts) -> None:
        return None


class Guarded:
    """Scratch memory of exactly the size that was asked for, with a mark behind it."""

    def __init__(self) -> None:
        self.given: list[torch.Tensor] = []

    def take(self, size: int) -> torch.Tensor:
        self.given.append(torch.full((size + _GUARD,), 0xAB, dtype=torch.uint8))
        return self.given[-1]


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("rows", [512, 513, 515, 767])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("quantization", "config"),
    [(Unquantized, {}), (OrderedWna16Projections, {}), (Wna16Projections, _ROUND)],
)
def test_a_long_prompt_is_as_it_is_operation_by_operation(
    rows: int, dtype: torch.dtype, quantization: type[Quantization], config: dict[str, int]
) -> None:
    results = []
    guarded = Guarded()
    for kernels in (CpuKernels, Unfused):
        runner = PagedRunner(
            TwoLayers,
            config,
            None,
            attention_class=CpuAttention,
            kernels_class=kernels,
            quantization_class=quantization,
            num_blocks=256,
            max_model_len=1024,
            dtype=dtype,
        )
        layers: Any = runner.model.layers  # type: ignore[attr-defined]
        assert all((layer.fused is not None) == (kernels is CpuKernels) for layer in layers)
        for layer in layers:
            if layer.fused is not None:
                layer.fused._scratch = guarded
        runner.add("a", [(7 * position) % 31 for position in range(rows)])
        results.append(runner.run({"a": rows})["a"].double())
    assert guarded.given
    assert all(bool((one[-_GUARD:] == 0xAB).all()) for one in guarded.given)
    torch.testing.assert_close(*results, atol=TOLERANCES[dtype], rtol=TOLERANCES[dtype])
