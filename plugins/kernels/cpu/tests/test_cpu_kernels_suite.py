"""The conformance kit over every instruction set that this machine has, with the attention they fuse with."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import AttentionBackend, AttentionInit, KernelsInit
from quire.ops import Kernels
from quire.testing.decoder_layer import VARIANTS, two_layers
from quire.testing.kernels import KernelsSuite
from quire_attn_cpu.backend import CpuAttention
from quire_attn_cpu.options import CpuAttentionOptions
from quire_kernels_cpu.decoder_layer import CpuDecoderLayer
from quire_kernels_cpu.kernels import CpuKernels
from quire_kernels_cpu.options import CpuKernelsOptions
from quire_native_cpu.library import available


@pytest.mark.parametrize("isa", available())
class TestCpuKernels(KernelsSuite):
    @pytest.fixture
    def kernels_class(self, isa: str) -> type[Kernels]:
        class OfThisSet(CpuKernels):
            def __init__(self, init: KernelsInit) -> None:
                options = CpuKernelsOptions(isa=isa)
                super().__init__(KernelsInit(need=init.need, device=init.device, options=options))

        return OfThisSet

    @pytest.fixture
    def attention_class(self, isa: str) -> type[AttentionBackend]:
        class OfThisSet(CpuAttention):
            def __init__(self, init: AttentionInit) -> None:
                super().__init__(_with(init, CpuAttentionOptions(isa=isa)))

        return OfThisSet

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_every_kind_of_layer_is_fused(
        self,
        kernels_class: type[Kernels],
        attention_class: type[AttentionBackend],
        device: str,
        variant: str,
    ) -> None:
        for dtype in (torch.float32, torch.bfloat16):
            model = two_layers(variant, attention_class, kernels_class, device, dtype).model
            assert all(isinstance(layer.fused, CpuDecoderLayer) for layer in model.layers)  # type: ignore[attr-defined]

    def test_phases_have_the_names_of_the_layers_projections(
        self, kernels_class: type[Kernels], attention_class: type[AttentionBackend], device: str
    ) -> None:
        runner = two_layers("int8", attention_class, kernels_class, device, torch.bfloat16)
        layer = runner.model.layers[0].fused  # type: ignore[attr-defined]
        assert isinstance(layer, CpuDecoderLayer)
        assert layer.phases() == {}
        layer.profile(True)
        runner.add("a", list(range(5)))
        runner.run({"a": 5})
        phases = layer.phases()
        projections = {"qkv_proj", "o_proj", "gate_up_proj+activation", "down_proj"}
        assert set(phases) == {"norm", "rotary", "attention", *projections}
        assert all(seconds > 0 for seconds in phases.values())
        assert not any(layer.phases().values())


def _with(init: AttentionInit, options: CpuAttentionOptions) -> AttentionInit:
    return AttentionInit(
        need=init.need,
        device=init.device,
        max_num_seqs=init.max_num_seqs,
        max_num_batched_tokens=init.max_num_batched_tokens,
        max_model_len=init.max_model_len,
        options=options,
    )
