from __future__ import annotations

import pytest

from quire.kv import TokenChain
from quire.scheduler.policy import make_policy
from quire.scheduler.state import RequestState, Sequence

from .harness import Harness, config, request


def make(number: int, index: int = 0, priority: int = 0, slot: int = 0) -> Sequence:
    state = RequestState(request(str(number), [1], priority=priority), number, 9, frozenset(), frozenset())
    return Sequence(state, index, 0, [1], TokenChain([1], 4, b""), slot=slot)


def test_fcfs_orders_by_arrival_then_completion_and_ignores_priority() -> None:
    first, second, third = make(0, 0, priority=5), make(0, 1, priority=5), make(1, 0, priority=-5)
    assert sorted([third, second, first], key=make_policy("fcfs").order) == [first, second, third]


def test_priority_orders_by_priority_then_arrival() -> None:
    low, late, early = make(0, priority=1), make(2, priority=0), make(1, priority=0)
    assert sorted([low, late, early], key=make_policy("priority").order) == [early, late, low]


@pytest.mark.parametrize("name", ["fcfs", "priority"])
def test_the_last_in_order_gives_way_to_running_ones_before_it_and_itself_waits(name: str) -> None:
    running = [make(0), make(1), make(2)]
    policy = make_policy(name)
    assert policy.victim(running, running[0]) is running[2]
    assert policy.victim(running, running[2]) is None


def test_only_a_strictly_better_priority_displaces_a_running_sequence() -> None:
    running = [make(0, priority=0), make(1, priority=1)]
    urgent, equal = make(2, priority=0, slot=-1), make(2, priority=1, slot=-1)
    assert make_policy("priority").victim(running, urgent) is running[1]
    assert make_policy("priority").victim(running, equal) is None
    assert make_policy("fcfs").victim(running, urgent) is None


@pytest.mark.parametrize(("name", "first"), [("fcfs", "slow"), ("priority", "urgent")])
def test_an_urgent_request_takes_the_only_slot_under_priority_alone(name: str, first: str) -> None:
    harness = Harness(config(max_num_seqs=1, policy=name))
    harness.add(request("slow", [1, 2, 3], priority=1, max_tokens=9, ignore_eos=True))
    harness.step()
    harness.add(request("urgent", [4, 5], priority=0, max_tokens=2, ignore_eos=True))
    ended: list[str] = []
    while harness.scheduler.has_unfinished():
        ended += [output.request_id for output in harness.step() if output.finish_reason]
    assert ended[0] == first
    harness.check_finished()
    assert harness.scheduler.stats().num_preemptions == (name == "priority")
