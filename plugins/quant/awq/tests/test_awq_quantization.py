"""The AWQ plugin passes the conformance suite in every layout, and reads each module by its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from quire.contracts import (
    KernelsInit,
    KernelsNeed,
    LinearMethod,
    LinearPart,
    LinearSpec,
    Quantization,
    QuantizationInit,
    QuantizationNeed,
    Span,
    TensorHeader,
)
from quire.errors import CheckpointError, UnsupportedModelError
from quire.layers import QuantizedLinear
from quire.ops import Kernels
from quire.testing.quantization import Encoded, QuantizationSuite
from quire_quant_awq.quantization import AWQ
from quire_quant_awq.testing import PACKERS, headers_of, quantize

KERNELS = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
CONFIG = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}


class AWQSuite(QuantizationSuite):
    layout = "gemm"
    group_size = 32

    @pytest.fixture
    def quantization_class(self) -> type[Quantization]:
        return AWQ

    @pytest.fixture
    def config(self) -> Mapping[str, Any]:
        return {**CONFIG, "group_size": self.group_size, "version": self.layout}

    def encode(self, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Encoded:
        encoded = quantize(weight, self.group_size)
        stored = PACKERS[self.layout](encoded.codes, encoded.zeros, encoded.scales)
        if bias is not None:
            stored["bias"] = bias
        zeros = encoded.zeros * encoded.scales
        if self.layout == "gemv_fast":
            zeros = -stored["qzeros"][: len(zeros)].float()  # rounded to fp16
        each = weight.shape[1] // len(zeros)
        decoded = encoded.codes * encoded.scales.repeat_interleave(each, 0) - zeros.repeat_interleave(each, 0)
        return Encoded({f"{name}.{suffix}": tensor for suffix, tensor in stored.items()}, decoded.t())


class TestGemm(AWQSuite):
    pass


class TestGemmOfOneGroup(AWQSuite):
    group_size = -1


class TestGemv(AWQSuite):
    layout = "gemv"


class TestGemvFast(AWQSuite):
    layout = "gemv_fast"


class TestGemvFastInSmallShares(AWQSuite):
    """Shares that begin within the four outputs and 64 inputs which are interleaved."""

    layout = "gemv_fast"
    in_features = 192
    part_features = (40, 8, 8)
    group_size = 64


class TestGemmInSmallShares(AWQSuite):
    """Shares that begin within a word's eight outputs, and within a group."""

    in_features = 96
    part_features = (40, 8, 24)


def opened(headers: Mapping[str, TensorHeader] | None = None, **config: object) -> AWQ:
    need = QuantizationNeed(device="cpu", dtype="float32", config={**CONFIG, **config})
    return AWQ(QuantizationInit(need=need, headers=headers or {}, kernels=KERNELS, device="cpu"))


def spec(*names: str, outputs: int = 64, inputs: int = 64) -> LinearSpec:
    parts = tuple(LinearPart(name, Span.whole(outputs)) for name in names)
    return LinearSpec(name="fused", parts=parts, inp=Span.whole(inputs))


def stored(layout: str, outputs: int = 64, inputs: int = 64, group_size: int = 32) -> dict[str, torch.Tensor]:
    codes = torch.randint(16, (inputs, outputs))
    groups = inputs // group_size
    return PACKERS[layout](codes, torch.randint(16, (groups, outputs)), torch.ones(groups, outputs))


def quantized(methods: list[LinearMethod]) -> list[bool]:
    return [isinstance(method, QuantizedLinear) for method in methods]


@pytest.mark.parametrize("layout", sorted(PACKERS))
@pytest.mark.parametrize("version", sorted(PACKERS))
def test_the_tensors_say_which_layout_it_is(layout: str, version: str) -> None:
    """Also where inputs and outputs are as many, and words of weights look alike."""
    quantization = opened(headers_of("a", stored(layout)), version=version)
    (method,) = quantization.linear(spec("a"))
    assert isinstance(method, QuantizedLinear)
    assert method._modules[0].kind[0] == layout  # type: ignore[index] # its kind is a tuple


def test_parts_are_quantized_where_the_tensors_are() -> None:
    plain = {"k.weight": TensorHeader("F16", (64, 64), "model.safetensors")}
    headers = {**headers_of("q", stored("gemm")), **plain, **headers_of("v", stored("gemm"))}
    # The settings say nothing, or the contrary.
    for left_out in (None, [], ["q", "v"]):
        methods = opened(headers, modules_to_not_convert=left_out).linear(spec("q", "k", "v"))
        assert quantized(list(methods)) == [True, False, True]
    headers = {**headers_of("q", stored("gemm")), **headers_of("k", stored("gemv"))}
    assert quantized(list(opened(headers).linear(spec("q", "k")))) == [True, True]


