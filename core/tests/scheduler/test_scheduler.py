"""What one request, or a few in a pool with room, see of the scheduler."""

from __future__ import annotations

import pytest

from quire.errors import EngineError
from quire.plan import StepPlan, StepResult

from .fake_model import EOS
from .harness import Harness, alone, config, request


def work(plan: StepPlan) -> dict[int, int]:
    """Slot -> tokens computed."""
    return dict(zip(plan.slots, plan.counts, strict=True))


def test_a_prompt_is_computed_in_chunks_then_token_by_token() -> None:
    harness = Harness(config(max_num_batched_tokens=8))
    harness.add(request("r", list(range(11)) * 2, max_tokens=3))
    harness.run()
    assert [work(plan) for plan in harness.plans] == [{0: 8}, {0: 8}, {0: 6}, {0: 1}, {0: 1}, {}]
    assert harness.plans[-1].ended == [0]
    assert [start.request_id for plan in harness.plans for start in plan.starts] == ["r"]
    harness.check_finished()


def test_running_sequences_come_before_waiting_ones_and_share_the_budget() -> None:
    harness = Harness(config(max_num_batched_tokens=8))
    harness.add(request("a", [1] * 7, max_tokens=5, ignore_eos=True))
    harness.step()
    harness.add(request("b", [2] * 20, max_tokens=5, ignore_eos=True))
    assert work(harness.plan()) == {0: 1, 1: 7}
    harness.collect()
    assert work(harness.plan()) == {0: 1, 1: 7}
    harness.collect()
    assert work(harness.plan()) == {0: 1, 1: 6}


def test_without_chunked_prefill_a_prompt_waits_for_a_step_with_room_for_all_of_it() -> None:
    harness = Harness(config(max_num_batched_tokens=8, enable_chunked_prefill=False))
    harness.add(request("a", [1] * 7, max_tokens=3, ignore_eos=True))
    harness.add(request("b", [2] * 8, max_tokens=2, ignore_eos=True))
    harness.run()
    assert [work(plan) for plan in harness.plans[:5]] == [{0: 7}, {0: 1}, {0: 1}, {0: 8}, {0: 1}]
    harness.check_finished()


def test_without_chunked_prefill_a_resumed_sequence_may_outgrow_the_budget() -> None:
    settings = config(
        max_num_batched_tokens=8,
        enable_chunked_prefill=False,
        enable_prefix_caching=False,
        num_blocks=(6,),
    )
    harness = Harness(settings)
    for name in ("a", "b"):
        harness.add(request(name, [1] * 4, max_tokens=12, ignore_eos=True))
    harness.run()
    harness.check_finished()
    resumed = [start for plan in harness.plans for start in plan.starts if len(start.token_ids) > 8]
    assert resumed, "nobody was resumed with more tokens than the budget: the test is void"


def test_slots_are_reused_with_a_new_generation_after_their_end_was_told() -> None:
    harness = Harness(config(max_num_seqs=1))
    for name in ("a", "b"):
        harness.add(request(name, [1], max_tokens=1))
    first = harness.plan()
    harness.collect()
    second = harness.plan()
    assert (first.starts[0].slot, first.starts[0].generation) == (0, 1)
    assert second.ended == [0]
    assert (second.starts[0].slot, second.starts[0].generation) == (0, 2)


def test_a_warm_prefix_is_not_computed_again_but_for_one_token() -> None:
    harness = Harness(config())
    prompt = list(range(8))
    for name in ("cold", "warm"):
        harness.add(request(name, prompt, max_tokens=2))
        harness.run()
    cold, warm = (harness.outputs[name, 0] for name in ("cold", "warm"))
    assert (cold[0].num_cached_tokens, warm[0].num_cached_tokens) == (0, 4)
    start = [start for plan in harness.plans for start in plan.starts][-1]
    assert (start.num_computed, start.token_ids) == (4, prompt)
    stats = harness.scheduler.stats()
    assert (stats.prefix_queries, stats.prefix_hits) == (14, 4)
    harness.scheduler.reset_prefix_cache()
    harness.add(request("reset", prompt))
    harness.run()
    assert harness.outputs["reset", 0][0].num_cached_tokens == 0


