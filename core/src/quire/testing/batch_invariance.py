"""The part of `KernelsSuite` that holds kernels to a deterministic need.

Runs for kernels that accept `KernelsNeed(deterministic=True)`, and is skipped with their reason otherwise.
Every operation is computed over many rows at once, and over few of them at other places of a batch;
two decoder layers over prompts whole, in chunks and among neighbours. All bits have to be the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import pytest
import torch

from quire.contracts import AttentionBackend, AttentionNeed, CacheKind, CacheSpec, KernelsInit, KernelsNeed
from quire.ops import Kernels
from quire.testing.decoder_layer import VARIANTS, two_layers
from quire.testing.quantized_weights import quantized

ROWS = (1, 2, 15, 16, 17, 33, 64, 100)
"""Rows of the parts that are computed again."""

TOTAL = 257
"""Rows of the whole."""

LINEARS = [(57, 33), (576, 320), (1536, 96)]
"""Inputs and outputs: smaller than any tile, and long enough to be split among threads or cache blocks."""

PROMPT = 40
SCHEDULES: dict[str, list[dict[str, int]]] = {
    "chunks": [{"a": 7}, {"a": 1}, {"a": 16}, {"a": 16}],
    "token by token": [{"a": 1}] * PROMPT,
    "beside a prefill": [{"b": 3, "a": 20}, {"a": 12, "c": 33}, {"b": 1, "a": 8, "c": 1}],
    "beside decodes": [
        {"b": 30, "c": 30},
        *[{"b": 1, "a": 5, "c": 1}] * 7,
        {"c": 1, "b": 1, "a": 4},
        {"a": 1, "b": 1},
    ],
}
"""Steps, each with the tokens it computes; sequence "a" must come out as it does alone and at once."""

Packed = TypeVar("Packed")

Part = Callable[[int, int], torch.Tensor]
"""`(start, stop)` -> the operation's result for these rows of its input."""


class BatchInvarianceChecks:
    """Mixed into `KernelsSuite`."""

    @pytest.mark.parametrize(("inputs", "outputs"), LINEARS)
    def test_a_linear_row_is_the_same_in_any_batch(
        self,
        kernels_class: type[Kernels],
        device: str,
        each_dtype: list[torch.dtype],
        inputs: int,
        outputs: int,
    ) -> None:
        for dtype, kernels in deterministic(kernels_class, device, each_dtype):
            weight = (torch.randn(outputs, inputs) * inputs**-0.5).to(device, dtype)
            x = torch.randn(TOTAL, inputs).to(device, dtype)
            for bias in (None, torch.randn(outputs).to(device, dtype)):
                packed = kernels.pack_linear(weight, bias)
                check_parts(_part(kernels.linear, x, packed))

    @pytest.mark.parametrize("form", ["grouped", "act-order", "centred"])
    @pytest.mark.parametrize("activation", [None, "int8_per_token"])
    def test_a_quantized_row_is_the_same_in_any_batch(
        self,
        kernels_class: type[Kernels],
        device: str,
        each_dtype: list[torch.dtype],
        form: str,
        activation: str | None,
    ) -> None:
        for dtype, kernels in deterministic(kernels_class, device, each_dtype):
            weight = quantized(form, 8, device, activation, rows=192)
            x = torch.randn(TOTAL, 192).to(device, dtype)
            if activation is None:
                packed = kernels.pack_wna16(weight)
                check_parts(_part(kernels.wna16_linear, x, packed))
            else:
                packed = kernels.pack_w8a8(weight)
                check_parts(_part(kernels.w8a8_linear, x, packed))

    @pytest.mark.parametrize("width", [58, 576, 1002])
    def test_a_pointwise_row_is_the_same_in_any_batch(
        self, kernels_class: type[Kernels], device: str, each_dtype: list[torch.dtype], width: int
    ) -> None:
        for dtype, kernels in deterministic(kernels_class, device, each_dtype):
            for operation in _pointwise(kernels, device, dtype, width):
                check_parts(operation)

    def test_log_probabilities_are_the_same_in_any_batch(
        self, kernels_class: type[Kernels], device: str, each_dtype: list[torch.dtype]
    ) -> None:
        for dtype, kernels in deterministic(kernels_class, device, each_dtype):
            logits = torch.randn(TOTAL, 40_003).to(device, dtype)
            ids = torch.randint(40_003, (TOTAL,), device=device)
            for index in (0, 2):  # of the chosen token, of the most likely ones
                check_parts(_logprobs(kernels, logits, ids, index))

    @pytest.mark.parametrize("schedule", SCHEDULES)
    @pytest.mark.parametrize("variant", VARIANTS)
    def test_a_decoder_layer_is_the_same_in_any_step(
        self,
        kernels_class: type[Kernels],
        attention_class: type[AttentionBackend],
        device: str,
        each_dtype: list[torch.dtype],
        variant: str,
        schedule: str,
    ) -> None:
        for dtype, _ in deterministic(kernels_class, device, each_dtype):
            _skip_if_rejected(attention_class, device, dtype)

            def run(steps: list[dict[str, int]], dtype: torch.dtype = dtype) -> torch.Tensor:
                runner = two_layers(
                    variant, attention_class, kernels_class, device, dtype, deterministic=True
                )
                for name in ("a", "b", "c"):
                    runner.add(name, [(7 * i + ord(name)) % 31 for i in range(PROMPT + 10)])
                rows = [runner.run(counts).get("a") for counts in steps]
                return torch.cat([one for one in rows if one is not None])

            assert same_bits(run(SCHEDULES[schedule]), run([{"a": PROMPT}]))


