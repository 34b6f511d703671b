"""Random lives of the KV manager and the scheduler, with every book checked after every step."""

from __future__ import annotations

import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from quire.errors import InvalidRequestError
from quire.request import EngineRequest, ThinkingBudget

from .fake_model import EOS, VOCAB
from .harness import Harness, config, pool_room, request

prompts = st.one_of(
    st.lists(st.integers(0, 2), min_size=1, max_size=8),
    st.integers(1, 16).map(lambda n: [i % VOCAB for i in range(n)]),  # these share their prefixes
)
lengths = st.integers(1, 14)
sampling = st.fixed_dictionaries(
    {
        "n": st.integers(1, 3),
        "best_of": st.none() | st.just(4),
        "min_tokens": st.integers(0, 3),
        "stop_token_ids": st.none() | st.just([3, 4]),
        "ignore_eos": st.booleans(),
        "prompt_logprobs": st.none() | st.just(1),
    }
)
searching = st.fixed_dictionaries(
    {
        "use_beam_search": st.just(True),
        "n": st.integers(1, 2),
        "best_of": st.integers(2, 4),
        "length_penalty": st.sampled_from([-1.0, 0.0, 1.0]),
        "early_stopping": st.sampled_from([True, False, "never"]),
        "min_tokens": st.integers(0, 3),
        "stop_token_ids": st.none() | st.just([3, 4]),
        "ignore_eos": st.booleans(),
        "prompt_logprobs": st.none() | st.just(1),
    }
)


