"""The sampler contract as a test suite. Subclass it and give it your sampler:

    class TestMySampler(SamplerSuite):
        @pytest.fixture
        def sampler_class(self) -> type[Sampler]:
            return MySampler

Distributions are held to the exact one by a chi-square test at fixed seeds: a correct sampler fails
a case with probability `P_BOUND`, once and for all. Everything else is exact.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from quire.contracts import KernelsInit, KernelsNeed, Sampler, SampleRows
from quire.errors import InvalidRequestError
from quire.ops import Kernels
from quire.sampling_params import SamplingParams
from quire.testing.captured_draw import CapturedDrawChecks
from quire.testing.sampler_bench import (
    EDITS,
    SHAPES,
    SLOTS,
    VOCAB,
    Bench,
    Seat,
    chi_square_p,
    random_logits,
    random_seat,
)
from quire.testing.sampler_reference import reference_logits, reference_probabilities

__all__ = ["P_BOUND", "SamplerSuite"]

P_BOUND = 1e-4
"""A case fails if the exact distribution would deviate as far less often than this."""


class SamplerSuite(CapturedDrawChecks):
    """What every sampler must hold. Override `sampler_class`, and `kernels` or `device` if need be."""

    draws = 6000
    """Tokens drawn to test a distribution; fewer where a draw takes long."""

    @pytest.fixture
    def sampler_class(self) -> type[Sampler]:
        """The class under test."""
        raise NotImplementedError("Override the fixture `sampler_class`.")

    @pytest.fixture
    def kernels(self, device: str) -> Kernels:
        """The operations the sampler is given; plain PyTorch unless overridden."""
        need = KernelsNeed(device=torch.device(device).type, dtype="float32")
        return Kernels(KernelsInit(need=need, device=device))

    @pytest.fixture
    def device(self) -> str:
        """Torch device string."""
        return "cpu"

    @pytest.fixture
    def bench(self, sampler_class: type[Sampler], kernels: Kernels, device: str) -> Bench:
        """Makes samplers and runs them."""
        return Bench(sampler_class, kernels, device)

    @pytest.mark.parametrize("shape", SHAPES)
    def test_draws_follow_the_exact_distribution(self, bench: Bench, shape: str) -> None:
        count = self.draws
        logits = random_logits(1, 5)[0]
        seat = Seat(SamplingParams(**SHAPES[shape]), seed=1234)
        exact = reference_probabilities(reference_logits(logits.tolist(), seat.params, seat.prompt))
        sampler = bench.sampler([seat])
        rows = SampleRows([0] * count, list(range(len(seat.prompt), len(seat.prompt) + count)))
        distribution = sampler.process(logits.expand(count, -1).to(bench.device), rows)
        drawn = sampler.draw(distribution, rows).cpu()
        observed = torch.bincount(drawn, minlength=VOCAB).tolist()
        assert all(n == 0 for n, p in zip(observed, exact, strict=True) if p == 0), (
            "an excluded token was drawn"
        )
        assert chi_square_p(observed, exact) > P_BOUND

    @pytest.mark.parametrize("edit", [*EDITS, *SHAPES])
    @pytest.mark.parametrize("temperature", [None, 0.0])
    def test_processors_match_the_scalar_reference(
        self, bench: Bench, edit: str, temperature: float | None
    ) -> None:
        given = {**SHAPES, **EDITS}[edit]
        params = SamplingParams(**(given if temperature is None else {**given, "temperature": temperature}))
        seats = [
            Seat(params, seed=i, outputs=outputs)
            for i, outputs in enumerate([[], [6], [5, 6], [1, 2, 3, 4, 5, 6], [8, 8, 8, 20]])
        ]
        bench.check(seats, random_logits(len(seats), 17))

    @pytest.mark.parametrize("draw", range(25))
    def test_random_combinations_match_the_scalar_reference(self, bench: Bench, draw: int) -> None:
        choose = random.Random(draw)
        seats = [random_seat(choose) for _ in range(SLOTS)]
        bench.check(seats, random_logits(SLOTS, 100 + draw))

    def test_equals_rank_by_id_and_top_k_keeps_exactly_k(self, bench: Bench) -> None:
        logits = torch.zeros(3, VOCAB)
        logits[:, 30] = 1.0
        seats = [
            Seat(SamplingParams(top_k=4), 1),
            Seat(SamplingParams(temperature=0), 2),
            Seat(SamplingParams(top_p=0.15), 3),
        ]
        bench.check(seats, logits)

    def test_a_row_alone_is_bitwise_the_row_in_a_batch(self, bench: Bench) -> None:
        vocab = 5003  # neither a multiple of a vector's width nor small enough for one sum
        seats = [
            Seat(SamplingParams(**shape), seed=900 + i, outputs=[1, 4, 4])
            for i, shape in enumerate([*SHAPES.values(), *EDITS.values()])
        ]
        logits = 3 * torch.randn(len(seats), vocab, generator=torch.Generator().manual_seed(3))
        together, ids = bench.step(seats, logits, vocab)
        for i, seat in enumerate(seats):
            alone, own = bench.step([seat], logits[i : i + 1], vocab)
            assert torch.equal(alone.logits[0], together.logits[i])
            assert own == [ids[i]]

    def test_batch_order_and_slot_do_not_change_tokens(self, bench: Bench) -> None:
        choose = random.Random(7)
        seats = [random_seat(choose) for _ in range(SLOTS)]
        logits = random_logits(SLOTS, 8)
        _, expected = bench.step(seats, logits)
        order = list(range(SLOTS))
        choose.shuffle(order)
        _, seated_elsewhere = bench.step([seats[i] for i in order], logits[order])
        assert seated_elsewhere == [expected[i] for i in order]
        sampler = bench.sampler(seats)
        _, reordered = bench.run(sampler, seats, logits[order], order)
        assert reordered == [expected[i] for i in order]

    def test_seed_and_position_both_change_the_draw(self, bench: Bench) -> None:
        logits = torch.zeros(1, VOCAB)
        seat = Seat(SamplingParams(), seed=5)
        draws = {
            (s, n): bench.step([replace(seat, seed=s, outputs=[1] * n)], logits)[1][0]
            for s in range(8)
            for n in range(8)
        }
        for fixed in range(8):
            assert len({draws[fixed, n] for n in range(8)}) > 2
            assert len({draws[s, fixed] for s in range(8)}) > 2

    def test_resuming_equals_living_through(self, bench: Bench) -> None:
        choose = random.Random(11)
        seats = [random_seat(choose, outputs=0) for _ in range(SLOTS)]
        sampler = bench.sampler(seats)
        for step in range(6):
            logits = random_logits(SLOTS, 50 + step)
            lived, ids = bench.run(sampler, seats, logits)
            resumed, again = bench.step(seats, logits)
            assert torch.equal(lived.logits, resumed.logits)
            assert again == ids
            sampler.commit(list(range(SLOTS)), ids, [1] * SLOTS)
            for seat, token in zip(seats, ids, strict=True):
                seat.outputs.append(token)

    def test_commit_takes_several_tokens_of_some_slots(self, bench: Bench) -> None:
        params = SamplingParams(
            repetition_penalty=1.5, frequency_penalty=0.5, bad_words_token_ids=((4, 6), (9,))
        )
        seats = [Seat(params, seed=i) for i in range(4)]
        sampler = bench.sampler(seats)
        sampler.commit([2, 0, 1], [7, 4, 4, 4, 4], [2, 0, 3])
        seats[2].outputs, seats[1].outputs = [7, 4], [4, 4, 4]
        logits = random_logits(4, 3)
        lived, ids = bench.run(sampler, seats, logits)
        resumed, again = bench.step(seats, logits)
        assert torch.equal(lived.logits, resumed.logits)
        assert ids == again

    def test_process_and_draw_change_no_state(self, bench: Bench) -> None:
        choose = random.Random(13)
        seats = [random_seat(choose) for _ in range(SLOTS)]
        sampler = bench.sampler(seats)
        logits = random_logits(SLOTS, 9)
        before = logits.clone()
        first, ids = bench.run(sampler, seats, logits)
        bench.run(sampler, seats[:3], random_logits(3, 10))
        second, again = bench.run(sampler, seats, logits)
        assert torch.equal(first.logits, second.logits)
        assert ids == again
        assert torch.equal(logits, before), "the incoming logits were written to"

    @pytest.mark.parametrize("name", [*SHAPES, *EDITS, "greedy"])
    def test_nan_fails_its_own_row_only(self, bench: Bench, name: str) -> None:
        given = {**SHAPES, **EDITS, "greedy": {"temperature": 0}}[name]
        seats = [Seat(SamplingParams(**given), seed=i, outputs=[6]) for i in range(5)]
        logits = random_logits(5, 21)
        clean, expected = bench.step(seats, logits)
        logits[1, 13] = math.nan  # excluded by some of the processors, and invalid all the same
        logits[3] = math.nan
        dirty, ids = bench.step(seats, logits)
        assert dirty.invalid.tolist() == [False, True, False, True, False]
        for i in (0, 2, 4):
            assert torch.equal(dirty.logits[i], clean.logits[i])
            assert ids[i] == expected[i]
        assert all(0 <= token < VOCAB for token in ids)

    def test_a_row_with_nothing_left_is_invalid(self, bench: Bench) -> None:
        nothing = SamplingParams(allowed_token_ids=[4], bad_words_token_ids=((4,),), top_p=0.9)
        seats = [Seat(nothing, 1), Seat(SamplingParams(), 2), Seat(SamplingParams(temperature=0), 3)]
        logits = random_logits(3, 2)
        logits[2] = -math.inf
        distribution, ids = bench.step(seats, logits)
        assert distribution.invalid.tolist() == [True, False, True]
        assert all(0 <= token < VOCAB for token in ids)

    @pytest.mark.parametrize("temperature", [0.8, 0.0])
    def test_an_end_is_excluded_only_where_something_else_is_left(
        self, bench: Bench, temperature: float
    ) -> None:
        asked = SamplingParams(min_tokens=4, stop_token_ids=[11, 12], temperature=temperature)
        alone = SamplingParams(
            min_tokens=4, stop_token_ids=[11], allowed_token_ids=[11], temperature=temperature
        )
        seats = [Seat(one, seed) for seed, one in enumerate([asked] * 5 + [alone])]
        logits = torch.full((6, VOCAB), -math.inf)
        logits[0, 11] = logits[1, [11, 12]] = logits[2, [11, 20]] = 1.0
        logits[3, 11] = math.nan
        logits[5] = 0.0
        distribution, ids = bench.step(seats, logits)
        assert distribution.invalid.tolist() == [False, False, False, True, True, False]
        assert ids[0] == ids[5] == 11
        assert ids[1] in (11, 12)
        assert ids[2] == 20

    def test_infinite_logits_take_or_lose_everything(self, bench: Bench) -> None:
        logits = random_logits(3, 2)
        logits[:, 8] = math.inf
        logits[:, 9] = -math.inf
        seats = [
            Seat(SamplingParams(temperature=0.5), 1),
            Seat(SamplingParams(temperature=0), 2),
            Seat(SamplingParams(top_p=0.9, top_k=5, min_p=0.1), 3),
        ]
        distribution, ids = bench.step(seats, logits)
        assert ids == [8, 8, 8]
        assert not distribution.invalid.any()

    @pytest.mark.parametrize("name", [*EDITS, "plain"])
    @pytest.mark.parametrize("temperature", [0.8, 0.0])
    def test_a_draft_chain_equals_stepping(self, bench: Bench, name: str, temperature: float) -> None:
        given = {**{**EDITS, "plain": {}}[name], "temperature": temperature}
        seats = [
            Seat(SamplingParams(**given), seed=5, outputs=[5]),
            Seat(SamplingParams(temperature=0), seed=6),
            Seat(SamplingParams(**given), seed=7),
        ]
        drafts = {0: [6, 8, 8, 3], 1: [], 2: [6, 9]}
        slots, positions, counts, before = [], [], [], []
        for slot in (2, 0, 1):
            for count in range(len(drafts[slot]) + 1):
                slots.append(slot)
                positions.append(seats[slot].position + count)
                counts.append(count)
                before.append(drafts[slot][count - 1] if count else -1)
        logits = random_logits(len(slots), 31)
        sampler = bench.sampler(seats)
        rows = SampleRows(slots, positions, counts)
        draft_ids = torch.tensor(before, device=bench.device)
        chain = sampler.process(logits.to(bench.device), rows, draft_ids)
        ids = sampler.draw(chain, rows).tolist()
        for row, (slot, count) in enumerate(zip(slots, counts, strict=True)):
            seat = replace(seats[slot], outputs=seats[slot].outputs + drafts[slot][:count])
            alone, own = bench.step([seat], logits[row : row + 1])
            assert torch.allclose(alone.logits[0], chain.logits[row], rtol=1e-6, atol=0)
            assert own == [ids[row]]

    def test_reused_slots_remember_nothing(self, bench: Bench) -> None:
        heavy = SamplingParams(**{**EDITS["everything"], "temperature": 1.5})
        first = [Seat(heavy, seed=i, outputs=[6, 6, 8]) for i in range(SLOTS)]
        sampler = bench.sampler(first)
        bench.run(sampler, first, random_logits(SLOTS, 1))
        choose = random.Random(3)
        for params in (SamplingParams(), SamplingParams(temperature=0), SamplingParams(presence_penalty=1.0)):
            seats = [Seat(params, choose.getrandbits(64)) for _ in range(SLOTS)]
            for slot, seat in enumerate(seats):
                sampler.remove(slot)
                sampler.add(slot, seat.params, seat.seed, seat.prompt, seat.outputs)
            logits = random_logits(SLOTS, 2)
            reused, ids = bench.run(sampler, seats, logits)
            fresh, expected = bench.step(seats, logits)
            assert torch.equal(reused.logits, fresh.logits)
            assert ids == expected

    @pytest.mark.parametrize(
        "bad",
        [
            {"logit_bias": {VOCAB: 1.0}},
            {"allowed_token_ids": [1, 1 << 31]},
            {"stop_token_ids": [-1]},
            {"bad_words_token_ids": ((1, 1 << 64),)},
        ],
        ids=lambda bad: next(iter(bad)),
    )
    def test_a_refused_request_leaves_no_trace(self, bench: Bench, bad: dict[str, Any]) -> None:
        seats = [Seat(SamplingParams(top_p=0.9), seed=1), Seat(SamplingParams(), seed=2)]
        sampler = bench.sampler(seats[:1])
        heavy = {**EDITS["everything"], **bad}
        with pytest.raises(InvalidRequestError):
            sampler.add(1, SamplingParams(**heavy), 9, [1, 2], [3])
        sampler.add(1, seats[1].params, seats[1].seed, seats[1].prompt, [])
        logits = random_logits(2, 6)
        lived, ids = bench.run(sampler, seats, logits)
        fresh, expected = bench.step(seats, logits)
        assert torch.equal(lived.logits, fresh.logits)
        assert ids == expected

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_narrow_logits_are_widened_first(self, bench: Bench, dtype: torch.dtype) -> None:
        seats = [Seat(SamplingParams(**shape), seed=i) for i, shape in enumerate(SHAPES.values())]
        logits = random_logits(len(seats), 4).to(dtype)
        narrow, ids = bench.step(seats, logits)
        wide, expected = bench.step(seats, logits.float())
        assert narrow.logits.dtype == torch.float32
        assert torch.equal(narrow.logits, wide.logits)
        assert ids == expected

    def test_no_rows_in_no_rows_out(self, bench: Bench) -> None:
        distribution, ids = bench.step([], torch.empty(0, VOCAB))
        assert distribution.logits.shape == (0, VOCAB)
        assert ids == []
