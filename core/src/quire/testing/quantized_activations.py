"""What quantized activations are, in fp64: the arithmetic that kernels and formats are held to."""

from __future__ import annotations

import torch

_LARGEST = {"int8_per_token": 127.0, "fp8_per_token": 448.0, "fp8_static": 448.0}
_DOUBT = 1e-3
"""Share of a value by which its quotient may be off before another code is taken."""


def quantized_and_back(
    x: torch.Tensor, activation: str | None, input_scale: torch.Tensor | None = None
) -> torch.Tensor:
    """`[..., K]` -> what its codes stand for, fp64; by the definition of `QuantizedWeight.activation`."""
    wide = x.double()
    if activation is None:
        return wide
    scale = _scale(wide, activation, input_scale)
    return _codes(wide / scale, activation) * scale


def settled(x: torch.Tensor, activation: str, input_scale: torch.Tensor | None = None) -> torch.Tensor:
    """x with zeros in place of what lies about half way between two codes.

    Whether a kernel divides by the scale or multiplies with its reciprocal, and in fp32 either way: each
    element that is left has one right code, and products of the codes can be compared closely.
    """
    wide = x.double()
    quotient = wide / _scale(wide, activation, input_scale)
    low, high = (_codes(quotient * (1 + side * _DOUBT), activation) for side in (-1, 1))
    return torch.where(low == high, x, torch.zeros_like(x))


def _scale(wide: torch.Tensor, activation: str, input_scale: torch.Tensor | None) -> torch.Tensor:
    if input_scale is not None:
        return input_scale.double()
    largest = wide.abs().amax(-1, keepdim=True)
    return torch.where(largest == 0, 1.0, largest / _LARGEST[activation])


def _codes(quotient: torch.Tensor, activation: str) -> torch.Tensor:
    largest = _LARGEST[activation]
    quotient = quotient.clamp(-largest, largest)
    if activation == "int8_per_token":
        return quotient.round()
    return quotient.to(torch.float8_e4m3fn).double()
