"""Sampling on every instruction set: against the reference, at the edges, and row by row."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.contracts import KernelsInit, KernelsNeed, Sampler
from quire.ops import Kernels
from quire.ops.coupling import exponentials
from quire.ops.philox import words
from quire.sampling_params import SamplingParams
from quire.testing.sampler import SamplerSuite
from quire.testing.sampler_reference import reference_logits
from quire_kernels_cpu.kernels import CpuKernels
from quire_kernels_cpu.options import CpuKernelsOptions
from quire_native_cpu.library import available
from quire_sampler_standard.sampler import StandardSampler

NEED = KernelsNeed(device="cpu", dtype="float32")
REFERENCE = Kernels(KernelsInit(need=NEED, device="cpu"))
ALMOST_ONE = 1 - 2.0**-53
EVERY_SET = {
    isa: CpuKernels(KernelsInit(need=NEED, device="cpu", options=CpuKernelsOptions(isa=isa)))
    for isa in available()
}

each_set = pytest.mark.parametrize("isa", EVERY_SET)


def _random(rows: int, vocab: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed))


def _doubles(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@each_set
@given(
    # Bit patterns rather than numbers: signed zeros, infinities and NaN of either sign are among them.
    bits=st.integers(1, 140).flatmap(
        lambda vocab: st.lists(
            st.lists(
                st.sampled_from([0, -0x8000, 0x3F80, 0x3F81, -0x4080, 0x7F80, -0x80, 0x7FC0, -0x40]),
                min_size=vocab,
                max_size=vocab,
            ),
            min_size=1,
            max_size=3,
        )
    )
)
def test_argmax_is_that_of_the_values(isa: str, bits: list[list[int]]) -> None:
    logits = torch.tensor(bits, dtype=torch.int16).view(torch.bfloat16)
    expected = logits.float().numpy().argmax(-1).tolist()
    assert EVERY_SET[isa].argmax(logits).tolist() == expected
    assert EVERY_SET[isa].argmax(logits.float()).tolist() == expected


@each_set
@pytest.mark.parametrize("vocab", [1, 15, 1024, 1025, 5003])
def test_argmax_finds_the_first_of_equals_anywhere(isa: str, vocab: int) -> None:
    logits = _random(40, vocab).bfloat16()  # equals are common
    wide = torch.stack((logits, logits), 1)[:, 1]  # rows further apart
    assert EVERY_SET[isa].argmax(wide).tolist() == logits.float().numpy().argmax(-1).tolist()


@each_set
@given(
    rows=st.integers(1, 40).flatmap(
        lambda vocab: st.lists(
            st.lists(st.integers(-9, 3), min_size=vocab, max_size=vocab), min_size=1, max_size=4
        )
    ),
    top_k=st.lists(st.integers(1, 50), min_size=4, max_size=4),
    top_p=st.lists(st.sampled_from([0.001, 0.25, 0.6, 0.93, 1.0]), min_size=4, max_size=4),
)
def test_cuts_match_the_scalar_reference(
    isa: str, rows: list[list[int]], top_k: list[int], top_p: list[float]
) -> None:
    logits = torch.tensor(rows, dtype=torch.float32)
    # An irrational step keeps running sums of probabilities away from p.
    logits *= math.e / 2
    count = len(rows)
    found = EVERY_SET[isa].apply_top_k_top_p(logits, torch.tensor(top_k[:count]), _doubles(*top_p[:count]))
    for row in range(count):
        params = SamplingParams(top_k=top_k[row], top_p=top_p[row])
        assert found[row].tolist() == reference_logits(logits[row].tolist(), params)


@each_set
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0, 30.0])
def test_cuts_match_the_reference(isa: str, spread: float) -> None:
    vocab = 4099
    logits = _random(3, vocab, 1, spread)
    logits[1] = (logits[1] * 8).round() / 8  # equals at the cut
    logits[2, ::2] = -torch.inf
    for top_k in (1, 2, 50, 600, 2500, 4098, vocab):
        for top_p in (0.05, 0.5, 0.9, 0.999, 1.0):
            k, p = torch.tensor([top_k] * 3), _doubles(*[top_p] * 3)
            found = EVERY_SET[isa].apply_top_k_top_p(logits, k, p).isfinite()
            expected = REFERENCE.apply_top_k_top_p(logits, k, p).isfinite()
            # Sums of thousands of fp32 probabilities agree to about 1e-7: one token more or less at the cut.
            slack = 0 if top_p == 1 else (expected.sum(-1) > 1000).int()
            assert bool(((found != expected).sum(-1) <= slack).all()), (top_k, top_p)


@each_set
def test_a_cut_among_equals_keeps_the_lowest_ids(isa: str) -> None:
    logits = torch.zeros(2, 4099)
    logits[:, ::2] *= -1  # zeros of either sign are equal
    logits[1, 4000:] = 1.0
    ranked = [*range(4000, 4099), *range(4000)]
    for top_k in (1, 50, 600, 4098):
        found = EVERY_SET[isa].apply_top_k_top_p(logits, torch.tensor([top_k] * 2), _doubles(1, 1))
        kept = [row.isfinite().nonzero().squeeze(1).tolist() for row in found]
        assert kept == [list(range(top_k)), sorted(ranked[:top_k])]


@each_set
def test_min_p_and_temperature_are_the_references(isa: str) -> None:
    logits = _random(4, 1003)
    logits[1, 7], logits[2, 8] = torch.nan, torch.inf
    p, by = _doubles(0.0, 0.4, 0.1, 1.0), torch.tensor([1.0, 0.5, 1.7, 1e-5])
    ours, cut = EVERY_SET[isa], REFERENCE.apply_min_p(logits, p)
    torch.testing.assert_close(ours.apply_min_p(logits, p), cut, rtol=0, atol=0, equal_nan=True)
    for narrow in (logits, logits.bfloat16()):
        expected = REFERENCE.apply_temperature(narrow, by)
        found = ours.apply_temperature(narrow, by)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@each_set
def test_what_is_off_costs_nothing(isa: str) -> None:
    logits, ours = _random(2, 5), EVERY_SET[isa]
    assert ours.apply_temperature(logits, torch.ones(2)) is logits
    assert ours.apply_min_p(logits, _doubles(0, 0)) is logits
    assert ours.apply_top_k_top_p(logits, torch.tensor([5, 9]), _doubles(1, 1)) is logits


@each_set
@pytest.mark.parametrize("vocab", [1, 3, 255, 256, 257, 1000, 70_001])
def test_draws_invert_the_cumulative_distribution(isa: str, vocab: int) -> None:
    logits = _random(6, vocab, vocab, 2.0)
    logits[:, ::3] = -torch.inf if vocab > 1 else 0.0
    numbers = _doubles(0.0, 1e-12, 0.2, 0.5, 0.77, ALMOST_ONE)
    for narrow in (logits, logits.bfloat16()):
        ends = narrow.double().softmax(-1).cumsum(1)
        for row, token in enumerate(EVERY_SET[isa].draw_from(narrow, numbers).tolist()):
            assert narrow[row, token] > -torch.inf
            below = float(ends[row, token - 1]) if token else 0.0
            assert below - 1e-6 <= float(numbers[row]) <= float(ends[row, token]) + 1e-6
        widened = EVERY_SET[isa].draw_from(narrow.float(), numbers)
        assert torch.equal(widened, EVERY_SET[isa].draw_from(narrow, numbers))


@each_set
@pytest.mark.parametrize("vocab", [1, 3, 255, 1000, 70_001])
def test_races_have_the_references_winner(isa: str, vocab: int) -> None:
    logits = _random(40, vocab, vocab, 2.0)
    logits[:, ::3] = -torch.inf if vocab > 1 else 0.0
    keys = torch.from_numpy(words(np.full(40, 5, dtype=np.uint64), np.arange(40)))
    for narrow in (logits, logits.bfloat16()):
        ours = EVERY_SET[isa].draw_coupled(narrow, keys)
        times = exponentials(keys, vocab) / narrow.softmax(-1, dtype=torch.float32)
        torch.testing.assert_close(times.gather(1, ours[:, None])[:, 0], times.amin(1), rtol=1e-5, atol=0)
        one = slice(17, 18)
        assert torch.equal(EVERY_SET[isa].draw_coupled(narrow[one], keys[one]), ours[one])


@each_set
def test_a_race_without_runners_ends_somewhere(isa: str) -> None:
    logits = _random(3, 50)
    logits[0], logits[1, 7] = -torch.inf, torch.nan
    keys = torch.from_numpy(words(np.zeros(3, dtype=np.uint64), np.arange(3)))
    found = EVERY_SET[isa].draw_coupled(logits, keys)
    assert bool(((found >= 0) & (found < 50)).all())
    assert torch.equal(found[2:], EVERY_SET[isa].draw_coupled(logits[2:], keys[2:]))


@each_set
@given(
    kept=st.sets(st.integers(0, 599), min_size=1, max_size=5),
    number=st.sampled_from([0.0, 2.0**-53, 0.999999999, ALMOST_ONE]) | st.floats(0, ALMOST_ONE),
    depth=st.floats(0, 200),
    top=st.sampled_from([0.0, -3.0e38, 3.0e38]),
)
def test_an_excluded_token_is_never_drawn(
    isa: str, kept: set[int], number: float, depth: float, top: float
) -> None:
    logits = torch.full((1, 600), -torch.inf)
    for i, token in enumerate(sorted(kept)):
        logits[0, token] = top - depth * i  # down to probabilities that fp32 cannot hold
    assert EVERY_SET[isa].draw_from(logits, _doubles(number)).item() in kept


@each_set
def test_most_likely_ids_are_in_order_of_value_and_id(isa: str) -> None:
    logits = (_random(3, 5003) * 2).round() / 2
    logits[2, 5:] = -torch.inf
    ids = torch.tensor([7, 5002, 1])
    for k in (1, 40, 3000, 5003):
        _, rank, top, top_ids = EVERY_SET[isa].log_softmax_gather(logits, ids, k)
        expected = REFERENCE.log_softmax_gather(logits, ids, k)
        torch.testing.assert_close(top, expected[2], rtol=0, atol=2e-5)
        assert torch.equal(rank, expected[1])
        assert torch.equal(top_ids, logits.argsort(dim=-1, descending=True, stable=True)[:, :k])


@each_set
def test_bad_rows_stay_alone(isa: str) -> None:
    """Rows with NaN or Inf give something in range, and the others what they give without them."""
    ours, clean = EVERY_SET[isa], _random(6, 3001)
    dirty = clean.clone()
    dirty[0, 77], dirty[1], dirty[2], dirty[3, 5] = torch.nan, torch.nan, -torch.inf, torch.inf
    good, ids, numbers = [4, 5], torch.arange(6), _doubles(*[0.5] * 6)
    k, p = torch.tensor([3, 3001, 3, 2000, 3001, 9]), _doubles(0.5, 0.5, 1, 1, 0.7, 1)
    assert torch.equal(ours.apply_top_k_top_p(dirty, k, p)[good], ours.apply_top_k_top_p(clean, k, p)[good])
    assert torch.equal(ours.draw_from(dirty, numbers)[good], ours.draw_from(clean, numbers)[good])
    assert bool(ours.draw_from(dirty, numbers).lt(3001).all())
    for i, found in enumerate(ours.log_softmax_gather(dirty, ids, 5)):
        assert torch.equal(found[good], ours.log_softmax_gather(clean, ids, 5)[i][good])
        assert i != 3 or bool(((found >= 0) & (found < 3001)).all())


@each_set
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_row_is_the_same_in_any_batch(isa: str, threads: int) -> None:
    rows, vocab = 9, 4003
    logits, ours = _random(rows, vocab), EVERY_SET[isa]
    ends = logits.double().softmax(-1).cumsum(1)
    numbers = ends[:, 1717].clamp(max=ALMOST_ONE)  # at the very edge between two tokens
    k, p = torch.arange(1, rows + 1) * 500, torch.linspace(0.1, 1, rows, dtype=torch.float64)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        drawn, cut = ours.draw_from(logits, numbers), ours.apply_top_k_top_p(logits, k, p)
    finally:
        torch.set_num_threads(before)
    for i in range(rows):
        one = slice(i, i + 1)
        assert torch.equal(ours.draw_from(logits[one], numbers[one]), drawn[one])
        assert torch.equal(ours.apply_top_k_top_p(logits[one], k[one], p[one]), cut[one])


@each_set
def test_ids_out_of_range_are_named(isa: str) -> None:
    table = torch.randn(11, 7)
    for bad in (-1, 11):
        with pytest.raises(IndexError):
            EVERY_SET[isa].embedding(torch.tensor([0, bad]), table)
        with pytest.raises(IndexError, match="not within 11"):
            EVERY_SET[isa].log_softmax_gather(_random(7, 11), torch.tensor([bad] * 7), 1)
    assert torch.equal(
        EVERY_SET[isa].embedding(torch.tensor([[3], [10]]), table[:, 2:5]), table[[[3], [10]], 2:5]
    )


@each_set
class TestStandardSamplerOnCpuKernels(SamplerSuite):
    """The sampler's own suite, with the library's operations under it."""

    @pytest.fixture
    def sampler_class(self) -> type[Sampler]:
        return StandardSampler

    @pytest.fixture
    def kernels(self, isa: str) -> Kernels:
        return EVERY_SET[isa]


@each_set
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [5, 31, 64, 1000, 5003])
@pytest.mark.parametrize("rows", [list(range(40)), [0, 7, 39]])
def test_masks_and_their_peaks_are_the_references(
    isa: str, dtype: torch.dtype, vocab: int, rows: list[int]
) -> None:
    wide = torch.cat((_random(40, vocab), _random(40, 3)), 1).to(dtype)
    wide[1, 0] = 1e-40  # a denormal stays what it is
    wide[2, 1], wide[39, 2] = torch.nan, -torch.inf
    logits = wide[:, :vocab]
    before = logits.clone()
    shape = (len(rows), (vocab + 31) // 32)
    bits = torch.randint(-(2**31), 2**31 - 1, shape, generator=torch.Generator().manual_seed(1)).int()
    bits[0], bits[-1] = 0, -1
    kernels = EVERY_SET[isa]
    expected = REFERENCE.apply_token_bitmask(logits, bits, rows)
    masked = kernels.apply_token_bitmask(logits, bits, rows)
    assert torch.equal(masked.nan_to_num(nan=9e9), expected.nan_to_num(nan=9e9))
    for kept, plain in zip(kernels.peak(masked), REFERENCE.peak(expected), strict=True):
        assert torch.equal(kept.nan_to_num(), plain.float().nan_to_num() if plain.dtype == dtype else plain)
    assert torch.equal(logits.nan_to_num(), before.nan_to_num())
