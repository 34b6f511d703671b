"""GPTQModel: writes GPTQ checkpoints, and symmetric AWQ ones. Runs where gptqmodel is installed."""

from __future__ import annotations

import os
from pathlib import Path

import torch

os.environ.setdefault(
    "GPTQMODEL_CPU_WORKERS", "2"
)  # its default is too few for itself where there are 2 cores

from gptqmodel import BACKEND, GPTQModel
from gptqmodel.quantization.awq.utils.packing_utils import dequantize_gemm
from gptqmodel.quantization.config import AWQConfig, GPTQConfig

from checkpoint_recipes.reference import settings, tensors
from checkpoint_recipes.variants import Variant


def write(variant: Variant, source: Path, target: Path, samples: list[list[int]]) -> dict[str, torch.Tensor]:
    """Quantize and save; returns module name -> dequantized weight `[out, in]`."""
    wanted = {**variant.settings, "offload_to_disk": False}
    awq = wanted.pop("awq", None)
    config = GPTQConfig(**wanted) if awq is None else AWQConfig(**wanted, format=awq)
    model = GPTQModel.load(str(source), config, device="cpu", dtype=torch.float16)
    model.quantize([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in samples], batch_size=1)
    model.save(str(target))
    return _dequantized_gptq(target) if awq is None else _dequantized_awq(target)


def _dequantized_gptq(directory: Path) -> dict[str, torch.Tensor]:
    model = GPTQModel.load(str(directory), device="cpu", backend=BACKEND.TORCH, dtype=torch.float16)
    found = {}
    for name, module in model.model.named_modules():
        if hasattr(module, "qweight"):
            module.scales = module.scales.float()
            # the class's, for the module's own has been compiled
            found[name] = type(module).dequantize_weight(module).float().t().contiguous()
    return found


def _dequantized_awq(directory: Path) -> dict[str, torch.Tensor]:
    stored, config = tensors(directory), settings(directory)
    return {
        name: dequantize_gemm(
            stored[f"{name}.qweight"],
            stored[f"{name}.qzeros"],
            stored[f"{name}.scales"].float(),
            config["bits"],
            config["group_size"],
        ).t()
        for name in (key.removesuffix(".qweight") for key in stored if key.endswith(".qweight"))
    }
