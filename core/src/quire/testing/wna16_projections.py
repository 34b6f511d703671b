"""A quantization for the kit's own models: random 4- and 8-bit codes, so that kernels get to see such layers.

Formats that users load from are plugins, with a suite of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from quire.contracts import LinearMethod, LinearSpec, Quantization, QuantizationInit, QuantizedWeight, Weight
from quire.layers import Unquantized
from quire.ops import PackedQuantized


class Wna16Projections(Quantization):
    """Every projection in codes of 4 bits with zero points, activations as they are.

    Attributes:
        bits: of a code.
        ordered: whether the rows of a group lie apart, as act-order leaves them.
        left: last components of `LinearSpec.name` of those that stay as they are.
    """

    bits: ClassVar[int] = 4
    ordered: ClassVar[bool] = False
    left: ClassVar[frozenset[str]] = frozenset()

    def linear(self, spec: LinearSpec) -> Sequence[LinearMethod]:
        if spec.name.rpartition(".")[2] in self.left:
            return Unquantized(self.init).linear(spec)
        return [_Wna16Linear(spec, self.init, self.bits, self.ordered)]


class OrderedWna16Projections(Wna16Projections):
    """With act-order."""

    ordered = True


class SomeWna16Projections(Wna16Projections):
    """8 bits, and layers of both kinds: what is computed on the same rows differs."""

    bits = 8
    left = frozenset({"qkv_proj", "down_proj"})


class _Wna16Linear(LinearMethod):
    """Nothing of it is loaded: codes, scales and bias are drawn from the spec's name and sizes."""

    def __init__(self, spec: LinearSpec, init: QuantizationInit, bits: int, ordered: bool) -> None:
        self._spec = spec
        self._init = init
        self._bits = bits
        self._ordered = ordered
        self._packed: PackedQuantized | None = None

    def create_weights(self) -> Sequence[Weight]:
        return []

    def finish(self) -> None:
        inputs, outputs, bits = self._spec.inp.size, self._spec.out_features, self._bits
        draw = torch.Generator().manual_seed(sum(self._spec.name.encode()) + outputs)
        groups = 2 if inputs % 2 == 0 else 1
        index = torch.arange(inputs, dtype=torch.int32) // (inputs // groups)
        device = self._init.device
        if self._ordered:
            index = index[torch.randperm(inputs, generator=draw)]
        scales = (torch.rand(groups, outputs, generator=draw) + 0.5) / 2**bits * inputs**-0.5
        bias = torch.randn(outputs, generator=draw) if self._spec.bias else None
        self._packed = self._init.kernels.pack_wna16(
            QuantizedWeight(
                codes=torch.randint(2**bits, (inputs, outputs), dtype=torch.uint8, generator=draw).to(device),
                bits=bits,
                scales=scales.to(device),
                zeros=torch.randint(2**bits, (groups, outputs), generator=draw).to(device),
                group_index=index.to(device) if self._ordered else None,
                permutation=index.argsort(stable=True).to(device) if self._ordered else None,
                bias=None if bias is None else bias.to(device),
            )
        )

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        assert self._packed is not None
        return self._init.kernels.wna16_linear(x, self._packed)

    def nbytes(self) -> int:
        return 0 if self._packed is None else self._packed.nbytes

    def packed(self) -> PackedQuantized | None:
        return self._packed
