"""Checkpoints of a packed format, each beside a float one of the weights that it stands for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from quire import LLM, SamplingParams
from quire.testing.model import save_random_checkpoint

from .conftest import BASE, random_prompt, save_byte_tokenizer

SHAPE = {
    **BASE,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
PROMPTS = [random_prompt(length, seed=length) for length in (3, 17, 40)]

Encode = Callable[[str, torch.Tensor], tuple[Mapping[str, torch.Tensor], torch.Tensor] | None]
"""Of a projection's name and its weight `[N, K]`: its tensors by suffix and the weight they stand for, or
None to leave it as it is."""


def write(
    directory: Path, family: str, encode: Encode, settings: Mapping[str, Any], **config: Any
) -> tuple[str, str]:
    """A random model of a family in the format, and in floats.

    Args:
        directory: an empty one.
        family: `model_type`.
        encode: the format.
        settings: `quantization_config`.
        config: of the model, beside `SHAPE`.

    Returns:
        The format's checkpoint, and the float one.
    """
    source, packed, dense = (directory / name for name in ("source", "packed", "dense"))
    save_random_checkpoint(source, {**SHAPE, **config, "model_type": family})
    save_byte_tokenizer(source)
    tensors: dict[str, torch.Tensor] = {}
    floats: dict[str, torch.Tensor] = {}
    for file in sorted(source.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            module = name.removesuffix(".weight")
            projection = module.endswith("_proj") or module == "lm_head"
            encoded = encode(module, tensor) if projection and name.endswith(".weight") else None
            if encoded is None:
                tensors[name] = floats[name] = tensor
            else:
                tensors |= {f"{module}.{suffix}": part.contiguous() for suffix, part in encoded[0].items()}
                floats[name] = encoded[1].contiguous()
    for target, content in ((packed, tensors), (dense, floats)):
        target.mkdir()
        save_file(content, target / "model.safetensors")
        for path in source.glob("*.json"):
            if not path.name.endswith(".index.json"):
                (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((packed / "config.json").read_text())
    (packed / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    return str(packed), str(dense)


def greedy(llm: LLM, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Sixteen tokens of each prompt, all in one batch."""
    params = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
    asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
    return [output.outputs[0].token_ids for output in llm.generate(asked, params, use_tqdm=False)]
