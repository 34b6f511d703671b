"""Linear layers with quantized weights, in the normalised form `w = scale * (code - zero)`.

Knows `QuantizedWeight` and no file format. The reference keeps the codes and dequantizes in
every call: exact, and slow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quire.contracts import QuantizedWeight
from quire.errors import PluginError

_INT8_MAX = 127.0
_FP8_MAX = 448.0
"""Largest finite float8_e4m3fn (OCP 8-bit floating point specification, 1.0)."""
_SMALLEST_SCALE = 1e-30


@dataclass(frozen=True, slots=True)
class PackedQuantized:
    """A quantized layer's weights in the form its kernels want; opaque to everybody else.

    Attributes:
        data: whatever the kernels that packed it read.
        nbytes: memory held.
    """

    data: object
    nbytes: int


class QuantizedOps:
    """Weight-only (`wna16`) and weight-and-activation (`w8a8`) quantized layers."""

    def pack_wna16(self, weight: QuantizedWeight) -> PackedQuantized:
        """Prepare weights of 2 to 8 bits for `wna16_linear`, whose activations stay in floating point.

        Raises:
            PluginError: the weight asks for quantized activations, or its tensors do not fit together.
        """
        if weight.activation is not None:
            raise PluginError(
                f"pack_wna16 keeps activations as they are, but the weight asks for {weight.activation!r}: "
                "use pack_w8a8."
            )
        _check(weight)
        return PackedQuantized(weight, _nbytes(weight))

    def wna16_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        """`[..., K] -> [..., N]`, bias included, in x's dtype; multiplied in fp32."""
        weight = packed.data
        assert isinstance(weight, QuantizedWeight)
        return _multiply(x.float(), weight).to(x.dtype)

    def pack_w8a8(self, weight: QuantizedWeight) -> PackedQuantized:
        """Prepare weights for `w8a8_linear`, whose activations are quantized on the fly.

        Raises:
            PluginError: the weight names no activation scheme, or its tensors do not fit together.
        """
        if weight.activation is None:
            raise PluginError(
                "pack_w8a8 quantizes activations, but the weight names no scheme: use pack_wna16."
            )
        _check(weight)
        return PackedQuantized(weight, _nbytes(weight))

    def w8a8_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        """`[..., K] -> [..., N]`, bias included, in x's dtype.

        Each token (row) of x is scaled so that its largest magnitude is the largest code, rounded
        to int8 (half to even) or float8_e4m3fn, and multiplied with the dequantized weight in fp32.
        With a static scale, what is beyond the largest code becomes that code.
        """
        weight = packed.data
        assert isinstance(weight, QuantizedWeight)
        wide = x.float()
        if weight.input_scale is not None:
            return _multiply(fp8_codes(wide, weight.input_scale).float() * weight.input_scale, weight).to(
                x.dtype
            )
        largest = _INT8_MAX if weight.activation == "int8_per_token" else _FP8_MAX
        # A row of zeros has no scale of its own; any will do, as long as it is not zero.
        scale = (
            wide.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny * largest) / largest
        )
        codes = wide / scale  # [..., K]
        if weight.activation == "int8_per_token":
            codes = codes.round()
        else:
            codes = codes.to(torch.float8_e4m3fn).float()
        return _multiply(codes * scale, weight).to(x.dtype)


def fp8_codes(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """`[...]` fp32 by a static scale `[]`, as float8_e4m3fn of the same shape; NaN stays what it is."""
    return (x / scale).clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn)


def dequantize(weight: QuantizedWeight) -> torch.Tensor:
    """The weight that the codes stand for: `[K, N]` fp32, rows in the file's order."""
    codes = weight.codes.float()  # [K, N]
    groups = weight.scales.shape[0]
    index = weight.group_index
    if index is None:
        index = torch.arange(codes.shape[0], device=codes.device) // (codes.shape[0] // groups)
    index = index.long()  # [K]
    if weight.zeros is not None:
        codes = codes - weight.zeros.float()[index]
    return codes * weight.scales.float()[index]


def _multiply(x: torch.Tensor, weight: QuantizedWeight) -> torch.Tensor:
    """`[..., K] -> [..., N]` in fp32."""
    out = x @ dequantize(weight)
    return out if weight.bias is None else out + weight.bias.float()


def _nbytes(weight: QuantizedWeight) -> int:
    held = (weight.codes, weight.scales, weight.zeros, weight.group_index, weight.permutation, weight.bias)
    return sum(tensor.nbytes for tensor in (*held, weight.input_scale) if tensor is not None)


def _check(weight: QuantizedWeight) -> None:
    """Refuse tensors that do not fit together, naming the first that does not."""
    rows, columns = weight.codes.shape
    groups = weight.scales.shape[0]
    expected = {
        "scales": (weight.scales, (groups, columns)),
        "zeros": (weight.zeros, (groups, columns)),
        "group_index": (weight.group_index, (rows,)),
        "permutation": (weight.permutation, (rows,)),
        "bias": (weight.bias, (columns,)),
        "input_scale": (weight.input_scale, ()),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise PluginError(
                f"Quantized weight with codes [{rows}, {columns}] and {groups} groups: "
                f"{name} has shape {list(tensor.shape)}, expected {list(shape)}."
            )
    if (weight.input_scale is not None) != (weight.activation == "fp8_static"):
        raise PluginError(
            f"Quantized weight with activations {weight.activation!r} "
            f"{'without' if weight.input_scale is None else 'with'} an input_scale: "
            "the scheme 'fp8_static' has one, and no other."
        )
    if weight.group_index is None and (groups == 0 or rows % groups):
        raise PluginError(
            f"Quantized weight: {rows} input rows do not divide into {groups} equal groups; give group_index."
        )
