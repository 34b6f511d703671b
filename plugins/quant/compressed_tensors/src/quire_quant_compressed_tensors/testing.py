"""Writes modules as the format has them, by its published description alone, slowly. For tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from quire.contracts import TensorHeader

_DTYPES = {
    torch.int8: "I8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A module's tensors by suffix, and the weight they stand for, `[N, K]` fp32."""

    tensors: Mapping[str, torch.Tensor]
    weight: torch.Tensor


def words(fields: torch.Tensor, bits: int) -> torch.Tensor:
    """`[R, F]` -> `[R, ceil(F * bits / 32)]` int32: a row is a stream, its first field in the lowest bits."""
    rows = []
    for row in fields.tolist():
        stream = sum(field << (bits * place) for place, field in enumerate(row))
        count = -(-len(row) * bits // 32)
        parts = [(stream >> (32 * place)) & 0xFFFFFFFF for place in range(count)]
        rows.append([part - (1 << 32) if part >> 31 else part for part in parts])
    return torch.tensor(rows, dtype=torch.int32)


def pack(
    weight: torch.Tensor,
    *,
    bits: int,
    group_size: int | None,
    symmetric: bool = True,
    order: torch.Tensor | None = None,
    scale_dtype: torch.dtype = torch.float16,
) -> Stored:
    """`pack-quantized`: round to the nearest.

    Args:
        weight: `[N, K]`.
        bits: of a code.
        group_size: inputs per scale; None for all.
        symmetric: without zero points.
        order: `[K]`, the group of each input; None if groups are in order.
        scale_dtype: what scales are stored in.
    """
    outputs, inputs = weight.shape
    size = inputs if group_size is None else group_size
    index = torch.arange(inputs) // size if order is None else order
    lowest, highest = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    scales = torch.empty(outputs, inputs // size, dtype=scale_dtype)
    zeros = torch.zeros(outputs, inputs // size, dtype=torch.int64)
    codes = torch.empty(outputs, inputs, dtype=torch.int64)
    for group in range(inputs // size):
        part = weight[:, index == group].float()
        low, high = part.amin(1).clamp_max(0), part.amax(1).clamp_min(0)
        span = 2 * torch.maximum(-low, high) if symmetric else high - low
        scales[:, group] = (span / (highest - lowest)).clamp_min(1e-4).to(scale_dtype)
        scale = scales[:, group].float()
        if not symmetric:
            zeros[:, group] = (lowest - low / scale).round().clamp(lowest, highest).long()
        rounded = (part / scale.unsqueeze(1)).round().long() + zeros[:, group].unsqueeze(1)
        codes[:, index == group] = rounded.clamp(lowest, highest)
    tensors = {
        "weight_packed": words(codes - lowest, bits),
        "weight_scale": scales,
        "weight_shape": torch.tensor([outputs, inputs]),
    }
    if not symmetric:
        tensors["weight_zero_point"] = words((zeros - lowest).t(), bits).t().contiguous()
    if order is not None:
        tensors["weight_g_idx"] = order.int()
    return Stored(tensors, (codes - zeros[:, index]) * scales.float()[:, index])


def plain(
    weight: torch.Tensor, dtype: torch.dtype, *, per_tensor: bool = False, input_scale: float | None = None
) -> Stored:
    """`int-quantized` (int8) and `float-quantized` (float8_e4m3fn).

    Args:
        weight: `[N, K]`.
        dtype: of the codes.
        per_tensor: one scale for all outputs.
        input_scale: of static activations.
    """
    largest = 127.0 if dtype == torch.int8 else torch.finfo(dtype).max
    peak = weight.float().abs().amax() if per_tensor else weight.float().abs().amax(1, keepdim=True)
    scale = (peak / largest).clamp_min(1e-8)
    codes = weight.float() / scale
    stored = codes.round().to(dtype) if dtype == torch.int8 else codes.to(dtype)
    tensors = {"weight": stored, "weight_scale": scale.reshape(1) if per_tensor else scale}
    if input_scale is not None:
        tensors["input_scale"] = torch.tensor([input_scale])
    return Stored(tensors, stored.float() * scale)


def settings(
    weights: Mapping[str, Any], activations: Mapping[str, Any] | None = None, **others: object
) -> dict[str, Any]:
    """A `quantization_config` of one group for every projection.

    Args:
        weights: of the group.
        activations: `input_activations` of the group.
        others: beside the groups.
    """
    group = {"targets": ["Linear"], "weights": dict(weights), "input_activations": activations}
    found = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, "ignore": ["lm_head"]}
    return {**found, **others}


def per_token(kind: str) -> dict[str, Any]:
    """`input_activations` in 8 bits of a kind ("int", "float"), scaled token by token as they come."""
    return {"num_bits": 8, "type": kind, "symmetric": True, "dynamic": True, "strategy": "token"}


def static() -> dict[str, Any]:
    """`input_activations` in FP8 with one scale for all tokens, which is stored."""
    return {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "strategy": "tensor"}


def headers_of(module: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorHeader]:
    """As a checkpoint would describe a module's tensors, by suffix."""
    return {
        f"{module}.{suffix}": TensorHeader(_DTYPES[tensor.dtype], tuple(tensor.shape), "model.safetensors")
        for suffix, tensor in tensors.items()
    }
