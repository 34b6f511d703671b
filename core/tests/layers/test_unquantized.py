"""Plain weights pass the suite of the kind by subclass, as any format must."""

from __future__ import annotations

import pytest
import torch

from quire.contracts import Quantization
from quire.errors import CheckpointError
from quire.layers import Unquantized
from quire.testing.quantization import Bench, Encoded, QuantizationSuite


class TestUnquantized(QuantizationSuite):
    @pytest.fixture
    def quantization_class(self) -> type[Quantization]:
        return Unquantized

    def encode(self, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Encoded:
        tensors = {f"{name}.weight": weight}
        if bias is not None:
            tensors[f"{name}.bias"] = bias
        return Encoded(tensors, weight)

    def test_a_bias_of_the_architecture_is_required(self, bench: Bench) -> None:
        bench.write(parts=1, bias=False)
        with pytest.raises(CheckpointError, match=r"missing tensor 'layer\.part0\.bias'"):
            bench.methods(bench.spec(bias=True))
