"""Steps that overlap give what steps in a row give: a processor that plays a device which works by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.plan import StepPlan
from quire.runtime import worker as worker_module
from quire.testing.model import Reference

from .played_device import PlayedDevice
from .step_cases import CASES, PROMPTS, said


def play(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())


def test_a_step_begins_before_the_one_before_it_is_collected(
    checkpoint: Callable[[str], Reference], open_llm: Callable[..., LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    play(monkeypatch)
    llm = open_llm(checkpoint("llama"))
    executor = llm._engine.client.core.executor  # type: ignore[attr-defined]
    joints: list[str] = []

    def noting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(step: StepPlan | int, *rest: Any) -> Any:
            joints.append(f"{name} {step.step_id if isinstance(step, StepPlan) else step}")
            return call(step, *rest)

        return noted

    for name in ("submit", "sample", "collect"):
        monkeypatch.setattr(executor, name, noting(name, getattr(executor, name)))
    llm.generate(
        [{"prompt_token_ids": [5, 6]}], SamplingParams(max_tokens=3, ignore_eos=True), use_tqdm=False
    )
    overlapped = "submit 0,sample 0,submit 1,collect 0,sample 1,submit 2,collect 1,sample 2"
    assert joints == f"{overlapped},submit 3,collect 2,sample 3,collect 3".split(",")


def test_nothing_is_held_in_the_end(
    checkpoint: Callable[[str], Reference], open_llm: Callable[..., LLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stops, aborts and steps in vain: all blocks and seats come back."""
    play(monkeypatch)
    llm = open_llm(checkpoint("llama"), max_num_seqs=3, enable_prefix_caching=False)
    params = SamplingParams(seed=3, max_tokens=30, stop_token_ids=list(range(0, 320, 7)), stop=["a", "5"])
    llm.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], params, use_tqdm=False)
    core = llm._engine.client.core  # type: ignore[attr-defined]
    while core.has_unfinished():
        core.step()
    stats = core.stats().scheduler
    assert (stats.num_running, stats.num_waiting) == (0, 0)
    assert [pool.used for pool in stats.kv] == [0]


@pytest.mark.parametrize("case", CASES)
def test_overlapping_changes_no_result(
    case: str,
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prompts, given, settings = CASES[case]
    settings = {"max_num_seqs": 4, "max_model_len": 128} | settings
    params = SamplingParams(**given)
    asked: list[Any] = [{"prompt_token_ids": prompt} for prompt in prompts]
    model = checkpoint("llama")
    in_a_row = said(open_llm(model, **settings).generate(asked, params, use_tqdm=False))
    play(monkeypatch)
    overlapping = open_llm(model, **settings)
    assert said(overlapping.generate(asked, params, use_tqdm=False)) == in_a_row
    assert said(overlapping.generate(asked, params, use_tqdm=False)) == in_a_row  # from the cache, too
