"""A quantization for the kit's own models: random int8 codes, so that kernels get to see such layers.

Formats that users load from are plugins, with a suite of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from quire.contracts import LinearMethod, LinearSpec, Quantization, QuantizationInit, QuantizedWeight, Weight
from quire.layers import Unquantized
from quire.ops import PackedQuantized


class Int8Projections(Quantization):
    """Every projection in int8, a scale per output, activations quantized token by token.

    Attributes:
        left: last components of `LinearSpec.name` of those that stay as they are.
    """

    left: ClassVar[frozenset[str]] = frozenset()

    def linear(self, spec: LinearSpec) -> Sequence[LinearMethod]:
        if spec.name.rpartition(".")[2] in self.left:
            return Unquantized(self.init).linear(spec)
        return [_Int8Linear(spec, self.init)]


class SomeInt8Projections(Int8Projections):
    """Layers of both kinds: what is computed on the same rows, or one after the other, differs."""

    left = frozenset({"qkv_proj", "down_proj"})


class OtherInt8Projections(Int8Projections):
    """What `SomeInt8Projections` quantizes stays as it is, and the other way round."""

    left = frozenset({"o_proj", "gate_up_proj"})


class _Int8Linear(LinearMethod):
    """Nothing of it is loaded: codes, scales and bias are drawn from the spec's name and sizes."""

    def __init__(self, spec: LinearSpec, init: QuantizationInit) -> None:
        self._spec = spec
        self._init = init
        self._packed: PackedQuantized | None = None

    def create_weights(self) -> Sequence[Weight]:
        return []

    def finish(self) -> None:
        inputs, outputs = self._spec.inp.size, self._spec.out_features
        draw = torch.Generator().manual_seed(sum(self._spec.name.encode()) + outputs)
        scales = (torch.rand(1, outputs, generator=draw) + 0.5) / 128 * inputs**-0.5
        bias = torch.randn(outputs, generator=draw) if self._spec.bias else None
        device = self._init.device
        self._packed = self._init.kernels.pack_w8a8(
            QuantizedWeight(
                codes=torch.randint(-127, 128, (inputs, outputs), dtype=torch.int8, generator=draw).to(
                    device
                ),
                bits=8,
                scales=scales.to(device),
                activation="int8_per_token",
                bias=None if bias is None else bias.to(device),
            )
        )

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        assert self._packed is not None
        return self._init.kernels.w8a8_linear(x, self._packed)

    def nbytes(self) -> int:
        return 0 if self._packed is None else self._packed.nbytes

    def packed(self) -> PackedQuantized | None:
        return self._packed
