"""Sampling operations against the scalar reference, at the edges, and row by row."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quire.ops.philox import philox4x32, uniforms
from quire.ops.sampling import SamplingOps
from quire.sampling_params import SamplingParams
from quire.testing.sampler_reference import reference_logits, reference_probabilities

OPS = SamplingOps()
ALMOST_ONE = 1 - 2.0**-53


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Kernels that split a row among threads do so only when there are several."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _kept(logits: torch.Tensor) -> list[list[int]]:
    return [row.isfinite().nonzero().squeeze(1).tolist() for row in logits]


@given(
    # Few distinct values, so that equals at the cut are the rule (as they are for bf16 logits).
    rows=st.integers(1, 40).flatmap(
        lambda vocab: st.lists(
            st.lists(st.integers(-3, 3), min_size=vocab, max_size=vocab), min_size=1, max_size=4
        )
    ),
    top_k=st.lists(st.integers(1, 50), min_size=4, max_size=4),
    top_p=st.lists(st.sampled_from([0.001, 0.25, 0.6, 0.93, 1.0]), min_size=4, max_size=4),
)
def test_top_k_top_p_matches_the_reference(
    rows: list[list[int]], top_k: list[int], top_p: list[float]
) -> None:
    logits = torch.tensor(rows, dtype=torch.float32)
    # An irrational step keeps running sums of probabilities away from p.
    logits *= math.e / 2
    count = len(rows)
    k, p = torch.tensor(top_k[:count]), torch.tensor(top_p[:count], dtype=torch.float64)
    found = OPS.apply_top_k_top_p(logits, k, p)
    for row in range(count):
        params = SamplingParams(top_k=top_k[row], top_p=top_p[row])
        expected = reference_logits(logits[row].tolist(), params)
        assert found[row].tolist() == expected


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
def test_wide_and_narrow_nuclei_match_the_reference(top_p: float, spread: float) -> None:
    vocab = 4099  # wide enough that the window is tried first
    logits = spread * torch.randn(3, vocab, generator=torch.Generator().manual_seed(1))
    logits[1] = (logits[1] * 8).round() / 8  # equals at the cut
    off = torch.full((3,), vocab)
    found = OPS.apply_top_k_top_p(logits, off, torch.full((3,), top_p, dtype=torch.float64))
    for row in range(3):
        probs = logits[row].double().softmax(-1)
        ranked = torch.argsort(logits[row], descending=True, stable=True)
        count = int((probs[ranked].cumsum(0) < top_p).sum()) + 1
        kept = _kept(found)[row]
        # Sums of thousands of fp32 probabilities agree to about 1e-7: one token more or less at the cut.
        assert abs(len(kept) - count) <= (1 if count > 1000 else 0)
        assert kept == sorted(ranked[: len(kept)].tolist())


@pytest.mark.parametrize("top_k", [1, 2, 50, 600, 4098])
def test_top_k_keeps_exactly_k_with_the_lowest_ids_among_equals(top_k: int) -> None:
    logits = torch.zeros(2, 4099)
    logits[1, 4000:] = 1.0
    found = OPS.apply_top_k_top_p(logits, torch.tensor([top_k] * 2), torch.ones(2, dtype=torch.float64))
    kept = _kept(found)
    ranked = [*range(4000, 4099), *range(4000)]
    assert kept[0] == list(range(top_k))
    assert kept[1] == sorted(ranked[:top_k])


@pytest.mark.parametrize("neighbour", [(4, 0.5), (2000, 1.0), (5003, 0.9999), (5003, 0.3)])
def test_neighbours_do_not_move_a_cut(neighbour: tuple[int, float], two_threads: None) -> None:
    vocab = 5003
    logits = torch.randn(2, vocab, generator=torch.Generator().manual_seed(5))
    for own in [(vocab, 0.9), (vocab, 0.2), (40, 1.0), (40, 0.8), (1500, 0.99)]:
        k, p = torch.tensor([own[0], neighbour[0]]), torch.tensor([own[1], neighbour[1]], dtype=torch.float64)
        alone = OPS.apply_top_k_top_p(logits[:1], k[:1], p[:1])
        assert torch.equal(OPS.apply_top_k_top_p(logits, k, p)[0], alone[0])


def test_min_p_is_relative_to_the_most_likely_token() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.125, 0.0625]] * 3).log()
    found = OPS.apply_min_p(logits, torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64))
    assert _kept(found) == [[0, 1, 2, 3], [0, 1], [0]]


@pytest.mark.parametrize("vocab", [1, 3, 255, 256, 257, 512, 1000, 70_001])
def test_draws_invert_the_cumulative_distribution(vocab: int) -> None:
    logits = 2 * torch.randn(6, vocab, generator=torch.Generator().manual_seed(vocab))
    logits[:, ::3] = -torch.inf if vocab > 1 else 0.0
    numbers = torch.tensor([0.0, 1e-12, 0.2, 0.5, 0.77, ALMOST_ONE], dtype=torch.float64)
    ends = logits.double().softmax(-1).cumsum(1)
    for row, token in enumerate(OPS.draw_from(logits, numbers).tolist()):
        assert logits[row, token] > -torch.inf
        below = float(ends[row, token - 1]) if token else 0.0
        assert below - 1e-6 <= float(numbers[row]) <= float(ends[row, token]) + 1e-6


@pytest.mark.parametrize("number", [0.0, 5e-324, 0.5, ALMOST_ONE])
@pytest.mark.parametrize("only", [0, 1, 255, 256, 511, 512, 999])
def test_a_lone_survivor_is_always_drawn(number: float, only: int) -> None:
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, only] = -3.0e38
    assert OPS.draw_from(logits, torch.tensor([number], dtype=torch.float64)).tolist() == [only]


@given(
    kept=st.sets(st.integers(0, 599), min_size=1, max_size=5),
    number=st.sampled_from([0.0, 2.0**-53, 1e-30, 0.999999999, ALMOST_ONE]) | st.floats(0, ALMOST_ONE),
    depth=st.floats(0, 200),
)
def test_an_excluded_token_is_never_drawn(kept: set[int], number: float, depth: float) -> None:
    logits = torch.full((1, 600), -torch.inf)
    for i, token in enumerate(sorted(kept)):
        logits[0, token] = -depth * i  # down to probabilities that fp32 cannot hold
    assert OPS.draw_from(logits, torch.tensor([number], dtype=torch.float64)).item() in kept


@pytest.mark.parametrize("rows", [2, 5, 33])
@pytest.mark.parametrize("vocab", [300, 40_000, 40_960])
def test_draws_are_bitwise_independent_of_the_batch(rows: int, vocab: int, two_threads: None) -> None:
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, vocab, generator=generator)
    ends = logits.double().softmax(-1).cumsum(1)
    # Numbers at the very edge between two tokens: the last bit of any sum decides.
    edge = torch.randint(0, vocab, (rows, 1), generator=generator)
    numbers = ends.gather(1, edge).squeeze(1).clamp(max=ALMOST_ONE)
    together = OPS.draw_from(logits, numbers)
    alone = [OPS.draw_from(logits[i : i + 1], numbers[i : i + 1]).item() for i in range(rows)]
    assert together.tolist() == alone


def test_sparse_operations_touch_their_entries_only() -> None:
    logits = torch.arange(12, dtype=torch.float32).view(3, 4)
    before = logits.clone()
    rows, ids = torch.tensor([0, 0, 2]), torch.tensor([1, 3, 0])
    masked = OPS.mask_tokens(logits, rows, ids)
    assert _kept(masked) == [[0, 2], [0, 1, 2, 3], [1, 2, 3]]
    kept = OPS.keep_tokens(logits, rows, ids)
    assert _kept(kept) == [[1, 3], [0, 1, 2, 3], [0]]
    assert kept[0, 3] == 3
    biased = OPS.bias_tokens(logits, rows, ids, torch.tensor([0.5, -1.0, 2.0]))
    assert (biased - logits).tolist() == [[0, 0.5, 0, -1.0], [0, 0, 0, 0], [2.0, 0, 0, 0]]
    assert torch.equal(logits, before)


def test_strided_logits_are_read_rightly() -> None:
    wide = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))
    view = wide[:, :7]
    rows, ids = torch.tensor([0, 2]), torch.tensor([6, 1])
    assert torch.equal(OPS.mask_tokens(view, rows, ids), OPS.mask_tokens(view.contiguous(), rows, ids))
    k, p = torch.tensor([2, 3, 7]), torch.ones(3, dtype=torch.float64)
    assert torch.equal(OPS.apply_top_k_top_p(view, k, p), OPS.apply_top_k_top_p(view.contiguous(), k, p))
    numbers = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    assert torch.equal(OPS.draw_from(view, numbers), OPS.draw_from(view.contiguous(), numbers))


def test_what_is_off_costs_nothing() -> None:
    logits = torch.randn(2, 5)
    assert OPS.apply_temperature(logits, torch.ones(2)) is logits
    assert OPS.apply_min_p(logits, torch.zeros(2, dtype=torch.float64)) is logits
    assert OPS.apply_top_k_top_p(logits, torch.tensor([5, 9]), torch.ones(2, dtype=torch.float64)) is logits


def test_no_rows_in_no_rows_out() -> None:
    nothing = torch.empty(0, 9)
    whole, real = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64)
    assert OPS.draw_from(nothing, real).shape == (0,)
    assert OPS.argmax(nothing).shape == (0,)
    assert OPS.apply_top_k_top_p(nothing, whole, real).shape == (0, 9)
    assert OPS.apply_min_p(nothing, real).shape == (0, 9)


def test_penalties_match_the_reference() -> None:
    logits = torch.randn(2, 9, generator=torch.Generator().manual_seed(4))
    params = SamplingParams(repetition_penalty=1.5, frequency_penalty=0.25, presence_penalty=-0.5)
    expected = reference_logits(logits[1].tolist(), params, prompt_ids=[2, 3], output_ids=[3, 8, 8])
    found = OPS.apply_penalties(
        logits,
        rows=torch.tensor([1, 1, 1]),
        ids=torch.tensor([2, 3, 8]),
        counts=torch.tensor([0.0, 1.0, 2.0]),
        repetition=torch.tensor([9.0, 1.5]),
        frequency=torch.tensor([9.0, 0.25]),
        presence=torch.tensor([9.0, -0.5]),
    )
    torch.testing.assert_close(found[1].tolist(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(found[0], logits[0])


def _words(*values: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint64]], ...]:
    return tuple(np.asarray([value], dtype=np.uint64) for value in values)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # the known answers that the authors of Philox publish with Random123
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers(
    counter: tuple[int, int, int, int], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    c0, c1, c2, c3 = _words(*counter)
    k0, k1 = _words(*key)
    assert [int(word[0]) for word in philox4x32((c0, c1, c2, c3), (k0, k1))] == list(expected)


def test_uniforms_depend_on_seed_position_and_purpose_alone() -> None:
    seeds = np.arange(1000, dtype=np.uint64) << np.uint64(32)  # differ in the upper half only
    numbers = uniforms(seeds, range(1000))
    assert np.array_equal(uniforms(seeds[7:9], [7, 8]), numbers[7:9])
    assert len({*numbers, *uniforms(seeds, range(1000), purpose=1)}) == 2000
    assert len(set(uniforms(seeds[:1].repeat(2), [3, 3 + (1 << 32)]))) == 2
    assert 0 <= numbers.min() < 0.01 < 0.99 < numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.04


def test_the_reference_normalises() -> None:
    assert reference_probabilities([0.0, math.log(3.0), -math.inf]) == pytest.approx([0.25, 0.75, 0.0])


@given(
    # Bit patterns rather than numbers: signed zeros, infinities and NaN of either sign are among them.
    st.integers(1, 70).flatmap(
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
def test_argmax_of_bf16_is_that_of_its_values(bits: list[list[int]]) -> None:
    logits = torch.tensor(bits, dtype=torch.int16).view(torch.bfloat16)
    assert OPS.argmax(logits).tolist() == logits.float().numpy().argmax(-1).tolist()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_argmax_takes_views(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(1)).to(dtype)[:, 1]
    assert torch.equal(OPS.argmax(logits), logits.argmax(-1))