def test_a_prefix_hit_needs_equal_tokens_adapter_and_salt() -> None:
    harness = Harness(config())
    prompt = [1, 2, 3, 4, 5]
    harness.add(request("first", prompt, cache_salt="A", adapter="x"))
    harness.run()
    for name, tokens, salt, adapter, hit in [
        ("same", prompt, "A", "x", 4),
        ("salt", prompt, "B", "x", 0),
        ("no salt", prompt, None, "x", 0),
        ("adapter", prompt, "A", "y", 0),
        ("no adapter", prompt, "A", None, 0),
        ("tokens", [0, 2, 3, 4, 5], "A", "x", 0),
    ]:
        harness.add(request(name, tokens, cache_salt=salt, adapter=adapter))
        harness.run()
        assert harness.outputs[name, 0][0].num_cached_tokens == hit, name
    harness.check_finished()


@pytest.mark.parametrize("lag", [0, 1])
def test_a_request_gets_the_same_tokens_whatever_its_neighbours(lag: int) -> None:
    asked = request("r", [5, 4, 3, 2, 1], max_tokens=12, seed=9, ignore_eos=True)
    expected, _, _ = alone(asked, 0, config())
    for neighbours in range(5):
        harness = Harness(config(num_blocks=(8,)), lag)
        for i in range(neighbours):
            harness.add(request(f"n{i}", [5, 4, 3, 2, 1, i], max_tokens=10, seed=i))
        harness.add(asked)
        harness.run()
        assert harness.tokens("r") == expected


def test_appended_tokens_are_an_output_and_computed_with_the_next() -> None:
    harness = Harness(config())
    harness.add(request("r", [1, 2, 3], max_tokens=8, ignore_eos=True))
    for _ in range(2):
        harness.step()
        harness.append("r", 0, 2)
    harness.run()
    harness.check_finished()
    assert [len(output.token_ids) for output in harness.outputs["r", 0]] == [1, 2, 1, 2, 1, 1]
    assert [plan.num_tokens for plan in harness.plans[:4]] == [3, 3, 3, 1]
    assert [len(ids) for plan in harness.plans for _, _, ids in plan.appended] == [2, 2]
    assert harness.scheduler.stats().num_forced_tokens == 4


def test_appended_tokens_obey_the_stopping_rules() -> None:
    harness = Harness(config())
    harness.add(request("r", [1, 2, 3], max_tokens=3, ignore_eos=True))
    harness.step()
    output = harness.scheduler.append("r", 0, [4, 5, 6, 7])
    assert output is not None
    assert (output.token_ids, output.finish_reason) == ([4, 5], "length")
    assert not harness.scheduler.has_unfinished()
    assert harness.scheduler.append("r", 0, [4]) is None


def test_nothing_is_appended_behind_a_token_that_is_under_way() -> None:
    harness = Harness(config(), lag=1)
    harness.add(request("r", [1, 2, 3], max_tokens=8))
    harness.plan()
    assert harness.scheduler.append("r", 0, [4]) is None
    harness.collect()
    assert harness.scheduler.append("r", 0, [4]) is not None


def test_right_drafts_cost_no_steps_of_their_own() -> None:
    harness = Harness(config(num_speculative_tokens=3))
    harness.add(request("r", [1, 2, 3], max_tokens=9, ignore_eos=True))
    harness.run()
    harness.check_finished()
    assert [len(output.token_ids) for output in harness.outputs["r", 0]] == [1, 4, 4]
    assert [plan.num_tokens for plan in harness.plans[:3]] == [3, 4, 4]
    drafts = harness.scheduler.stats().drafts
    assert (drafts.num_drafts, drafts.num_draft_tokens) == (2, 6)
    assert (drafts.num_accepted_tokens, drafts.num_emitted_tokens) == (6, 8)


