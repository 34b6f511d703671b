"""On a GPU: compiled kernels against fp64, over real vocabularies, and inside a captured graph.

Without one the same lines run in Triton's interpreter at the size of a toy, and nothing is captured.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops import Kernels
from quire.ops.slots import SlotShapes
from quire.testing.captured_draw import CapturedDrawChecks
from quire.testing.sampler_bench import Bench
from quire_kernels_triton.kernels import TritonKernels
from quire_sampler_standard.sampler import StandardSampler

pytestmark = pytest.mark.gpu

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

TOLERANCES = {torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
SIZES = [(1, 128256), (5, 50257), (129, 463)] if ON_GPU else [(1, 5000), (5, 2049), (9, 463)]
"""Rows and vocabulary."""

each_dtype = pytest.mark.parametrize("dtype", TOLERANCES)
each_size = pytest.mark.parametrize(("rows", "vocab"), SIZES)


@pytest.fixture
def ours() -> Kernels:
    return TritonKernels(KernelsInit(need=KernelsNeed(device=DEVICE, dtype="bfloat16"), device=DEVICE))


@pytest.fixture
def reference() -> Kernels:
    return Kernels(KernelsInit(need=KernelsNeed(device=DEVICE, dtype="bfloat16"), device=DEVICE))


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """The work as a CUDA graph; as it is where there is no GPU."""
    if not ON_GPU:
        return work
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def _logits(rows: int, vocab: int, dtype: torch.dtype) -> torch.Tensor:
    return 3 * torch.randn(rows, vocab, device=DEVICE).to(dtype)


@each_dtype
@pytest.mark.parametrize("width", [128, 2048, 4096, 16384] if ON_GPU else [128, 2048])
def test_pointwise_kernels_equal_fp64(ours: Kernels, dtype: torch.dtype, width: int) -> None:
    x, residual = (torch.randn(129, width, device=DEVICE).to(dtype) for _ in range(2))
    weight = torch.randn(width, device=DEVICE).to(dtype)
    normed, total = ours.add_rms_norm(x, residual, weight, 1e-5)
    wide = total.double()
    expected = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5) * weight.double()
    near = TOLERANCES[dtype]
    torch.testing.assert_close(normed.double(), expected, rtol=near, atol=near)
    cut_off = not ON_GPU and dtype is torch.bfloat16  # which the interpreter does, where a GPU rounds
    torch.testing.assert_close(total, x + residual, rtol=2**-7 if cut_off else 0, atol=0)
    gate, up = x.double().chunk(2, -1)
    torch.testing.assert_close(
        ours.silu_and_mul(x).double(), gate * gate.sigmoid() * up, rtol=near, atol=near
    )
    ids = torch.randint(129, (300,), device=DEVICE)
    assert torch.equal(ours.embedding(ids, x), x[ids])


@each_dtype
@each_size
def test_peaks_and_log_probabilities(ours: Kernels, dtype: torch.dtype, rows: int, vocab: int) -> None:
    logits = _logits(rows, vocab, dtype)
    ids, values, invalid = ours.peak(logits)
    best = logits.float().amax(-1)
    assert torch.equal(values.float(), best)
    assert torch.equal(ids, (logits.float() == best.unsqueeze(1)).int().argmax(-1))  # the first of equals
    assert not invalid.any()
    chosen = torch.randint(vocab, (rows,), device=DEVICE)
    own, rank, top, top_ids = ours.log_softmax_gather(logits, chosen, 5)
    exact = logits.double().log_softmax(-1)
    wanted = exact.gather(1, chosen.unsqueeze(1))
    torch.testing.assert_close(own.double(), wanted.squeeze(1), rtol=2e-5, atol=2e-5)
    assert torch.equal(rank, (exact > wanted).sum(-1) + 1)
    torch.testing.assert_close(top.double(), exact.gather(1, top_ids), rtol=2e-5, atol=2e-5)


@each_size
@pytest.mark.parametrize(("k", "p"), [(50, 1.0), (1 << 30, 0.9), (1000, 0.95), (1, 1.0), (1 << 30, 0.9999)])
def test_cuts_equal_sorting_in_fp64(ours: Kernels, rows: int, vocab: int, k: int, p: float) -> None:
    logits = _logits(rows, vocab, torch.float32)
    cut = ours.apply_top_k_top_p(logits, torch.full((rows,), k), torch.full((rows,), p, dtype=torch.float64))
    found = cut.isfinite()
    k = min(k, vocab)
    ranked, order = logits.sort(dim=-1, descending=True, stable=True)
    masses = ranked.double().softmax(-1)
    masses[:, k:] = 0
    before = masses.cumsum(-1) - masses
    kept = before < p * masses.sum(-1, keepdim=True) if p < 1 else torch.ones_like(found)
    kept[:, k:] = False
    expected = torch.zeros_like(found).scatter_(1, order, kept)
    # Sums of many probabilities may differ in the last bits: a token more or less at the cut.
    slack = 0 if p == 1 else 1 + expected.sum(-1) // 1000
    assert bool(((found != expected).sum(-1) <= slack).all())
    assert torch.equal(cut[found], logits[found])


@each_dtype
@each_size
def test_draws_invert_the_distribution(ours: Kernels, dtype: torch.dtype, rows: int, vocab: int) -> None:
    logits = _logits(rows, vocab, dtype)
    numbers = torch.rand(rows, dtype=torch.float64)
    ends = logits.double().softmax(-1).cumsum(1)
    ids = ours.draw_from(logits, numbers).unsqueeze(1)
    above = ends.gather(1, ids).squeeze(1).cpu()
    below = above - logits.double().softmax(-1).gather(1, ids).squeeze(1).cpu()
    assert bool((below - 1e-6 <= numbers).all())
    assert bool((numbers <= above + 1e-6).all())


@each_size
def test_bad_rows_stay_alone(ours: Kernels, rows: int, vocab: int) -> None:
    clean = _logits(rows + 4, vocab, torch.float32)
    dirty = clean.clone()
    dirty[0, 7], dirty[1], dirty[2], dirty[3, 5] = torch.nan, torch.nan, -torch.inf, torch.inf
    slots = positions = torch.arange(rows + 4, device=DEVICE)
    shapes = _shapes(rows + 4)
    expected, _ = ours.sample_slots(clean, slots, positions, shapes)
    ids, invalid = ours.sample_slots(dirty, slots, positions, shapes)
    assert invalid.tolist() == [True] * 3 + [False] * (rows + 1)
    assert ids[3] == 5
    assert torch.equal(ids[4:], expected[4:])
    assert bool(((ids >= 0) & (ids < vocab)).all())


@each_dtype
@each_size
@pytest.mark.parametrize("coupled", [False, True], ids=["inverted", "coupled"])
def test_slots_sample_as_the_reference(
    ours: Kernels, reference: Kernels, dtype: torch.dtype, rows: int, vocab: int, coupled: bool
) -> None:
    logits, shapes = _logits(rows, vocab, dtype), _shapes(rows)
    slots, positions = torch.arange(rows, device=DEVICE).flip(0), torch.arange(rows, device=DEVICE)
    ids, _ = ours.sample_slots(logits, slots, positions, shapes, coupled=coupled)
    expected, _ = reference.sample_slots(logits, slots, positions, shapes, coupled=coupled)
    # Where a number falls on the edge between two tokens, or two arrive at once, rounding may take either.
    assert int((ids != expected).sum()) <= rows // 50


@pytest.mark.parametrize("coupled", [False, True], ids=["inverted", "coupled"])
def test_a_step_of_slots_is_captured_and_replayed(ours: Kernels, coupled: bool) -> None:
    rows, vocab = 6, 50257 if ON_GPU else 700
    last_ids, lengths = torch.arange(8, device=DEVICE), torch.ones(8, dtype=torch.int64, device=DEVICE)
    slots = torch.tensor([5, 2, -1, 0, 7, -1], device=DEVICE)
    nothing = torch.full_like(slots, -1)
    logits, shapes = _logits(rows, vocab, torch.bfloat16), _shapes(8)

    def step() -> torch.Tensor:
        _, positions = ours.take_inputs(last_ids, lengths, slots, nothing, nothing)
        ids, _ = ours.sample_slots(logits, slots, positions + 1, shapes, coupled=coupled)
        ours.record_sampled(last_ids, lengths, slots, ids)
        return ids

    step()  # compiles what is captured next
    out = torch.zeros_like(slots)
    replay = captured(lambda: out.copy_(step()))
    for _ in range(3):
        logits.copy_(_logits(rows, vocab, torch.bfloat16))
        slots.copy_(slots.roll(1))
        before = last_ids.clone(), lengths.clone()
        replay()
        replayed, after = out.clone(), (last_ids.clone(), lengths.clone())
        last_ids.copy_(before[0])
        lengths.copy_(before[1])
        assert torch.equal(step(), replayed)
        assert torch.equal(last_ids, after[0])
        assert torch.equal(lengths, after[1])


class TestStandardSamplerInGraphs(CapturedDrawChecks):
    """The sampler's part in captured steps, in graphs that are captured and replayed."""

    @pytest.fixture
    def bench(self, ours: Kernels) -> Bench:
        return Bench(StandardSampler, ours, DEVICE)


def _shapes(slots: int) -> SlotShapes:
    each = torch.arange(slots, device=DEVICE)
    return SlotShapes(
        greedy=each % 7 == 6,
        temperature=0.5 + each.float() / slots,
        margin=torch.where(each % 4 == 3, -3.0, -torch.inf),
        top_k=torch.where(each % 2 == 0, 40, 1 << 40),
        top_p=torch.where(each % 3 == 0, 0.9, 1.0).double(),
        seed=each * 7919 - 3,
    )