def deterministic(
    kernels_class: type[Kernels], device: str, dtypes: Sequence[torch.dtype]
) -> list[tuple[torch.dtype, Kernels]]:
    """Kernels under deterministic needs of the dtypes they accept; the test is skipped if that is none."""
    accepted = []
    for dtype in dtypes:
        need = KernelsNeed(
            device=torch.device(device).type, dtype=str(dtype).removeprefix("torch."), deterministic=True
        )
        reason = kernels_class.reject(need)
        if reason is None:
            accepted.append((dtype, kernels_class(KernelsInit(need=need, device=device))))
    if not accepted:
        pytest.skip(str(reason))
    return accepted


def check_parts(part: Part) -> None:
    """Rows computed at once have the bits that they have in smaller batches, wherever they are in them."""
    whole = part(0, TOTAL)
    for rows in ROWS:
        for start in (0, 3, TOTAL - rows):
            again = part(start, start + rows)
            assert same_bits(again, whole[start : start + rows]), f"rows {start} to {start + rows} differ"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal bit for bit."""
    return a.dtype == b.dtype and torch.equal(
        a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
    )


def _part(linear: Callable[[torch.Tensor, Packed], torch.Tensor], x: torch.Tensor, packed: Packed) -> Part:
    return lambda start, stop: linear(x[start:stop], packed)


def _logprobs(kernels: Kernels, logits: torch.Tensor, ids: torch.Tensor, index: int) -> Part:
    return lambda start, stop: kernels.log_softmax_gather(logits[start:stop], ids[start:stop], 5)[index]


def _pointwise(kernels: Kernels, device: str, dtype: torch.dtype, width: int) -> list[Part]:
    x, residual = (3 * torch.randn(TOTAL, width).to(device, dtype) for _ in range(2))
    weight = torch.randn(width).to(device, dtype)
    heads = x.view(TOTAL, 2, width // 2)
    angles = torch.randn(TOTAL, width // 4, device=device)
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
    ids = torch.arange(TOTAL, device=device)
    return [
        lambda a, b: kernels.rms_norm(x[a:b], weight, 1e-5),
        lambda a, b: kernels.add_rms_norm(x[a:b], residual[a:b], weight, 1e-5)[0],
        lambda a, b: kernels.add_rms_norm(x[a:b], residual[a:b], weight, 1e-5)[1],
        lambda a, b: kernels.rotary(heads[a:b], heads[a:b], cos_sin, ids[a:b])[0],
        lambda a, b: kernels.rotary(heads[a:b], heads[a:b], cos_sin, ids[a:b], interleaved=True)[1],
        lambda a, b: kernels.silu_and_mul(x[a:b]),
        lambda a, b: kernels.gelu_and_mul(x[a:b]),
        lambda a, b: kernels.gelu_and_mul(x[a:b], "tanh"),
        lambda a, b: kernels.embedding(ids[a:b], x),
    ]


def _skip_if_rejected(attention_class: type[AttentionBackend], device: str, dtype: torch.dtype) -> None:
    name = str(dtype).removeprefix("torch.")
    cache = CacheSpec(kind=CacheKind.FULL, num_kv_heads=2, head_dim=12, dtype=name)
    need = AttentionNeed(
        device=torch.device(device).type, dtype=name, cache=cache, num_q_heads=4, block_size=4
    )
    reason = attention_class.reject(replace(need, deterministic=True))
    if reason is not None:
        pytest.skip(reason)
