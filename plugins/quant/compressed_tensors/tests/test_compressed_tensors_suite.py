"""The plugin passes the conformance suite in every scheme that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from quire.contracts import Quantization
from quire.testing.quantization import Encoded, QuantizationSuite
from quire_quant_compressed_tensors.quantization import CompressedTensors
from quire_quant_compressed_tensors.testing import Stored, pack, per_token, plain, settings, static


class Suite(QuantizationSuite):
    activation: str | None = None

    @pytest.fixture
    def quantization_class(self) -> type[Quantization]:
        return CompressedTensors

    def stored(self, weight: torch.Tensor) -> Stored:
        raise NotImplementedError

    def encode(self, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Encoded:
        stored = self.stored(weight)
        tensors = {f"{name}.{suffix}": tensor for suffix, tensor in stored.tensors.items()}
        if bias is not None:
            tensors[f"{name}.bias"] = bias
        return Encoded(tensors, stored.weight, self.activation, stored.tensors.get("input_scale"))


class Packed(Suite):
    bits = 4
    group_size: int | None = 32
    symmetric = True
    indexed = False

    @pytest.fixture
    def config(self) -> Mapping[str, Any]:
        weights = {
            "num_bits": self.bits,
            "type": "int",
            "symmetric": self.symmetric,
            "strategy": "channel" if self.group_size is None else "group",
            "group_size": self.group_size,
            "actorder": "group" if self.indexed else None,
        }
        return settings(weights, format="pack-quantized")

    def stored(self, weight: torch.Tensor) -> Stored:
        order = None
        if self.indexed:
            assert self.group_size is not None
            generator = torch.Generator().manual_seed(1)
            order = torch.randperm(weight.shape[1], generator=generator) // self.group_size
        return pack(weight, bits=self.bits, group_size=self.group_size, symmetric=self.symmetric, order=order)


class TestW4A16(Packed):
    pass


class TestW4A16Asymmetric(Packed):
    symmetric = False


class TestW4A16OneScalePerOutput(Packed):
    group_size = None


class TestW4A16ActOrder(Packed):
    indexed = True
    group_size = 16


class TestW4A16AsymmetricActOrder(Packed):
    indexed = True
    symmetric = False
    group_size = 16


class TestW8A16(Packed):
    bits = 8


class TestW8A16Asymmetric(Packed):
    bits = 8
    symmetric = False


class TestW8A16OneScalePerOutput(Packed):
    bits = 8
    group_size = None


class TestInSmallShares(Packed):
    """Shares that begin within a word of weights, a word of zeros, and a group."""

    symmetric = False
    in_features = 72
    group_size = 24
    part_features = (36, 12, 6)


class Plain(Suite):
    activation = "int8_per_token"
    dtype = torch.int8
    per_tensor = False

    @pytest.fixture
    def config(self) -> Mapping[str, Any]:
        kind = "int" if self.dtype == torch.int8 else "float"
        weights = {
            "num_bits": 8,
            "type": kind,
            "symmetric": True,
            "strategy": "tensor" if self.per_tensor else "channel",
        }
        activations = static() if self.activation == "fp8_static" else per_token(kind)
        return settings(weights, activations, format=f"{kind}-quantized")

    def stored(self, weight: torch.Tensor) -> Stored:
        input_scale = 0.01 if self.activation == "fp8_static" else None
        return plain(weight, self.dtype, per_tensor=self.per_tensor, input_scale=input_scale)


class TestInt8(Plain):
    pass


class TestInt8OneScale(Plain):
    per_tensor = True


class TestFp8(Plain):
    activation = "fp8_per_token"
    dtype = torch.float8_e4m3fn


class TestFp8OneScale(TestFp8):
    per_tensor = True


class TestFp8Static(TestFp8):
    activation = "fp8_static"


class TestFp8StaticOneScale(TestFp8):
    activation = "fp8_static"
    per_tensor = True
