"""The int8 plugin passes the conformance suite, and does what its options say."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from quire.contracts import (
    KernelsInit,
    KernelsNeed,
    LinearPart,
    LinearSpec,
    Quantization,
    QuantizationInit,
    QuantizationNeed,
    Span,
    TensorHeader,
)
from quire.errors import ConfigError
from quire.layers import Build, finish, quantize_rows, weight_bytes, weights_of
from quire.ops import Kernels
from quire.testing.quantization import Encoded, QuantizationSuite
from quire.weights.loader import initialise_dummy
from quire_quant_int8.linear import Int8Linear
from quire_quant_int8.options import Int8Options
from quire_quant_int8.quantization import Int8

KERNELS = Kernels(KernelsInit(need=KernelsNeed(device="cpu", dtype="float32"), device="cpu"))
HEADER = TensorHeader(dtype="BF16", shape=(8, 4), file="model.safetensors")


class TestInt8(QuantizationSuite):
    row_tolerance = 1.5e-2  # half an input's weights have scales of their own

    @pytest.fixture
    def quantization_class(self) -> type[Quantization]:
        return Int8

    def encode(self, name: str, weight: torch.Tensor, bias: torch.Tensor | None) -> Encoded:
        tensors = {f"{name}.weight": weight}
        if bias is not None:
            tensors[f"{name}.bias"] = bias
        codes, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0])
        quantize_rows(weight, codes, scales, name)
        return Encoded(tensors, codes * scales.unsqueeze(1), "int8_per_token")


def opened(headers: Mapping[str, TensorHeader] | None = None, **options: object) -> Int8:
    return Int8(
        QuantizationInit(
            need=QuantizationNeed(device="cpu", dtype="bfloat16"),
            headers=headers or {},
            kernels=KERNELS,
            device="cpu",
            options=Int8Options.model_validate(options),
        )
    )


def spec(*names: str) -> LinearSpec:
    parts = tuple(LinearPart(name, Span.whole(8)) for name in names)
    return LinearSpec(name=names[0], parts=parts, inp=Span.whole(4))


def test_quantized_checkpoints_are_refused() -> None:
    need = QuantizationNeed(device="cpu", dtype="bfloat16", config={"quant_method": "gptq"})
    assert Int8.reject(need) == "quantizes float checkpoints, and this one is quantized already (gptq)"
    assert Int8.reject(QuantizationNeed(device="cpu", dtype="bfloat16")) is None


def test_skipped_parts_split_a_projection_into_runs() -> None:
    quantization = opened(skip=["*.k_proj"])
    methods = quantization.linear(spec("a.q_proj", "a.k_proj", "a.v_proj"))
    assert [isinstance(method, Int8Linear) for method in methods] == [True, False, True]
    assert len(opened().linear(spec("a.q_proj", "a.k_proj", "a.v_proj"))) == 1


@pytest.mark.parametrize("name", ["lm_head", "language_model.lm_head"])
def test_the_head_is_an_option(name: str) -> None:
    assert isinstance(opened().linear(spec(name))[0], Int8Linear)
    assert isinstance(opened().tied_head(spec(name)), Int8Linear)
    assert not isinstance(opened(lm_head=False).linear(spec(name))[0], Int8Linear)
    assert opened(lm_head=False).tied_head(spec(name)) is None
    assert opened(skip=["*lm_head"]).tied_head(spec(name)) is None


def test_a_pattern_that_matches_nothing_is_refused() -> None:
    headers = {"model.layers.0.mlp.down_proj.weight": HEADER}
    opened(headers, skip=["*.down_proj"])
    with pytest.raises(
        ConfigError, match=r"skip: '\*\.dwon_proj' matches no module.*'model.layers.0.mlp.down"
    ):
        opened(headers, skip=["*.dwon_proj"])


def test_dummy_weights_are_quantized_like_real_ones() -> None:
    (method,) = opened().linear(spec("x"))
    weights = method.create_weights()
    initialise_dummy(weights)
    codes = weights[0].target
    assert int(codes.min()) < -60
    assert int(codes.amax(1).max()) == 127 or int(codes.amin(1).min()) == -127
    assert all(weight.loaded for weight in weights)


def test_a_tied_head_is_made_from_the_embedding(build: Build) -> None:
    embedding = build.embedding("embed", 31, 16)
    head = build.lm_head("lm_head", 31, 16, tied_to=embedding)
    model = torch.nn.ModuleList([embedding, head])
    initialise_dummy(weights_of(model))
    table = embedding.table.clone()
    finish(model)
    assert torch.equal(embedding.table, table)
    x = torch.randn(3, 16)
    expected = x @ table.T
    torch.testing.assert_close(head(x), expected, rtol=0, atol=0.02 * float(expected.abs().max()))
    assert not torch.equal(head(x), expected)
    assert weight_bytes(model) == table.nbytes + 31 * 16 + 31 * 4


@pytest.fixture
def build() -> Build:
    def no_attention(*_: object) -> tuple[int, object]:
        raise NotImplementedError

    from quire.contracts import WeightMapping

    return Build(
        config={},
        kernels=KERNELS,
        quantization=opened(),
        attention=no_attention,  # type: ignore[arg-type] # there is none in these tests
        mapping=WeightMapping(),
        max_model_len=1,
    )
