"""The family's layers in one call each, on kernels that have one: the same logits as transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from quire.contracts import DecoderLayerParts, FusedLayer, KernelsInit, ProjectionParts
from quire.layers import Step
from quire.ops import Kernels, PackedLinear
from quire.testing.model import assert_logits_equal, save_random_checkpoint
from quire.testing.runner import PagedRunner
from quire.weights.checkpoint import Checkpoint
from quire_attn_torch.backend import TorchAttention
from quire_models_llama.model import LlamaFamily

CONFIGS: dict[str, dict[str, Any]] = {
    "mistral": {"model_type": "mistral", "sliding_window": 9},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
}


class WholeLayers(Kernels):
    """Computes each layer in one function, from its parts alone."""

    def __init__(self, init: KernelsInit) -> None:
        super().__init__(init)
        self.layers: list[DecoderLayerParts] = []
        self.calls = 0

    def decoder_layer(self, parts: DecoderLayerParts) -> FusedLayer:
        self.layers.append(parts)

        def layer(
            x: torch.Tensor, residual: torch.Tensor | None, positions: torch.Tensor, step: Step
        ) -> tuple[torch.Tensor, torch.Tensor]:
            self.calls += 1
            stream = x if residual is None else x + residual
            normed = self.rms_norm(stream, parts.input_norm.weight, parts.input_norm.eps)
            x = self._attention(normed, positions, step, parts)
            x, stream = self.add_rms_norm(x, stream, parts.post_norm.weight, parts.post_norm.eps)
            joined = self.silu_and_mul(self._project(x, parts.mlp.gate_up))
            return self._project(joined, parts.mlp.down), stream

        return layer

    def _attention(
        self, x: torch.Tensor, positions: torch.Tensor, step: Step, layer: DecoderLayerParts
    ) -> torch.Tensor:
        parts, shape = layer.attention, layer.attention.layer
        heads = [shape.num_q_heads, shape.num_kv_heads, shape.num_kv_heads]
        rows = self._project(x, parts.qkv).view(len(x), -1, shape.head_dim)
        q, k, v = torch.split(rows, heads, dim=1)
        if parts.q_norm is not None and parts.k_norm is not None:
            q = self.rms_norm(q, parts.q_norm.weight, parts.q_norm.eps)
            k = self.rms_norm(k, parts.k_norm.weight, parts.k_norm.eps)
        assert parts.rope is not None
        q, k = self.rotary(q, k, parts.rope.cos_sin, positions, interleaved=parts.rope.interleaved)
        out = parts.backend.forward(q, k, v, step.kv[shape.index], step.metadata[parts.group], shape)
        return self._project(out.flatten(1), parts.out)

    def _project(self, x: torch.Tensor, parts: ProjectionParts) -> torch.Tensor:
        (packed,) = parts.packed
        assert isinstance(packed, PackedLinear)
        return self.linear(x, packed)


@pytest.mark.parametrize("family", CONFIGS)
def test_fused_layers_give_the_logits_of_transformers(family: str, tmp_path: Path) -> None:
    sizes = {
        "vocab_size": 101,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    reference = save_random_checkpoint(tmp_path, {**sizes, **CONFIGS[family]})
    runner = PagedRunner(
        LlamaFamily,
        reference.config,
        Checkpoint(reference.directory),
        attention_class=TorchAttention,
        kernels_class=WholeLayers,
    )
    kernels = runner.build.kernels
    assert isinstance(kernels, WholeLayers)
    assert [parts.attention.layer.index for parts in kernels.layers] == [0, 1]
    assert [parts.attention.native for parts in kernels.layers] == [None, None]
    ids = reference.prompts["prompt33"]
    runner.add("a", ids)
    logits = torch.cat([runner.run({"a": count})["a"] for count in (20, 12, 1)])
    assert_logits_equal(logits, reference.logits(ids))
    assert kernels.calls == 3 * 2
