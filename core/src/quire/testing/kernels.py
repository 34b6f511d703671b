"""`KernelsSuite`: what every kernels plugin must pass.

Subclass it in your plugin's tests and name the class under test:

    class TestMyKernels(KernelsSuite):
        @pytest.fixture
        def kernels_class(self) -> type[Kernels]:
            return MyKernels

Each operation is compared with fp64, or with the reference `quire.ops.Kernels` where its rounding
order is part of the contract. Sizes are odd on purpose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops import Kernels, dequantize
from quire.testing.batch_invariance import BatchInvarianceChecks
from quire.testing.coupled_draws import CoupledDrawChecks
from quire.testing.decoder_layer import DecoderLayerChecks
from quire.testing.quantized_weights import WNA16, by_definition, quantized
from quire.testing.slots import SlotChecks
from quire.testing.w8a8_checks import W8A8Checks
from quire.testing.wna16_checks import Wna16Checks

TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
"""Largest difference from fp64, absolute and relative, for results of about unit size."""

LEADING = [(0,), (1,), (5,), (2, 3), (0, 4), (33,)]
"""Shapes in front of the feature axis; empty ones included."""


class KernelsSuite(
    DecoderLayerChecks, BatchInvarianceChecks, CoupledDrawChecks, SlotChecks, W8A8Checks, Wna16Checks
):
    """Subclass with a `kernels_class` fixture; override `device` and `dtypes` where they differ.

    Kernels that return something from `decoder_layer` override `attention_class` too, with the backend whose
    native handle they know.
    """

    dtypes: Sequence[str] = ("float32", "float16", "bfloat16")

    @pytest.fixture
    def kernels_class(self) -> type[Kernels]:
        """The class under test."""
        raise NotImplementedError("give your subclass a kernels_class fixture")

    @pytest.fixture
    def device(self) -> str:
        """Torch device string the kernels run on."""
        return "cpu"

    @pytest.fixture
    def kernels(self, kernels_class: type[Kernels], device: str) -> Kernels:
        """The kernels under test."""
        return _make(kernels_class, device)

    @pytest.fixture
    def reference(self, device: str) -> Kernels:
        """The reference on the same device."""
        return _make(Kernels, device)

    @pytest.fixture(autouse=True)
    def _fixed_random_numbers(self) -> None:
        torch.manual_seed(0)

    @pytest.fixture
    def each_dtype(self) -> list[torch.dtype]:
        """The compute dtypes to test."""
        return [getattr(torch, name) for name in self.dtypes]

    # ---- norms ------------------------------------------------------------------------------

    @pytest.mark.parametrize("leading", LEADING)
    def test_rms_norm(
        self, kernels: Kernels, device: str, each_dtype: list[torch.dtype], leading: tuple[int, ...]
    ) -> None:
        for dtype in each_dtype:
            x = (torch.randn(*leading, 57) * 3).to(device, dtype)
            weight = torch.randn(57).to(device, dtype)
            wide = x.double()
            expected = wide / (wide.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
            _close(kernels.rms_norm(x, weight, 1e-5), expected, dtype)

    def test_rms_norm_needs_fp32_inside(self, kernels: Kernels, device: str) -> None:
        """Squares of 1000 are beyond fp16, and 57 squares summed in bf16 lose most of their digits."""
        for dtype in (torch.float16, torch.bfloat16):
            x = torch.full((2, 57), 1000.0).to(device, dtype)
            _close(kernels.rms_norm(x, torch.ones(57).to(device, dtype), 1e-6), torch.ones(2, 57), dtype)

    def test_rms_norm_of_zeros_is_zero(self, kernels: Kernels, device: str) -> None:
        x = torch.zeros(3, 16, device=device)
        assert torch.equal(kernels.rms_norm(x, torch.ones(16, device=device), 1e-6), x)

    def test_add_rms_norm(
        self, kernels: Kernels, reference: Kernels, device: str, each_dtype: list[torch.dtype]
    ) -> None:
        for dtype in each_dtype:
            for leading in LEADING:
                x, residual = (torch.randn(*leading, 40).to(device, dtype) for _ in range(2))
                weight = torch.randn(40).to(device, dtype)
                kept = x.clone(), residual.clone()
                normed, total = kernels.add_rms_norm(x, residual, weight, 1e-5)
                _close(total, x.double() + residual.double(), dtype)
                _close(normed, reference.rms_norm(x + residual, weight, 1e-5), dtype)
                assert torch.equal(x, kept[0])
                assert torch.equal(residual, kept[1])

    # ---- rotary -----------------------------------------------------------------------------

    @pytest.mark.parametrize("interleaved", [False, True])
    @pytest.mark.parametrize(("head_dim", "rotary_dim"), [(16, 16), (20, 20), (24, 10), (16, 2)])
    def test_rotary_is_complex_multiplication(
        self,
        kernels: Kernels,
        device: str,
        each_dtype: list[torch.dtype],
        head_dim: int,
        rotary_dim: int,
        interleaved: bool,
    ) -> None:
        half = rotary_dim // 2
        angles = torch.outer(torch.arange(64.0), 0.7 ** torch.arange(half))  # [P, R/2]
        cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1).to(device)
        positions = torch.tensor([5, 6, 7, 63, 0, 5], device=device)
        turn = torch.polar(torch.ones_like(angles), angles).to(device)[positions][:, None]  # [T, 1, R/2]
        for dtype in each_dtype:
            q, k = (torch.randn(6, heads, head_dim).to(device, dtype) for heads in (6, 2))
            for x, out in zip((q, k), kernels.rotary(q, k, cos_sin, positions, interleaved), strict=True):
                wide = x[..., :rotary_dim].double()
                pairs = wide.reshape(6, -1, *((half, 2) if interleaved else (2, half)))
                pairs = pairs if interleaved else pairs.transpose(-1, -2)  # [T, heads, R/2, 2]
                turned = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * turn)
                turned = turned if interleaved else turned.transpose(-1, -2)
                _close(out[..., :rotary_dim], turned.flatten(-2), dtype)
                assert torch.equal(out[..., rotary_dim:], x[..., rotary_dim:])
                assert out.dtype == dtype

    def test_rotary_of_views_and_of_nothing(self, kernels: Kernels, device: str) -> None:
        cos_sin = torch.randn(9, 8, device=device)
        fused = torch.randn(5, 7 * 8, device=device)
        q, k = fused[:, : 4 * 8].view(5, 4, 8), fused[:, 4 * 8 : 6 * 8].view(5, 2, 8)
        positions = torch.arange(5, device=device)
        kept = fused.clone()
        views = kernels.rotary(q, k, cos_sin, positions)
        copies = kernels.rotary(q.contiguous(), k.contiguous(), cos_sin, positions)
        for view, copy in zip(views, copies, strict=True):
            torch.testing.assert_close(view, copy)
        assert torch.equal(fused, kept)
        empty_q, empty_k = kernels.rotary(q[:0], k[:0], cos_sin, positions[:0])
        assert (empty_q.shape, empty_k.shape) == ((0, 4, 8), (0, 2, 8))

    # ---- activations and embedding ----------------------------------------------------------

    @pytest.mark.parametrize("leading", LEADING)
    def test_gated_activations(
        self, kernels: Kernels, device: str, each_dtype: list[torch.dtype], leading: tuple[int, ...]
    ) -> None:
        for dtype in each_dtype:
            x = torch.randn(*leading, 2 * 37).to(device, dtype)
            gate, up = x.double().chunk(2, dim=-1)
            _close(kernels.silu_and_mul(x), gate * torch.sigmoid(gate) * up, dtype)
            exact = gate * 0.5 * (1 + torch.erf(gate / 2**0.5)) * up
            _close(kernels.gelu_and_mul(x, "none"), exact, dtype)
            inner = (2 / torch.pi) ** 0.5 * (gate + 0.044715 * gate**3)
            _close(kernels.gelu_and_mul(x, "tanh"), gate * 0.5 * (1 + torch.tanh(inner)) * up, dtype)

    def test_embedding(self, kernels: Kernels, device: str, each_dtype: list[torch.dtype]) -> None:
        for dtype in each_dtype:
            table = torch.randn(11, 7).to(device, dtype)
            for ids in ([], [10], [0, 3, 3, 10]):
                index = torch.tensor(ids, dtype=torch.int64, device=device)
                assert torch.equal(kernels.embedding(index, table), table[index])

    # ---- linears ----------------------------------------------------------------------------

    @pytest.mark.parametrize("leading", LEADING)
    @pytest.mark.parametrize(("inputs", "outputs"), [(57, 33), (64, 96), (1, 5), (40, 1)])
    def test_linear(
        self,
        kernels: Kernels,
        device: str,
        each_dtype: list[torch.dtype],
        leading: tuple[int, ...],
        inputs: int,
        outputs: int,
    ) -> None:
        for dtype in each_dtype:
            weight = (torch.randn(outputs, inputs) * inputs**-0.5).to(device, dtype)
            x = torch.randn(*leading, inputs).to(device, dtype)
            for bias in (None, torch.randn(outputs).to(device, dtype)):
                packed = kernels.pack_linear(weight, bias)
                assert packed.nbytes >= weight.nbytes + (0 if bias is None else bias.nbytes)
                expected = x.double() @ weight.double().T
                expected = expected if bias is None else expected + bias.double()
                _close(kernels.linear(x, packed), expected, dtype)

    def test_linear_of_views(self, kernels: Kernels, device: str, each_dtype: list[torch.dtype]) -> None:
        for dtype in each_dtype:
            weight = (torch.randn(60, 30) * 30**-0.5).to(device, dtype)
            x = torch.randn(9, 64).to(device, dtype)
            with torch.inference_mode():
                out = kernels.linear(x[::2, 3:33], kernels.pack_linear(weight[7:50]))
            _close(out, x[::2, 3:33].double() @ weight[7:50].double().T, dtype)

    # ---- quantized linears ------------------------------------------------------------------

    @pytest.mark.parametrize(("form", "bits"), WNA16)
    def test_wna16_is_the_dequantized_product(
        self, kernels: Kernels, device: str, each_dtype: list[torch.dtype], form: str, bits: int
    ) -> None:
        weight = quantized(form, bits, device)
        packed = kernels.pack_wna16(weight)
        assert packed.nbytes > 0
        dense = by_definition(weight)
        torch.testing.assert_close(dequantize(weight).double(), dense, atol=1e-6, rtol=1e-5)
        for dtype in each_dtype:
            for leading in LEADING:
                x = torch.randn(*leading, weight.codes.shape[0]).to(device, dtype)
                assert weight.bias is not None
                expected = x.double() @ dense + weight.bias.double()
                _close(kernels.wna16_linear(x, packed), expected, dtype)

    # ---- log probabilities ------------------------------------------------------------------

    @pytest.mark.parametrize("k", [0, 1, 5, 301])
    @pytest.mark.parametrize("rows", [0, 1, 17])
    def test_log_softmax_gather(
        self, kernels: Kernels, device: str, each_dtype: list[torch.dtype], rows: int, k: int
    ) -> None:
        for dtype in each_dtype:
            # Distinct values, exact in every dtype, so that ranks and top ids have one right answer.
            order = torch.stack([torch.randperm(301) for _ in range(rows)]) if rows else torch.empty(0, 301)
            logits = ((order - 150) / 16).to(device, torch.float32)
            narrow = logits.to(dtype)
            exact = bool((narrow.float() == logits).all())
            ids = torch.randint(301, (rows,), device=device)
            chosen, rank, top, top_ids = kernels.log_softmax_gather(narrow, ids, k)
            expected = narrow.double().log_softmax(-1)
            own = expected.gather(1, ids.unsqueeze(1))
            _close(chosen, own.squeeze(1), torch.float32)
            assert chosen.dtype == top.dtype == torch.float32
            assert torch.equal(rank.cpu(), ((expected > own).sum(-1) + 1).cpu())
            values, indices = expected.topk(k, dim=-1)
            _close(top, values, torch.float32)
            assert top_ids.shape == (rows, k)
            if exact:
                assert torch.equal(top_ids, indices)

    def test_log_softmax_gather_of_excluded_tokens(self, kernels: Kernels, device: str) -> None:
        logits = torch.tensor([[1.0, float("-inf"), 1.0]], device=device)
        chosen, rank, top, _ = kernels.log_softmax_gather(logits, torch.tensor([1], device=device), 3)
        assert chosen.tolist() == [float("-inf")]
        assert rank.tolist() == [3]
        torch.testing.assert_close(top[0, :2].exp(), torch.tensor([0.5, 0.5], device=device))

    # ---- sampling ---------------------------------------------------------------------------

    def test_peak(self, kernels: Kernels, device: str, each_dtype: list[torch.dtype]) -> None:
        """Of equals the first, of NaNs too; what cannot be drawn from is named."""
        nan, inf = float("nan"), float("inf")
        for dtype in each_dtype:
            logits = torch.randn(9, 2100).to(device, dtype)
            logits[0, [5, 1999]] = 9
            logits[1] = -logits[1].abs() - 1
            logits[2] = -inf
            logits[3, 1700] = nan
            logits[4] = torch.tensor([-0.0, 0.0], device=device, dtype=dtype).repeat(1050)
            logits[5, 2099] = inf
            logits[6, :2099] = -inf
            logits[7, 3], logits[7, 700] = inf, -nan
            for some in (logits, logits[:, :33], logits[:0]):
                ids, values, invalid = kernels.peak(some)
                # numpy takes the first NaN for the greatest.
                expected = torch.from_numpy(some.float().cpu().numpy().argmax(1)).to(device)
                best = some.gather(1, expected.unsqueeze(1)).squeeze(1)
                assert torch.equal(ids, expected)
                assert torch.equal(kernels.argmax(some), expected)
                torch.testing.assert_close(values.to(dtype), best, rtol=0, atol=0, equal_nan=True)
                assert torch.equal(invalid, best.isnan() | (best == -inf))
                assert (ids.dtype, invalid.dtype) == (torch.int64, torch.bool)

    def test_head_is_linear_and_its_peaks_are_those_of_its_logits(
        self, kernels: Kernels, device: str, each_dtype: list[torch.dtype]
    ) -> None:
        """Whether or not they were found on the way, and whoever asks for others' in between."""
        for dtype in each_dtype:
            for rows, columns, hidden in ((1, 515, 48), (7, 64, 33), (40, 5000, 64), (300, 200, 32)):
                weight = torch.randn(columns, hidden).to(device, dtype)
                weight[columns // 2 :] = weight[
                    : columns - columns // 2
                ].clone()  # every value at least twice
                x = torch.randn(rows, hidden).to(device, dtype)
                if rows > 5:
                    x[3], x[4, 1] = 0, float("nan")
                packed = kernels.pack_linear(weight, None)
                logits = kernels.head(x, packed)
                torch.testing.assert_close(logits, kernels.linear(x, packed), rtol=0, atol=0, equal_nan=True)
                for some in (logits, logits[: rows // 2], logits.clone().fill_(1.0), logits):
                    ids, values, invalid = kernels.peak(some)
                    expected = torch.from_numpy(some.float().cpu().numpy().argmax(1)).to(device)
                    best = some.gather(1, expected.unsqueeze(1)).squeeze(1)
                    assert torch.equal(ids, expected)
                    torch.testing.assert_close(values.to(dtype), best, rtol=0, atol=0, equal_nan=True)
                    assert torch.equal(invalid, best.isnan())
                nothing = kernels.pack_linear(weight, torch.full((columns,), -torch.inf).to(device, dtype))
                ids, _, invalid = kernels.peak(kernels.head(x[:1], nothing))
                assert (ids.tolist(), invalid.tolist()) == ([0], [True])

    # ---- containment ------------------------------------------------------------------------

    def test_bad_rows_are_contained(
        self, kernels: Kernels, device: str, each_dtype: list[torch.dtype]
    ) -> None:
        """NaN and Inf stay in their rows, and the other rows are what they are without them."""
        for dtype in each_dtype:
            clean = torch.randn(6, 32).to(device, dtype)
            dirty = clean.clone()
            dirty[1], dirty[4] = float("nan"), float("inf")
            dirty[4, ::2] = float("-inf")
            good = [0, 2, 3, 5]
            for operation in _row_operations(kernels, dtype, device):
                _close(operation(dirty)[good], operation(clean)[good], dtype)


def _row_operations(
    kernels: Kernels, dtype: torch.dtype, device: str
) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    """Every operation as a function of `[6, 32]` rows."""
    cos_sin, ids = torch.randn(8, 32, device=device), torch.arange(6, device=device)
    weight = torch.randn(32).to(device, dtype)
    linear = kernels.pack_linear((torch.randn(24, 32) * 0.1).to(device, dtype))
    wna16 = kernels.pack_wna16(quantized("grouped", 4, device, rows=32))
    w8a8 = kernels.pack_w8a8(quantized("centred", 8, device, "int8_per_token", rows=32))
    return [
        lambda x: kernels.rms_norm(x, weight, 1e-5),
        lambda x: kernels.add_rms_norm(x, x, weight, 1e-5)[0],
        lambda x: kernels.rotary(x.view(6, 1, 32), x.view(6, 1, 32), cos_sin, ids)[0],
        kernels.silu_and_mul,
        kernels.gelu_and_mul,
        lambda x: kernels.linear(x, linear),
        lambda x: kernels.wna16_linear(x, wna16),
        lambda x: kernels.w8a8_linear(x, w8a8),
        lambda x: kernels.log_softmax_gather(x, ids, 3)[0],
    ]


def _make(kernels_class: type[Kernels], device: str) -> Kernels:
    need = KernelsNeed(device=torch.device(device).type, dtype="float32")
    reason = kernels_class.reject(need)
    if reason is not None:
        pytest.skip(reason)
    return kernels_class(KernelsInit(need=need, device=device))


def _close(actual: torch.Tensor, expected: torch.Tensor, dtype: torch.dtype) -> None:
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(
        actual.double(), expected.to(actual.device).double(), atol=tolerance, rtol=tolerance
    )