@pytest.mark.parametrize("layout", sorted(PACKERS))
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_a_module_may_have_groups_of_its_own(layout: str, group_size: int) -> None:
    """Which the settings, of 32, do not tell: the product is by those that the tensors show."""
    weight = quantize(torch.randn(64, 128), group_size)
    tensors = PACKERS[layout](weight.codes, weight.zeros, weight.scales)
    headers = {**headers_of("q", stored("gemm", inputs=128)), **headers_of("k", tensors)}
    methods = opened(headers).linear(spec("q", "k", inputs=128))
    assert len(methods) == (1 if (layout, group_size) == ("gemm", 32) else 2)
    (method,) = opened(headers_of("k", tensors)).linear(spec("k", inputs=128))
    for wanted in method.create_weights():
        whole = tensors[wanted.name.rpartition(".")[2]]
        wanted.store(whole[tuple(slice(span.start, span.stop) for span in wanted.take)])
    method.finish()
    # gemv_fast rounds the products of scales and zero points to fp16.
    torch.testing.assert_close(method.apply(torch.eye(128)).t(), weight.weight(), rtol=0, atol=2e-3)


def test_one_matrix_where_parts_are_stored_alike() -> None:
    headers = {name: header for part in "qkv" for name, header in headers_of(part, stored("gemm")).items()}
    assert len(opened(headers).linear(spec(*"qkv"))) == 1


def test_made_up_weights_follow_the_settings() -> None:
    quantization = opened(modules_to_not_convert=["mlp.gate"])
    assert quantized(list(quantization.linear(spec("model.mlp.gate", "model.mlp.up")))) == [False, True]
    assert quantized(list(quantization.linear(spec("lm_head")))) == [False]


def test_a_quantized_head_is_read() -> None:
    assert quantized(list(opened(headers_of("lm_head", stored("gemm"))).linear(spec("lm_head")))) == [True]


def test_llm_awq_calls_things_by_names_of_its_own() -> None:
    tensors = stored("gemv_fast")
    tensors["scaled_zeros"] = tensors.pop("qzeros")
    need = QuantizationNeed(
        device="cpu", dtype="float32", config={"quant_method": "awq", "w_bit": 4, "q_group_size": 32}
    )
    quantization = AWQ(
        QuantizationInit(need=need, headers=headers_of("a", tensors), kernels=KERNELS, device="cpu")
    )
    (method,) = quantization.linear(spec("a"))
    assert [weight.name for weight in method.create_weights()] == ["a.qweight", "a.scaled_zeros", "a.scales"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bits": 3}, r"have 3 bits \(bits\), and only 4"),
        ({"bits": None, "w_bit": 8}, r"have 8 bits \(w_bit\), and only 4"),
        ({"version": "marlin"}, r"layout 'marlin' \(version\).*Use one in: gemm, gemv, gemv_fast"),
    ],
)
def test_variants_that_are_not_implemented_are_refused(config: dict[str, object], message: str) -> None:
    need = QuantizationNeed(device="cpu", dtype="float32", config={**CONFIG, **config})
    assert re.search(message, AWQ.reject(need) or "")
    with pytest.raises(UnsupportedModelError, match=message):
        AWQ(QuantizationInit(need=need, headers={}, kernels=KERNELS, device="cpu"))


def test_what_it_reads_and_what_opening_reports_is_not_rejected() -> None:
    for version in ("GEMM", "exllama", "llm-awq", None):
        config = {**CONFIG, "version": version}
        assert AWQ.reject(QuantizationNeed(device="cpu", dtype="float32", config=config)) is None
    for config in (CONFIG, {**CONFIG, "bits": "four"}):
        assert AWQ.reject(QuantizationNeed(device="cpu", dtype="float32", config=config)) is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"bits": "4"}, r"quantization_config\.bits of the checkpoint is '4', expected a number"),
        ({"bits": True}, r"\.bits of the checkpoint is True"),
        ({"group_size": 0}, r"\.group_size of the checkpoint is 0, expected a positive"),
        ({"group_size": -2}, r"\.group_size of the checkpoint is -2"),
        ({"group_size": 12.5}, r"\.group_size of the checkpoint is 12\.5"),
        ({"q_group_size": 64}, r"group_size: 32 and q_group_size: 64, two names for one"),
        ({"zero_point": "no"}, r"\.zero_point of the checkpoint is 'no'"),
        ({"version": 4}, r"\.version of the checkpoint is 4"),
        ({"modules_to_not_convert": "lm_head"}, r"\.modules_to_not_convert of the checkpoint is 'lm_head'"),
    ],
)
def test_absurd_settings_are_refused(config: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        opened({}, **config)