def test_after_a_wrong_draft_the_sequence_goes_on_from_the_token_that_was_right() -> None:
    harness = Harness(config(num_speculative_tokens=3), wrong=lambda position: position % 4 == 1)
    harness.add(request("r", [1, 2, 3], max_tokens=12, ignore_eos=True))
    harness.run()
    harness.check_finished()
    drafts = harness.scheduler.stats().drafts
    assert 0 < drafts.num_accepted_tokens < drafts.num_draft_tokens


def test_drafts_take_no_token_and_no_block_from_anybody() -> None:
    harness = Harness(config(num_speculative_tokens=3, max_num_batched_tokens=5))
    for name in ("a", "b", "c"):
        harness.add(request(name, [1], max_tokens=8, ignore_eos=True, seed=ord(name)))
    harness.run()
    harness.check_finished()
    assert all(len(plan.slots) == 3 for plan in harness.plans[:2])
    tight = Harness(config(num_speculative_tokens=3, num_blocks=(5,), block_size=4))
    for name in ("a", "b"):
        tight.add(request(name, [1, 2, 3, 4], max_tokens=4, ignore_eos=True))
    tight.run()
    tight.check_finished()
    assert tight.scheduler.stats().num_preemptions == 0


def test_who_waits_for_drafts_is_not_planned_before_they_are_there() -> None:
    harness = Harness(config(num_speculative_tokens=2), lag=1)
    harness.add(request("r", [1, 2, 3], max_tokens=6, ignore_eos=True))
    harness.plan()
    assert harness.plan().slots == []
    harness.collect()
    harness.collect()
    assert harness.plan().drafts
    harness.collect()
    harness.run()
    harness.check_finished()


def test_with_results_one_step_late_nothing_is_planned_past_the_last_token() -> None:
    harness = Harness(config(), lag=1)
    harness.add(request("r", [1, 2, 3], max_tokens=4, ignore_eos=True))
    harness.run()
    harness.check_finished()
    assert [plan.num_tokens for plan in harness.plans[:5]] == [3, 1, 1, 1, 0]


def test_prompt_logprobs_skip_the_cache_and_come_in_order_and_once() -> None:
    harness = Harness(config(max_num_batched_tokens=5))
    prompt = list(range(11))
    harness.add(request("warm-up", prompt))
    harness.run()
    harness.add(request("r", prompt, prompt_logprobs=0, n=2))
    harness.run()
    harness.check_finished()
    start = next(start for plan in harness.plans for start in plan.starts if start.request_id == "r")
    assert (start.num_computed, start.prompt_logprobs_from) == (0, 1)
    assert [len(output.prompt_logprobs or ()) for output in harness.outputs["r", 0][:3]] == [5, 5, 0]


def test_prompt_logprobs_go_on_after_a_preemption_where_they_stopped() -> None:
    harness = Harness(config(max_num_batched_tokens=6, policy="priority", max_num_seqs=1))
    harness.add(request("r", list(range(11)) * 2, prompt_logprobs=0, priority=1))
    harness.step()
    harness.add(request("urgent", [1], priority=0, max_tokens=1))
    harness.run()
    harness.check_finished()
    starts = [start for plan in harness.plans for start in plan.starts if start.request_id == "r"]
    assert [(s.prompt_logprobs_from, s.num_computed) for s in starts] == [(1, 0), (19, 16)]


def test_results_of_a_seat_lost_since_are_discarded_though_the_sequence_has_another() -> None:
    harness = Harness(config(max_num_seqs=1, policy="priority"))
    harness.add(request("r", [1, 2, 3], priority=1))
    harness.plan()
    harness.add(request("urgent", [4], priority=0))
    harness.plan()
    harness.abort("urgent")
    resumed = harness.plan()
    assert [start.request_id for start in resumed.starts] == ["r"]
    assert [harness.collect() for _ in range(2)] == [[], []]
    harness.run()
    harness.check_finished()


