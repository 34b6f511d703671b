"""Sampling kernels: against the reference, at the edges, over several chunks, and row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.contracts import KernelsInit, KernelsNeed
from quire.ops import Kernels
from quire.ops.coupling import exponentials
from quire.ops.philox import uniforms, words
from quire.ops.slots import SlotShapes
from quire.sampling_params import SamplingParams
from quire.testing.sampler_reference import reference_logits
from quire_kernels_triton.draw import uniform
from quire_kernels_triton.kernels import TritonKernels
from quire_kernels_triton.order import mass_scale
from quire_kernels_triton.race import lots_of

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INIT = KernelsInit(need=KernelsNeed(device=DEVICE, dtype="float32"), device=DEVICE)
OURS, REFERENCE = TritonKernels(INIT), Kernels(INIT)
ALMOST_ONE = 1 - 2.0**-53

few = settings(max_examples=25, deadline=None)


def _random(rows: int, vocab: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return (spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))).to(DEVICE)


def _doubles(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@few
@given(
    rows=st.integers(1, 40).flatmap(
        lambda vocab: st.lists(
            st.lists(st.integers(-9, 3), min_size=vocab, max_size=vocab), min_size=1, max_size=3
        )
    ),
    top_k=st.lists(st.integers(1, 50), min_size=3, max_size=3),
    top_p=st.lists(st.sampled_from([0.001, 0.25, 0.6, 0.93, 1.0]), min_size=3, max_size=3),
)
def test_cuts_match_the_scalar_reference(rows: list[list[int]], top_k: list[int], top_p: list[float]) -> None:
    # An irrational step keeps running sums of probabilities away from p.
    logits = torch.tensor(rows, dtype=torch.float32, device=DEVICE) * (math.e / 2)
    count = len(rows)
    found = OURS.apply_top_k_top_p(logits, torch.tensor(top_k[:count]), _doubles(*top_p[:count]))
    for row in range(count):
        params = SamplingParams(top_k=top_k[row], top_p=top_p[row])
        assert found[row].tolist() == reference_logits(logits[row].tolist(), params)


@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 30.0])
def test_cuts_match_the_reference_over_chunks(spread: float) -> None:
    vocab = 4099
    logits = _random(3, vocab, 1, spread)
    logits[1] = (logits[1] * 8).round() / 8  # equals at the cut
    logits[2, ::2] = -torch.inf
    for top_k, top_p in ((1, 1.0), (50, 0.9), (2500, 1.0), (4098, 0.999), (vocab, 0.05), (vocab, 0.999)):
        k, p = torch.tensor([top_k] * 3), _doubles(*[top_p] * 3)
        found = OURS.apply_top_k_top_p(logits, k, p).isfinite()
        expected = REFERENCE.apply_top_k_top_p(logits, k, p).isfinite()
        # Sums of thousands of fp32 probabilities agree to about 1e-7: one token more or less at the cut.
        slack = 0 if top_p == 1 else (expected.sum(-1) > 1000).int()
        assert bool(((found != expected).sum(-1) <= slack).all()), (top_k, top_p)


def test_a_cut_among_equals_keeps_the_lowest_ids() -> None:
    logits = torch.zeros(2, 4099, device=DEVICE)
    logits[:, ::2] *= -1  # zeros of either sign are equal
    logits[1, 4000:] = 1.0
    ranked = [*range(4000, 4099), *range(4000)]
    for top_k in (1, 600, 4098):
        found = OURS.apply_top_k_top_p(logits, torch.tensor([top_k] * 2), _doubles(1, 1))
        kept = [row.isfinite().nonzero().squeeze(1).tolist() for row in found]
        assert kept == [list(range(top_k)), sorted(ranked[:top_k])]


def test_rows_that_ask_for_nothing_stay_as_they_are_beside_others() -> None:
    logits = _random(3, 70)
    logits[1, 5] = -torch.inf
    cut = OURS.apply_top_k_top_p(logits, torch.tensor([70, 99, 3]), _doubles(1.0, 1.0, 0.9))
    assert torch.equal(cut[:2], logits[:2])
    assert 1 <= int(cut[2].isfinite().sum()) <= 3


def test_min_p_temperature_and_penalties_are_the_references() -> None:
    logits = _random(4, 2051)
    logits[1, 7], logits[2, 8] = torch.nan, torch.inf
    p, by = _doubles(0.0, 0.4, 0.1, 1.0), torch.tensor([1.0, 0.5, 1.7, 1e-5])
    found, expected = OURS.apply_min_p(logits, p), REFERENCE.apply_min_p(logits, p)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    for narrow in (logits, logits.bfloat16(), logits.half()):
        found, expected = OURS.apply_temperature(narrow, by), REFERENCE.apply_temperature(narrow, by)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
    entries = (torch.tensor([0, 0, 3]), torch.tensor([5, 2050, 8]), torch.tensor([0.0, 2.0, 1.0]))
    sizes = (torch.tensor([1.3, 1, 1, 0.7]), torch.tensor([0.5, 0, 0, -1]), torch.tensor([0.1, 0, 0, 2]))
    penalised = OURS.apply_penalties(logits, *entries, *sizes)
    expected = REFERENCE.apply_penalties(logits, *entries, *sizes)
    torch.testing.assert_close(penalised, expected, rtol=1e-6, atol=1e-6, equal_nan=True)


def test_what_is_off_costs_nothing() -> None:
    logits = _random(2, 5)
    assert OURS.apply_temperature(logits, torch.ones(2)) is logits
    assert OURS.apply_min_p(logits, _doubles(0, 0)) is logits
    assert OURS.apply_top_k_top_p(logits, torch.tensor([5, 9]), _doubles(1, 1)) is logits


@pytest.mark.parametrize("vocab", [1, 3, 1000, 4097, 20_001])
def test_draws_invert_the_cumulative_distribution(vocab: int) -> None:
    logits = _random(6, vocab, vocab, 2.0)
    logits[:, ::3] = -torch.inf if vocab > 1 else 0.0
    numbers = _doubles(0.0, 1e-12, 0.2, 0.5, 0.77, ALMOST_ONE)
    for narrow in (logits, logits.bfloat16()):
        ends = narrow.double().softmax(-1).cumsum(1)
        for row, token in enumerate(OURS.draw_from(narrow, numbers).tolist()):
            assert narrow[row, token] > -torch.inf
            below = float(ends[row, token - 1]) if token else 0.0
            assert below - 1e-6 <= float(numbers[row]) <= float(ends[row, token]) + 1e-6
        widened = OURS.draw_from(narrow.float(), numbers)
        assert torch.equal(widened, OURS.draw_from(narrow, numbers))


@few
@given(
    kept=st.sets(st.integers(0, 599), min_size=1, max_size=5),
    number=st.sampled_from([0.0, 2.0**-53, 0.999999999, ALMOST_ONE]) | st.floats(0, ALMOST_ONE),
    depth=st.floats(0, 200),
    top=st.sampled_from([0.0, -3.0e38, 3.0e38]),
)
def test_an_excluded_token_is_never_drawn(kept: set[int], number: float, depth: float, top: float) -> None:
    logits = torch.full((1, 600), -torch.inf)
    for i, token in enumerate(sorted(kept)):
        logits[0, token] = top - depth * i  # down to probabilities that fp32 cannot hold
    assert OURS.draw_from(logits.to(DEVICE), _doubles(number)).item() in kept


def test_bad_rows_stay_alone() -> None:
    """Rows with NaN or Inf give something in range, and the others what they give without them."""
    clean = _random(6, 2101)
    dirty = clean.clone()
    dirty[0, 77], dirty[1], dirty[2], dirty[3, 5] = torch.nan, torch.nan, -torch.inf, torch.inf
    good, ids, numbers = [4, 5], torch.arange(6, device=DEVICE), _doubles(*[0.5] * 6)
    k, p = torch.tensor([3, 2101, 3, 2000, 2101, 9]), _doubles(0.5, 0.5, 1, 1, 0.7, 1)
    assert torch.equal(OURS.apply_top_k_top_p(dirty, k, p)[good], OURS.apply_top_k_top_p(clean, k, p)[good])
    drawn = OURS.draw_from(dirty, numbers)
    assert torch.equal(drawn[good], OURS.draw_from(clean, numbers)[good])
    assert bool(((drawn >= 0) & (drawn < 2101)).all())
    for found, expected in zip(
        OURS.log_softmax_gather(dirty, ids, 5), OURS.log_softmax_gather(clean, ids, 5), strict=True
    ):
        assert torch.equal(found[good], expected[good])


def test_a_row_is_the_same_in_any_batch() -> None:
    rows, vocab = 4, 4003
    logits = _random(rows, vocab)
    ends = logits.double().softmax(-1).cumsum(1)
    numbers = ends[:, 1717].clamp(max=ALMOST_ONE).cpu()  # at the very edge between two tokens
    k, p = torch.arange(1, rows + 1) * 500, torch.linspace(0.1, 1, rows, dtype=torch.float64)
    drawn, cut = OURS.draw_from(logits, numbers), OURS.apply_top_k_top_p(logits, k, p)
    ids = torch.arange(rows, device=DEVICE)
    chosen = OURS.log_softmax_gather(logits, ids, 3)[0]
    for i in range(rows):
        one = slice(i, i + 1)
        assert torch.equal(OURS.draw_from(logits[one], numbers[one]), drawn[one])
        assert torch.equal(OURS.apply_top_k_top_p(logits[one], k[one], p[one]), cut[one])
        assert torch.equal(OURS.log_softmax_gather(logits[one], ids[one], 3)[0], chosen[one])


@pytest.mark.parametrize("vocab", [1, 2, 37, 2048, 128256, 262144])
def test_masses_of_a_row_fit_an_int64(vocab: int) -> None:
    assert vocab * mass_scale(vocab) < 2**63
    assert vocab * mass_scale(vocab) >= 2**61 or vocab == 1
    assert mass_scale(vocab) >= 2**44


@triton.jit
def _uniform_kernel(seeds, positions, out):  # type: ignore[no-untyped-def]
    row = tl.program_id(0)
    tl.store(out + row, uniform(tl.load(seeds + row), tl.load(positions + row)))


def test_uniforms_are_those_of_the_host() -> None:
    seeds = np.array([0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF], dtype=np.uint64)
    positions = np.array([0, 5, 2**32 - 1, 2**32, 2**63 - 1], dtype=np.int64)
    out = torch.empty(len(seeds), dtype=torch.float64, device=DEVICE)
    _uniform_kernel[(len(seeds),)](
        torch.from_numpy(seeds.view(np.int64)).to(DEVICE), torch.from_numpy(positions).to(DEVICE), out
    )
    assert out.tolist() == uniforms(seeds, positions).tolist()


@triton.jit
def _lots_kernel(keys, out, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    column = tl.arange(0, WIDTH)
    first, second = tl.load(keys).to(tl.uint32), tl.load(keys + 1).to(tl.uint32)
    tl.store(out + column, lots_of(column, first, second))


@pytest.mark.parametrize("key", [(0, 0), (2**32 - 1, 2**32 - 1), (0x9E3779B1, 77)])
def test_lots_are_the_references(key: tuple[int, int]) -> None:
    keys, width = torch.tensor([key]), 1 << 18  # enough for small lots and great ones
    out = torch.empty(1, width, device=DEVICE)
    _lots_kernel[(1,)](keys.to(DEVICE), out, WIDTH=width)
    torch.testing.assert_close(out.cpu(), exponentials(keys, width), rtol=4e-7, atol=0)


@pytest.mark.parametrize("top_k", [1, 2100, 4098, 9999])
def test_a_race_of_slots_is_among_those_that_a_cut_keeps(top_k: int) -> None:
    """Of equals the lowest ids, whatever chunk they lie in: the race is that of rows that were cut before."""
    rows, vocab = 6, 4099
    logits = torch.zeros(rows, vocab, device=DEVICE)
    logits[::2, 4000:] = 1.0
    slots = torch.arange(rows, device=DEVICE)
    shapes = SlotShapes(
        greedy=slots < 0,
        temperature=torch.full((rows,), 0.7, device=DEVICE),
        margin=torch.full((rows,), -torch.inf, device=DEVICE),
        top_k=torch.full((rows,), top_k, device=DEVICE),
        top_p=None,
        seed=slots * 1000,
    )
    ids, _ = OURS.sample_slots(logits, slots, slots + 3, shapes, coupled=True)
    shaped = OURS.apply_temperature(logits, torch.full((rows,), 0.7))
    cut = OURS.apply_top_k_top_p(shaped, torch.full((rows,), top_k), _doubles(*[1.0] * rows))
    keys = torch.from_numpy(words(np.arange(rows, dtype=np.uint64) * 1000, np.arange(rows) + 3))
    assert ids.tolist() == OURS.draw_coupled(cut, keys).tolist()
    assert bool(cut.gather(1, ids.unsqueeze(1)).isfinite().all())
