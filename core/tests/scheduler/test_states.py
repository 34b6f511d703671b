"""Hidden states are kept where drafts have a part, of prompts while they do, and else never."""

from __future__ import annotations

from quire.plan import SlotResult, StepPlan, StepResult
from quire.request import EngineRequest
from quire.sampling_params import SamplingParams
from quire.scheduler import Scheduler
from quire.scheduler.states import Keeping
from quire.testing.drafting import always_draft

from .harness import config


def run(scheduler: Scheduler, name: str, prompt: int, new: int) -> list[StepPlan]:
    """The plans of a request alone; what is proposed is always wrong."""
    params = SamplingParams(max_tokens=new, ignore_eos=True)
    scheduler.add(EngineRequest(request_id=name, prompt_ids=list(range(prompt)), params=params, seed=0))
    plans = []
    while scheduler.has_unfinished():
        plan = scheduler.schedule()
        plans.append(plan)
        slot, generation = plan.slots[0], plan.generations[0]
        asked = dict(plan.propose).get(slot, 0)
        ends = sum(len(ids) for _, ids in plan.drafts) + 1 == plan.num_tokens or plan.num_tokens < 16
        result = SlotResult(slot, generation, [7] if ends else [], draft_ids=[3] * asked)
        scheduler.update(plan, StepResult(plan.step_id, [result]))
    return plans


def test_where_drafts_have_a_part_and_of_prompts() -> None:
    scheduler = Scheduler(config(max_num_batched_tokens=16, enable_prefix_caching=False))
    always_draft(scheduler, 2)
    plans = run(scheduler, "a", prompt=40, new=8)
    assert [plan.num_tokens for plan in plans[:3]] == [16, 16, 8]
    assert all(plan.keep_states for plan in plans[:-1])
    assert plans[-1].keep_states == bool(plans[-1].drafts or plans[-1].propose)


def test_for_nobody_nothing_is_kept() -> None:
    """Not of a step that only samples; of prompts not for long."""
    settings = {"max_model_len": 200, "num_blocks": (100,)}
    scheduler = Scheduler(config(max_num_batched_tokens=16, enable_prefix_caching=False, **settings))
    always_draft(scheduler, 2, lambda _: False)
    first = run(scheduler, "a", prompt=40, new=80)
    assert [plan.keep_states for plan in first] == [True] * 3 + [False] * 79
    assert not any(plan.keep_states for plan in run(scheduler, "b", prompt=40, new=8))


def test_without_speculation_nothing_is_kept() -> None:
    scheduler = Scheduler(config(max_num_batched_tokens=16))
    assert not any(plan.keep_states for plan in run(scheduler, "a", prompt=40, new=3))


def test_prompts_are_kept_again_once_somebody_is_asked() -> None:
    keeping = Keeping()
    for _ in range(100):
        assert not keeping.decide(drafts=False, samples=True, reads=False)
    assert not keeping.decide(drafts=False, samples=False, reads=True)
    assert keeping.decide(drafts=True, samples=True, reads=False)
    assert keeping.decide(drafts=False, samples=False, reads=True)