class Life(RuleBasedStateMachine):
    """Requests of all sorts come, run, fork, are preempted and aborted in pools far too small for all."""

    @initialize(
        max_num_seqs=st.integers(1, 4),
        budget=st.integers(1, 16),
        block_size=st.integers(1, 5),
        pools=st.lists(st.integers(5, 16), min_size=1, max_size=2),
        windows=st.none() | st.tuples(*[st.none() | st.integers(1, 12)] * 2),
        caching=st.booleans(),
        chunked=st.booleans(),
        policy=st.sampled_from(["fcfs", "priority"]),
        lag=st.integers(0, 2),
        ahead=st.integers(0, 3),
        wrong=st.integers(1, 4),
    )
    def begin(
        self,
        max_num_seqs: int,
        budget: int,
        block_size: int,
        pools: list[int],
        windows: tuple[int | None, ...] | None,
        caching: bool,
        chunked: bool,
        policy: str,
        lag: int,
        ahead: int,
        wrong: int,
    ) -> None:
        lone = config(
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=budget,
            max_model_len=40,
            block_size=block_size,
            num_blocks=tuple(pools),
            windows=windows[: len(pools)] if windows else (),
            enable_prefix_caching=caching,
            enable_chunked_prefill=chunked,
            policy=policy,
            num_speculative_tokens=ahead,
        )
        self.harness = Harness(lone, lag, lambda position: position % wrong == wrong - 1)
        self.count = 0

    @rule(
        batch=st.lists(st.tuples(prompts, lengths, st.integers(-1, 2)), min_size=1, max_size=4),
        params=sampling | searching,
        free=st.none() | st.integers(0, 4),
        seed=st.integers(0, 3),
        salt=st.sampled_from([None, "", "a"]),
        adapter=st.sampled_from([None, "x"]),
    )
    def add(
        self,
        batch: list[tuple[list[int], int, int]],
        params: dict[str, object],
        free: int | None,
        seed: int,
        salt: str | None,
        adapter: str | None,
    ) -> None:
        # Beams that take turns compute everything again each time.
        longest = 5 if "use_beam_search" in params else 14
        if free is not None and "use_beam_search" not in params:  # all completions wait from the start
            params = {**params, "thinking": ThinkingBudget(tokens=free, open=True, end_ids=(1,), prompt="")}
        for prompt, max_tokens, priority in batch:
            self._try_add(
                request(
                    f"r{self.count}",
                    prompt,
                    max_tokens=min(max_tokens, longest),
                    seed=seed,
                    priority=priority,
                    cache_salt=salt,
                    adapter=adapter,
                    eos_token_ids=(EOS,),
                    **params,
                )
            )
            self.count += 1

    def _try_add(self, asked: EngineRequest) -> None:
        limits, length = self.harness.settings, len(asked.prompt_ids)
        too_long = length + 1 > min(pool_room(limits), limits.max_model_len)
        at_once = min(limits.max_num_batched_tokens, (min(limits.num_blocks) - 1) * limits.block_size)
        unchunkable = not limits.enable_chunked_prefill and length > at_once
        if too_long or unchunkable:
            with pytest.raises(InvalidRequestError, match=f"{length} tokens"):
                self.harness.add(asked)
        else:
            self.harness.add(asked)

    @rule(times=st.integers(1, 6))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.harness.step()

    @precondition(lambda self: self.harness.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        which = data.draw(st.none() | st.integers(0, 3))
        self.harness.abort(data.draw(st.sampled_from(sorted(self.harness.requests))), which)
        self.harness.check()

    @precondition(lambda self: self.harness.requests)
    @rule(data=st.data())
    def abort_between_plan_and_update(self, data: st.DataObject) -> None:
        self.harness.plan()
        self.harness.abort(data.draw(st.sampled_from(sorted(self.harness.requests))))
        while self.harness.under_way:
            self.harness.collect()

    @precondition(lambda self: self.harness.live())
    @rule(data=st.data(), most=st.integers(1, 4), certain=st.booleans())
    def append(self, data: st.DataObject, most: int, certain: bool) -> None:
        self.harness.append(*data.draw(st.sampled_from(self.harness.live())), most, certain=certain)

    @precondition(lambda self: self.harness.live())
    @rule(most=st.integers(1, 4), steps=st.integers(1, 3))
    def append_to_all_between_plan_and_update(self, most: int, steps: int) -> None:
        for _ in range(steps):
            self.harness.plan()
            for name, index in self.harness.live():
                self.harness.append(name, index, most, certain=True)
            if len(self.harness.under_way) > self.harness.lag:
                self.harness.collect()

    @precondition(lambda self: self.harness.live())
    @rule(data=st.data(), after=st.none() | st.integers(0, 10))
    def pause(self, data: st.DataObject, after: int | None) -> None:
        self.harness.pause(*data.draw(st.sampled_from(self.harness.live())), after)

    @rule(asking=st.booleans())
    def ask(self, asking: bool) -> None:
        self.harness.asking = asking

    @precondition(lambda self: self.harness.requests)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        self.harness.worker.failing.add(data.draw(st.sampled_from(sorted(self.harness.requests))))

    @rule()
    def reset_prefix_cache(self) -> None:
        self.harness.scheduler.reset_prefix_cache()
        self.harness.check()

    def teardown(self) -> None:
        if hasattr(self, "harness"):
            self.harness.run()
            self.harness.check_finished()


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=60, stateful_step_count=30, derandomize=True, deadline=None)


@pytest.mark.parametrize(("pools", "windows"), [((9,), ()), ((9,), (6,)), ((12, 9), (None, 5))])
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_no_block_is_leaked_over_ten_thousand_random_operations(
    pools: tuple[int, ...], windows: tuple[int | None, ...], policy: str
) -> None:
    dice = random.Random(f"{pools} {policy}")
    harness = Harness(config(num_blocks=pools, windows=windows, policy=policy, max_num_batched_tokens=11))
    for number in range(2_000):  # times six parameters
        action = dice.random()
        if action < 0.25:
            prompt = [dice.randrange(2) for _ in range(dice.randrange(1, 20))]
            harness.add(
                request(
                    f"r{number}",
                    prompt,
                    max_tokens=dice.randrange(1, 9),
                    n=dice.choice([1, 1, 2, 3]),
                    priority=dice.randrange(3),
                    cache_salt=dice.choice([None, "salt"]),
                )
            )
        elif action < 0.5 and harness.requests:
            harness.abort(dice.choice(list(harness.requests)[-20:]))
        else:
            harness.step()
    harness.run()
    harness.check_finished()
