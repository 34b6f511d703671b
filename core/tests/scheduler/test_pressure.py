"""Pools too small for all: everybody finishes, nobody is preempted without end, and a jam is an error."""

from __future__ import annotations

import itertools

import pytest

from quire.errors import EngineError

from .harness import Harness, config, request


@pytest.mark.parametrize("lag", [0, 1])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("num_blocks", [(7,), (9,), (9, 7), (12, 16)])
def test_all_finish_with_bounded_preemptions(num_blocks: tuple[int, ...], policy: str, lag: int) -> None:
    for caching, budget in itertools.product((True, False), (4, 16, 64)):
        settings = config(
            num_blocks=num_blocks,
            policy=policy,
            max_num_batched_tokens=budget,
            max_num_seqs=8,
            enable_prefix_caching=caching,
        )
        harness = Harness(settings, lag)
        for i in range(12):
            asked = request(
                f"r{i}", [i, 1, 2], max_tokens=20, n=1 + i % 2, ignore_eos=True, priority=i % 3, seed=i
            )
            harness.add(asked)
        harness.run(max_steps=2000)
        harness.check_finished()
        outputs = [outputs[-1] for outputs in harness.outputs.values()]
        # 18 sequences of 6 blocks: a preemption pays for a block that an older sequence keeps.
        assert sum(output.num_preemptions for output in outputs) <= 18 * 6
        first = min(outputs, key=lambda o: (o.request_id != "r0", o.index))
        assert first.num_preemptions == 0


def test_nobody_starts_with_the_blocks_that_one_before_it_lacks() -> None:
    harness = Harness(config(num_blocks=(8,), block_size=1))
    for name in ("first", "second"):
        harness.add(request(name, [1], max_tokens=6, ignore_eos=True))
    harness.step()
    for name in ("first", "second"):
        harness.append(name, 0, 2)
    harness.add(request("late", [1], max_tokens=1, ignore_eos=True))
    # Both need 3 blocks more, 5 are left: 2 remain when the first has its own.
    plan = harness.plan()
    assert (plan.slots, plan.starts, harness.scheduler.stats().kv[0].free) == ([0], [], 2)
    harness.collect()
    harness.run()
    harness.check_finished()


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_the_first_in_order_works_in_every_step_until_it_is_done(policy: str) -> None:
    harness = Harness(config(num_blocks=(7,), policy=policy))
    for i in range(4):
        harness.add(request(f"r{i}", [i] * 6, max_tokens=16, ignore_eos=True, seed=i))
    for count in range(1, 17):
        outputs = harness.step()
        assert any(output.request_id == "r0" for output in outputs)
        assert len(harness.tokens("r0")) == count


def test_a_preempted_request_resumes_with_its_output_and_its_cached_blocks() -> None:
    harness = Harness(config(num_blocks=(6,)))
    for name in ("a", "b"):
        harness.add(request(name, [1, 2, 3, 4], max_tokens=12, ignore_eos=True))
    harness.run()
    harness.check_finished()
    starts = [start for plan in harness.plans for start in plan.starts if start.request_id == "b"]
    assert len(starts) > 1
    for start in starts[1:]:
        assert start.num_prompt == 4 < len(start.token_ids)
        assert start.token_ids[4:] == harness.tokens("b")[: len(start.token_ids) - 4]
        assert start.num_computed > 0
    assert harness.outputs["b", 0][-1].num_preemptions == len(starts) - 1
    assert harness.outputs["a", 0][-1].num_preemptions == 0


def test_a_victims_tokens_go_to_the_urgent() -> None:
    harness = Harness(config(policy="priority", max_num_seqs=1, max_num_batched_tokens=8))
    harness.add(request("low", [1] * 4, priority=1, ignore_eos=True))
    harness.step()
    harness.add(request("urgent", [2] * 8, max_tokens=1))
    assert harness.plan().counts == [8]


def test_a_request_that_outgrows_the_pool_ends_with_length_where_it_would_alone() -> None:
    harness = Harness(config(num_blocks=(5,), max_model_len=1000))
    for name in ("a", "b"):
        harness.add(request(name, [1, 2, 3], max_tokens=500, ignore_eos=True))
    harness.run()
    harness.check_finished()
    for name in ("a", "b"):
        assert harness.outputs[name, 0][-1].finish_reason == "length"
        assert len(harness.tokens(name)) == 16 + 1 - 3


@pytest.mark.parametrize("started", [False, True])
def test_a_jam_is_an_error_that_names_the_state(started: bool) -> None:
    harness = Harness(config(num_blocks=(4,)))
    kv = harness.scheduler._kv
    if started:
        harness.add(request("stuck", [1, 2, 3, 4], max_tokens=8, ignore_eos=True))
        harness.step()
    leak = "a transfer that never ends"
    assert kv.allocate("leak", 12 - 4 * started, step=None) is not None
    for block in kv.block_table("leak")[0]:
        kv.hold(leak, 0, block)
    kv.free("leak")
    if not started:
        harness.add(request("stuck", [1, 2, 3, 4]))
    state = "0 waiting, 1 running" if started else "1 waiting, 0 running"
    with pytest.raises(EngineError, match=rf"{state}.*'stuck' with .* 3 used, 0 cached, 0 free"):
        harness.run()
    kv.release(leak)
    harness.run()
    harness.check_finished()


def test_a_shower_of_urgent_requests_preempts_but_once_for_each() -> None:
    harness = Harness(config(policy="priority", num_blocks=(9,)))
    harness.add(request("low", [1] * 4, max_tokens=24, ignore_eos=True, priority=9))
    for i in range(10):
        harness.add(request(f"u{i}", [2] * 12, max_tokens=4, ignore_eos=True))
        for _ in range(3):
            harness.step()
    harness.run()
    harness.check_finished()
    assert harness.outputs["low", 0][-1].num_preemptions <= 10
