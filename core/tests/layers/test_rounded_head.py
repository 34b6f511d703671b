"""A rounded head multiplies by its codes, and a weight is off by half a scale at most."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from pydantic import ValidationError

from quire.contracts import (
    LinearPart,
    LinearSpec,
    QuantizationInit,
    QuantizationNeed,
    Span,
    TensorHeader,
)
from quire.layers import (
    Build,
    HeadOptions,
    RoundedHead,
    StoredFormat,
    StoredModule,
    finish,
    quantize_rows,
    weight_bytes,
    weights_of,
)
from quire.ops import Kernels

MakeBuild = Callable[..., Build]
Opened = Callable[..., StoredFormat]


class Floats(StoredFormat):
    """A format in which every module was left as it is."""

    def module(self, part: LinearPart, inp: Span) -> StoredModule | None:
        return None


@pytest.fixture
def opened(kernels: Kernels) -> Opened:
    def make(headers: Mapping[str, TensorHeader] | None = None, **options: object) -> StoredFormat:
        return Floats(
            QuantizationInit(
                need=QuantizationNeed(device="cpu", dtype="float32"),
                headers=headers or {},
                kernels=kernels,
                device="cpu",
                options=HeadOptions.model_validate(options),
            )
        )

    return make


def spec(outputs: Span, inputs: int, name: str = "lm_head", *, bias: bool = False) -> LinearSpec:
    parts = (LinearPart(name, outputs),)
    return LinearSpec(name=name, parts=parts, inp=Span.whole(inputs), bias=bias, style="column")


def rounded(weight: torch.Tensor, groups: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What a weight `[N, K]` becomes, and the scale of each of its elements, both `[N, K]` fp32."""
    codes = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight), groups, dtype=torch.bfloat16)
    quantize_rows(weight, codes, scales, "w")
    each = scales.float().repeat_interleave(weight.shape[1] // groups, 1)
    return codes * each, each


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("inputs", "groups"), [(384, 3), (192, 3), (96, 3), (70, 1)])
def test_it_multiplies_by_its_codes(opened: Opened, inputs: int, groups: int, biased: bool) -> None:
    weight, bias, x = torch.randn(31, inputs), torch.randn(31), torch.randn(5, inputs)
    stood_for, each = rounded(weight, groups)
    headers = {"lm_head.bias": TensorHeader("F32", (31,), "f")} if biased else {}
    (method,) = opened(headers, head="int8").linear(spec(Span.whole(31), inputs))
    assert isinstance(method, RoundedHead)
    for wanted in method.create_weights():
        wanted.store(weight if wanted.name == "lm_head.weight" else bias)
    method.finish()
    offset = bias if biased else torch.zeros(31)
    out = method.apply(x)
    torch.testing.assert_close(out, (x.double() @ stood_for.double().T + offset).float(), rtol=0, atol=2e-4)
    off = (out - (x @ weight.T + offset)).abs()
    assert (off <= x.abs() @ (each.T / 2) * 1.001 + 1e-4).all()
    assert off.max() > 1e-4
    assert method.nbytes() == 31 * inputs + 31 * 4 * groups + 31 * 4 * biased


def test_workers_have_their_rows(opened: Opened) -> None:
    weight, x = torch.randn(10, 64), torch.randn(3, 64)
    outs = []
    for rows in (Span(0, 6, 10), Span(6, 10, 10), Span.whole(10)):
        (method,) = opened(head="int8").linear(spec(rows, 64))
        (wanted,) = method.create_weights()
        wanted.store(weight[rows.start : rows.stop])
        method.finish()
        outs.append(method.apply(x))
    torch.testing.assert_close(torch.cat(outs[:2], dim=-1), outs[2])


def test_nothing_else_is_rounded_and_the_head_when_asked_alone(opened: Opened) -> None:
    head, other = spec(Span.whole(8), 64), spec(Span.whole(8), 64, "up_proj")
    assert not isinstance(opened(head="int8").linear(other)[0], RoundedHead)
    assert not isinstance(opened().linear(head)[0], RoundedHead)
    assert opened().tied_head(head) is None
    assert isinstance(opened(head="int8").tied_head(head), RoundedHead)
    inner = spec(Span.whole(8), 64, "language_model.lm_head")
    assert isinstance(opened(head="int8").linear(inner)[0], RoundedHead)


def test_a_tied_head_is_made_from_the_embedding(make_build: MakeBuild, opened: Opened) -> None:
    build = make_build()
    build.quantization = opened(head="int8")
    embedding = build.embedding("embed", 31, 128)
    head = build.lm_head("lm_head", 31, 128, tied_to=embedding)
    table, x = torch.randn(31, 128), torch.randn(3, 128)
    model = torch.nn.ModuleList([embedding, head])
    for wanted in weights_of(model):
        if wanted.required:
            wanted.store(table)
    finish(model)
    assert torch.equal(embedding.table, table)
    torch.testing.assert_close(head(x), x @ rounded(table, 1)[0].T)
    assert weight_bytes(model) == table.nbytes + 31 * 128 + 31 * 4


@pytest.mark.parametrize("options", [{"head": "int4"}, {"head": True}, {"lm_head": "int8"}])
def test_other_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        HeadOptions.model_validate(options)
