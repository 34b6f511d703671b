"""4-bit checkpoints of a bf16 one's weights, in the layouts of AutoAWQ and AutoGPTQ, rounded to the nearest.

No way to quantize a model that is to be used, but who computes with it takes as long. Only projections of
the decoder layers are packed, as the tools do it: embedding, head and norms stay as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from quire_quant_awq.testing import pack_gemm, quantize
from quire_quant_gptq.testing import Variant

GROUP_SIZES = (128, 64)
"""That engines read: the first that divides the inputs of every projection is taken."""


def awq_tensors(weight: torch.Tensor, group_size: int) -> Mapping[str, torch.Tensor]:
    """A projection `[N, K]` in the gemm layout, with zero points: tensors by suffix."""
    made = quantize(weight, group_size)
    return pack_gemm(made.codes, made.zeros, made.scales)


def awq_settings(group_size: int) -> dict[str, Any]:
    """`quantization_config` as AutoAWQ writes it."""
    return {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group_size,
        "zero_point": True,
        "version": "gemm",
        "modules_to_not_convert": None,
    }


def gptq_tensors(weight: torch.Tensor, group_size: int) -> Mapping[str, torch.Tensor]:
    """A projection `[N, K]`, symmetric, inputs in their own order: tensors by suffix."""
    return Variant(group_size=group_size, sym=True).encode(weight)[0]


def gptq_settings(group_size: int) -> dict[str, Any]:
    """`quantization_config` as AutoGPTQ writes it."""
    return {
        "quant_method": "gptq",
        "bits": 4,
        "group_size": group_size,
        "sym": True,
        "desc_act": False,
        "static_groups": False,
        "true_sequential": True,
        "damp_percent": 0.01,
        "lm_head": False,
        "checkpoint_format": "gptq",
    }


Pack = Callable[[torch.Tensor, int], Mapping[str, torch.Tensor]]
Settings = Callable[[int], dict[str, Any]]

FORMATS: dict[str, tuple[Pack, Settings]] = {
    "awq": (awq_tensors, awq_settings),
    "gptq": (gptq_tensors, gptq_settings),
}
"""How a projection is packed, and what config.json says of it."""


def common_group_size(inputs: Iterable[int]) -> int:
    """The group size of a checkpoint whose projections have so many inputs each.

    Raises:
        ValueError: none divides them all.
    """
    sizes = set(inputs)
    for group_size in GROUP_SIZES:
        if all(size % group_size == 0 for size in sizes):
            return group_size
    raise ValueError(f"Projections of {sorted(sizes)} inputs divide into groups of none of {GROUP_SIZES}.")


def write_packed(source: Path, target: Path, form: str) -> None:
    """Write the checkpoint in `source`, a single file of safetensors, once more in a form of `FORMATS`.

    Files of weights are written last: a directory that has them is complete.
    """
    pack, settings = FORMATS[form]
    tensors = load_file(source / "model.safetensors")
    projections = [name for name in tensors if name.endswith("_proj.weight")]
    group_size = common_group_size(tensors[name].shape[1] for name in projections)
    for name in projections:
        module = name.removesuffix("weight")
        packed = pack(tensors.pop(name), group_size)
        tensors |= {module + suffix: tensor.contiguous() for suffix, tensor in packed.items()}
    target.mkdir(exist_ok=True)
    for path in source.glob("*.json"):
        (target / path.name).write_bytes(path.read_bytes())
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = settings(group_size)
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    partial = target / "model.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.rename(target / "model.safetensors")
