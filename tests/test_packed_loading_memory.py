"""What loading a packed checkpoint takes of the host's memory: the packed weights, never expanded."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tests.test_loading_memory import CONFIG, loaded

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of resident memory from /proc"),
]

GROUP, SHARDS = 128, 4


def write(directory: Path, **changes: Any) -> tuple[int, int]:
    """A GPTQ checkpoint of 4 bits in several files.

    Returns:
        Bytes of its largest file, and of its projections in bf16.
    """
    config = {**CONFIG, **changes}
    hidden, wide, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    layers = config["num_hidden_layers"]
    settings = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False}
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    tensors: dict[str, torch.Tensor] = {}
    dense = 0
    for layer in range(layers):
        inside = f"model.layers.{layer}."
        modules = {f"self_attn.{name}_proj": (hidden, hidden) for name in "qkvo"}
        modules |= {f"mlp.{name}_proj": (hidden, wide) for name in ("gate", "up")}
        modules["mlp.down_proj"] = (wide, hidden)
        for name, (inputs, outputs) in modules.items():
            groups = inputs // GROUP
            tensors |= {
                f"{inside}{name}.qweight": torch.randint(1 << 31, (inputs // 8, outputs), dtype=torch.int32),
                f"{inside}{name}.qzeros": torch.full((groups, outputs // 8), 0x77777777, dtype=torch.int32),
                f"{inside}{name}.scales": torch.full((groups, outputs), 1e-3, dtype=torch.float16),
                f"{inside}{name}.g_idx": torch.arange(inputs, dtype=torch.int32) // GROUP,
            }
            dense += 2 * inputs * outputs
        for norm in ("input", "post_attention"):
            tensors[f"{inside}{norm}_layernorm.weight"] = torch.ones(hidden, dtype=torch.float16)
    tensors["model.norm.weight"] = torch.ones(hidden, dtype=torch.float16)
    for table in ("model.embed_tokens", "lm_head"):
        tensors[f"{table}.weight"] = torch.zeros(vocab, hidden, dtype=torch.float16)
    names, largest = list(tensors), 0
    each = math.ceil(len(names) / SHARDS)
    for shard in range(SHARDS):
        held = {name: tensors[name] for name in names[shard * each :][:each]}
        save_file(held, directory / f"model-{shard}.safetensors")
        largest = max(largest, sum(one.nbytes for one in held.values()))
    return largest, dense


@pytest.mark.parametrize("kernels", ["reference", "cpu"])
def test_packed_weights_are_never_expanded_whole(kernels: str, tmp_path: Path) -> None:
    """Whatever kernels keep of it, the peak is that and less than a file more."""
    write(tmp_path / "small", num_hidden_layers=1)
    shard, dense = write(tmp_path / "model")
    rise, weights = loaded("cpu", kernels, (tmp_path / "small", tmp_path / "model", shard))
    assert weights + shard < dense  # else the bound would say nothing
    assert 0.5 * weights < rise < weights + shard
