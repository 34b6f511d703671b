"""Groups with a sliding window: admission, long sequences in small pools, and no fighting over blocks."""

from __future__ import annotations

import itertools

import pytest

from quire.errors import ConfigError, InvalidRequestError
from quire.scheduler.limits import check_admission, max_length

from .harness import Harness, config, request


@pytest.mark.parametrize("lag", [0, 1, 2])
@pytest.mark.parametrize("budget", [3, 16, 64])
def test_a_sequence_many_times_its_pool_runs_without_preemption(budget: int, lag: int) -> None:
    # A window of 6 lies in at most 3 blocks of 4, which is all there is.
    settings = config(num_blocks=(4,), windows=(6,), max_num_batched_tokens=budget, max_model_len=400)
    harness = Harness(settings, lag)
    harness.add(request("long", [i % 7 for i in range(200)], max_tokens=150, ignore_eos=True))
    harness.run()
    harness.check_finished()
    assert len(harness.tokens("long")) == 150
    assert harness.scheduler.stats().num_preemptions == 0


def test_a_prompt_is_refused_just_when_a_window_may_not_fit() -> None:
    fits = config(num_blocks=(4,), windows=(6,))  # 3 usable blocks
    check_admission(request("r", [1] * 60), fits)
    assert max_length(request("r", [1] * 60, max_tokens=500), fits) == fits.max_model_len
    tight = config(num_blocks=(4,), windows=(10,))  # 10 tokens lie in up to 4 blocks
    check_admission(request("r", [1] * 11), tight)
    assert max_length(request("r", [1] * 5, max_tokens=500), tight) == 13
    with pytest.raises(InvalidRequestError, match=r"12 tokens .* needs 4 KV blocks .* the pool has 3\."):
        check_admission(request("r", [1] * 12), tight)


def test_the_group_that_keeps_everything_bounds_the_length() -> None:
    settings = config(num_blocks=(9, 4), windows=(None, 6))
    check_admission(request("r", [1] * 31), settings)
    with pytest.raises(InvalidRequestError, match=r"needs 9 KV blocks .* the pool has 8\."):
        check_admission(request("r", [1] * 32), settings)


def test_without_chunked_prefill_a_prompt_has_to_fit_a_windows_pool_whole() -> None:
    settings = config(num_blocks=(4,), windows=(6,), enable_chunked_prefill=False)
    harness = Harness(settings)
    harness.add(request("r", [1] * 12, max_tokens=30, ignore_eos=True))
    harness.run()
    harness.check_finished()
    with pytest.raises(InvalidRequestError, match="13 tokens, more than the 12 that the smallest KV pool"):
        check_admission(request("r", [1] * 13), settings)


@pytest.mark.parametrize("budget", [8, 16, 48])
@pytest.mark.parametrize("blocks", [9, 15, 25])
def test_long_prompts_do_not_fight_over_the_blocks_of_their_next_chunks(blocks: int, budget: int) -> None:
    settings = config(
        num_blocks=(blocks,),
        windows=(12,),
        max_model_len=300,
        max_num_seqs=8,
        max_num_batched_tokens=budget,
        enable_prefix_caching=False,
    )
    harness = Harness(settings)
    for i in range(8):
        harness.add(request(f"r{i}", [i] * (20 + 25 * (i % 3)), max_tokens=40, ignore_eos=True))
    harness.run()
    harness.check_finished()
    once = sum(len(asked.prompt_ids) + 40 - 1 for asked in harness.requests.values())
    computed = sum(plan.num_tokens for plan in harness.plans)
    assert once <= computed <= 1.1 * once


def test_pools_too_small_for_all_windows_finish_all() -> None:
    for blocks, budget, caching in itertools.product((5, 7, 9), (4, 16), (True, False)):
        settings = config(
            num_blocks=(blocks,),
            windows=(9,),
            max_num_batched_tokens=budget,
            max_model_len=200,
            max_num_seqs=8,
            enable_prefix_caching=caching,
        )
        harness = Harness(settings)
        for i in range(8):
            asked = request(f"r{i}", [i % 3] * (5 + 9 * i), max_tokens=30, n=1 + i % 2, ignore_eos=True)
            harness.add(asked)
        harness.run(max_steps=3000)
        harness.check_finished()


def test_windows_are_one_per_group() -> None:
    with pytest.raises(ConfigError, match=r"windows=\(6,\) does not name one window for each of the 2"):
        config(num_blocks=(9, 9), windows=(6,))
