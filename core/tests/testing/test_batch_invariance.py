"""The checks pass what is batch-invariant, and fail what is not, wherever it is not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from quire.contracts import AttentionBackend, AttentionBatch, AttentionLayer, KernelsNeed, Rope
from quire.ops import Kernels, PackedLinear, PackedQuantized
from quire.testing.attention_invariance import AttentionInvarianceChecks
from quire.testing.batch_invariance import BatchInvarianceChecks
from quire.testing.kernels import KernelsSuite
from quire.testing.plain_attention import PlainAttention
from quire.testing.row_by_row import RowByRowKernels


class TestRowByRow(KernelsSuite):
    @pytest.fixture
    def kernels_class(self) -> type[Kernels]:
        return RowByRowKernels


class Careless(Kernels):
    """The reference, as if it held what it does not."""

    @classmethod
    def reject(cls, need: KernelsNeed) -> str | None:
        return None


class TiledLinear(RowByRowKernels):
    """Sums in another order from 16 rows on, as a kernel does that has two tiles."""

    def linear(self, x: torch.Tensor, packed: PackedLinear) -> torch.Tensor:
        if x.shape[0] < 16:
            return super().linear(x, packed)
        return super().linear(x.flip(-1), PackedLinear(packed.weight.flip(-1), packed.bias, packed.nbytes))


class SharedScale(RowByRowKernels):
    """Quantizes all tokens of a batch by one scale."""

    def w8a8_linear(self, x: torch.Tensor, packed: PackedQuantized) -> torch.Tensor:
        largest = x.abs().max() if x.numel() else x.new_ones(())
        return Kernels.w8a8_linear(self, x / largest, packed) * largest


class OddNorm(RowByRowKernels):
    """The last row's norm sums in another order."""

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        out = super().rms_norm(x, weight, eps)
        if x.shape[0] > 1:
            out[-1] = super().rms_norm(x[-1:].flip(-1), weight.flip(-1), eps * 1.01).flip(-1)
        return out


class LogSumExp(RowByRowKernels):
    """Log probabilities whose sum is split where there are few rows."""

    def log_softmax_gather(
        self, logits: torch.Tensor, ids: torch.Tensor, k: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        chosen, rank, top, top_ids = super().log_softmax_gather(logits, ids, k)
        return chosen * (1 + 1e-7 * (logits.shape[0] == 1)), rank, top, top_ids


FLOAT = [torch.float32, torch.bfloat16]
CHECKS = BatchInvarianceChecks()


def linear(kernels: type[Kernels]) -> None:
    CHECKS.test_a_linear_row_is_the_same_in_any_batch(kernels, "cpu", FLOAT, 1536, 320)


def quantized(kernels: type[Kernels]) -> None:
    CHECKS.test_a_quantized_row_is_the_same_in_any_batch(kernels, "cpu", FLOAT, "centred", "int8_per_token")


def pointwise(kernels: type[Kernels]) -> None:
    CHECKS.test_a_pointwise_row_is_the_same_in_any_batch(kernels, "cpu", FLOAT, 576)


def log_probabilities(kernels: type[Kernels]) -> None:
    CHECKS.test_log_probabilities_are_the_same_in_any_batch(kernels, "cpu", FLOAT)


def layer(kernels: type[Kernels]) -> None:
    CHECKS.test_a_decoder_layer_is_the_same_in_any_step(
        kernels, PlainAttention, "cpu", FLOAT, "gqa", "beside a prefill"
    )


@pytest.mark.parametrize(
    ("kernels", "check"),
    [
        (Careless, linear),
        (TiledLinear, linear),
        (TiledLinear, layer),
        (SharedScale, quantized),
        (OddNorm, pointwise),
        (OddNorm, layer),
        (LogSumExp, log_probabilities),
    ],
)
def test_what_depends_on_its_batch_is_found(
    kernels: type[Kernels], check: Callable[[type[Kernels]], None]
) -> None:
    torch.manual_seed(0)
    with pytest.raises(AssertionError):
        check(kernels)
    check(RowByRowKernels)


class Chunky(PlainAttention):
    """Sums a row's keys in another order in a step of many rows."""

    def forward(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        kv: Mapping[str, torch.Tensor],
        metadata: AttentionBatch,
        layer: AttentionLayer,
        rope: Rope | None = None,
    ) -> torch.Tensor:
        out = super().forward(q, k, v, kv, metadata, layer, rope)
        return torch.nextafter(out, out + 1) if self.changes(metadata) else out

    def changes(self, batch: AttentionBatch) -> bool:
        return batch.max_query_len > 64


class Crowded(Chunky):
    """Splits a long context only where it decodes alone."""

    def changes(self, batch: AttentionBatch) -> bool:
        return len(batch.query_lens_host) == 1 and batch.max_query_len == 1


@pytest.mark.parametrize("backend", [Chunky, Crowded])
@pytest.mark.parametrize(
    ("check", "arguments"),
    [
        (AttentionInvarianceChecks.test_chunks_do_not_change_bits, ("plain", [1] * 150)),
        (AttentionInvarianceChecks.test_a_long_decode_has_the_same_bits_in_any_batch, ()),
    ],
)
def test_attention_that_depends_on_its_step_is_found(
    backend: type[AttentionBackend], check: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    checks = AttentionInvarianceChecks()
    checks.dtypes = ("float32",)
    with pytest.raises(AssertionError):
        check(checks, backend, "cpu", *arguments)
    check(checks, PlainAttention, "cpu", *arguments)
