"""llm-compressor: writes compressed-tensors checkpoints. Runs where llmcompressor is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from checkpoint_recipes.reference import Activation, settings, tensors
from checkpoint_recipes.sources import LENGTH
from checkpoint_recipes.variants import Variant


def write(variant: Variant, source: Path, target: Path, samples: list[list[int]]) -> dict[str, torch.Tensor]:
    """Quantize and save; returns module name -> dequantized weight `[out, in]`."""
    wanted = dict(variant.settings)
    modifier = GPTQModifier if wanted.pop("gptq") else QuantizationModifier
    ignore = wanted.pop("ignore", ["lm_head"])
    if "preset" in wanted:
        recipe = modifier(targets="Linear", scheme=wanted["preset"], ignore=ignore)
    else:
        groups = wanted.get("groups") or {"group_0": {"targets": ["Linear"], "weights": wanted["weights"]}}
        recipe = modifier(config_groups=groups, ignore=ignore)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16)
    oneshot(
        model=model,
        dataset=Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples]),
        recipe=recipe,
        max_seq_length=LENGTH,
        num_calibration_samples=len(samples),
    )
    model.save_pretrained(target, save_compressed=True)
    return _dequantized(target)


def activations(directory: Path) -> dict[str, Activation]:
    """Module name -> what the format does to its input: quantized (by its static scale, if any), and back."""
    found: dict[str, Activation] = {}
    stored = tensors(directory)
    for name, scheme in _schemes(directory).items():
        if scheme.input_activations is not None:
            found[name] = _fake(scheme.input_activations, stored.get(f"{name}.input_scale"))
    return found


def _fake(args: Any, static: torch.Tensor | None) -> Activation:
    def change(x: torch.Tensor) -> torch.Tensor:
        if static is None:
            scale, zero = compute_dynamic_scales_and_zp(value=x, args=args, module=nn.Identity())
        else:
            scale, zero = static.float(), None
        changed: torch.Tensor = fake_quantize(x, scale, zero, args)
        return changed

    return change


def _dequantized(directory: Path) -> dict[str, torch.Tensor]:
    """By the format's own decompressor, its scales in fp32."""
    stored, found = tensors(directory), {}
    parts = ("weight", "weight_packed", "weight_scale", "weight_zero_point", "weight_shape")
    for name, scheme in _schemes(directory).items():
        state = {part: stored[f"{name}.{part}"] for part in parts if f"{name}.{part}" in stored}
        state["weight_scale"] = state["weight_scale"].float()
        kind = scheme.format or infer_module_format(nn.Linear, scheme)
        compressor = BaseCompressor.get_value_from_registry(getattr(kind, "value", kind))
        found[name] = compressor.decompress(state, scheme)["weight"]
    return found


def _schemes(directory: Path) -> dict[str, Any]:
    """Module name -> scheme, of the modules that are quantized."""
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig.from_pretrained(directory))
    apply_quantization_config(model, QuantizationConfig.model_validate(settings(directory)))
    modules = model.named_modules()
    found = {name: getattr(module, "quantization_scheme", None) for name, module in modules}
    return {name: scheme for name, scheme in found.items() if scheme is not None}
