"""AutoGPTQ: writes GPTQ checkpoints as the older ones on the hub are. Runs where auto-gptq is installed."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import torch
from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
from auto_gptq.nn_modules.qlinear.qlinear_cuda import QuantLinear

from checkpoint_recipes.reference import tensors
from checkpoint_recipes.variants import Variant


def write(variant: Variant, source: Path, target: Path, samples: list[list[int]]) -> dict[str, torch.Tensor]:
    """Quantize and save; returns module name -> dequantized weight `[out, in]`."""
    config = BaseQuantizeConfig(**variant.settings)
    examples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples]
    # It asks for CUDA, and does nothing that a CPU could not do.
    with (
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.synchronize"),
        mock.patch("auto_gptq.modeling._base.CUDA_0", torch.device("cpu")),
    ):
        model = AutoGPTQForCausalLM.from_pretrained(str(source), config, torch_dtype=torch.float16)
        model.quantize(examples, cache_examples_on_gpu=False)
    model.save_quantized(str(target))
    return _dequantized(target, config.bits, config.group_size)


def _dequantized(directory: Path, bits: int, group_size: int) -> dict[str, torch.Tensor]:
    """The tool's own product with the unit matrix, its scales in fp32."""
    stored = tensors(directory)
    found = {}
    for name in [key.removesuffix(".qweight") for key in stored if key.endswith(".qweight")]:
        parts = {part: stored[f"{name}.{part}"] for part in ("qweight", "qzeros", "scales", "g_idx")}
        inputs, outputs = len(parts["g_idx"]), parts["scales"].shape[1]
        linear = QuantLinear(bits, group_size, inputs, outputs, bias=False)
        linear.load_state_dict(parts)
        found[name] = linear.float()(torch.eye(inputs)).t().contiguous()
    return found