@pytest.mark.parametrize("when", ["waiting", "planned", "running"])
def test_an_abort_ends_a_request_at_once_and_leaves_its_neighbours_alone(when: str) -> None:
    harness = Harness(config(max_num_seqs=2))
    harness.add(request("other", [1, 2, 3], max_tokens=9))
    if when == "waiting":
        harness.add(request("third", [1]))
    harness.add(request("r", [4, 5, 6], n=2, max_tokens=9, ignore_eos=True))
    if when != "waiting":
        harness.plan()
    if when == "running":
        harness.collect()
    outputs = harness.abort("r")
    assert [(o.request_id, o.index, o.finish_reason) for o in outputs] == [
        ("r", 0, "abort"),
        ("r", 1, "abort"),
    ]
    assert harness.abort("r") == []
    if when == "planned":
        assert {output.request_id for output in harness.collect()} == {"other"}
    harness.run()
    harness.check_finished()


def test_aborting_what_is_not_there_gives_nothing() -> None:
    harness = Harness(config())
    harness.add(request("r", [1]))
    assert harness.abort("unknown") == []
    assert harness.abort("r", index=5) == []


def test_an_error_ends_all_completions_of_its_request_and_no_other() -> None:
    harness = Harness(config())
    harness.add(request("bad", [1, 2, 3], n=3))
    harness.add(request("good", [1, 2, 3], n=2))
    harness.worker.failing.add("bad")
    outputs = [output for output in harness.step() if output.request_id == "bad"]
    assert [(o.index, o.finish_reason, o.error) for o in outputs] == [(i, "error", "NaN") for i in range(3)]
    harness.run()
    harness.check_finished()
    assert harness.outputs["good", 1][-1].finish_reason in ("stop", "length")


def test_a_worker_that_samples_nothing_where_it_should_fails_the_request() -> None:
    harness = Harness(config())
    harness.add(request("r", [1, 2, 3]))
    plan = harness.plan()
    harness.under_way[0][1].slots[0].token_ids.clear()
    (output,) = harness.scheduler.update(plan, harness.under_way.pop()[1])
    assert output.error == "The worker returned 0 token ids; the plan asked for 1."


def test_results_of_another_step_or_lacking_a_slot_are_an_engine_error() -> None:
    harness = Harness(config())
    harness.add(request("r", [1]))
    plan = harness.plan()
    with pytest.raises(EngineError, match="step 1 does not answer step 0"):
        harness.scheduler.update(plan, StepResult(1, []))
    harness = Harness(config())
    harness.add(request("r", [1]))
    with pytest.raises(EngineError, match="step 0 lacks slot 0"):
        harness.scheduler.update(harness.plan(), StepResult(0, []))


def test_empty_plans_need_no_result_and_are_not_remembered() -> None:
    harness = Harness(config())
    harness.add(request("r", [1]))
    harness.step()
    harness.abort("r")
    plans = [harness.scheduler.schedule() for _ in range(3)]
    assert [plan.ended for plan in plans] == [[0], [], []]
    assert [plan.step_id for plan in plans] == [1, 2, 3]
    assert not harness.scheduler._under_way
    assert harness.scheduler.update(plans[0], StepResult(1, [])) == []


def test_outputs_and_stats_tell_what_happened() -> None:
    harness = Harness(config(max_num_seqs=1))
    harness.now = 5.0
    harness.add(request("a", [1], eos_token_ids=(EOS,), max_tokens=2))
    harness.add(request("b", [1], max_tokens=1))
    assert harness.scheduler.stats().num_waiting == 2
    harness.step()
    stats = harness.scheduler.stats()
    assert (stats.num_running, stats.num_waiting, stats.kv[0].used) == (1, 1, 1)
    harness.run()
    assert harness.outputs["a", 0][0].scheduled_time == 5.0
    assert harness.outputs["b", 0][0].scheduled_time == 5.0 + len(harness.tokens("a"))
