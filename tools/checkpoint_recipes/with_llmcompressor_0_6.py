"""llm-compressor 0.6, which still wrote groups in the order of activations. Runs where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors.quantized_compressors.pack_quantized import unpack_from_int32
from compressed_tensors.quantization import QuantizationConfig
from compressed_tensors.quantization.lifecycle.forward import dequantize
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier
from transformers import AutoModelForCausalLM

from checkpoint_recipes.reference import settings, tensors
from checkpoint_recipes.sources import LENGTH
from checkpoint_recipes.variants import Variant


def write(variant: Variant, source: Path, target: Path, samples: list[list[int]]) -> dict[str, torch.Tensor]:
    """Quantize and save; returns module name -> dequantized weight `[out, in]`."""
    groups = {"group_0": {"targets": ["Linear"], "weights": dict(variant.settings["weights"])}}
    model: Any = AutoModelForCausalLM.from_pretrained(source, torch_dtype=torch.float16)
    oneshot(
        model=model,
        dataset=Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples]),
        recipe=GPTQModifier(config_groups=groups, ignore=["lm_head"]),
        max_seq_length=LENGTH,
        num_calibration_samples=len(samples),
    )
    model.save_pretrained(target, save_compressed=True)
    return _dequantized(target)


def _dequantized(directory: Path) -> dict[str, torch.Tensor]:
    """By the format's own functions, scales in fp32; its decompressor refuses packed zero points."""
    config = QuantizationConfig.model_validate(settings(directory))
    args: Any = config.config_groups["group_0"].weights
    stored, found = tensors(directory), {}
    for name in (key.removesuffix(".weight_packed") for key in stored if key.endswith(".weight_packed")):
        shape = torch.Size(stored[f"{name}.weight_shape"].tolist())
        scale = stored[f"{name}.weight_scale"].float()
        zero = stored.get(f"{name}.weight_zero_point")
        if zero is not None:
            zero = unpack_from_int32(
                zero, args.num_bits, torch.Size([shape[0], scale.shape[1]]), packed_dim=0
            )
        codes = unpack_from_int32(stored[f"{name}.weight_packed"], args.num_bits, shape)
        found[name] = dequantize(codes, scale, zero, args, g_idx=stored[f"{name}.weight_g_idx"])
    return found
