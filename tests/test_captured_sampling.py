"""What captured steps draw themselves is what the sampler draws after them, and a row alone decides which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from quire import LLM, RequestOutput, SamplingParams
from quire.contracts import SampleRows
from quire.plan import TokenMasks
from quire.runtime.worker import Worker
from quire.testing.drafting import always_draft
from quire.testing.model import Reference
from quire_sampler_standard.captured import DrawBySlot
from quire_sampler_standard.sampler import StandardSampler

from .played_device import CapturingDevice, play_graphs
from .step_cases import CASES, PROMPTS, said

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]
SETTINGS: dict[str, Any] = {"attention_backend": "torch", "kernels": "reference", "max_num_seqs": 4}
LONG: dict[str, Any] = {"max_tokens": 20, "ignore_eos": True}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> CapturingDevice:
    return play_graphs(monkeypatch)


@pytest.fixture
def afterwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows that the sampler has drawn after a forward pass, by step."""
    numbers: list[int] = []
    process = StandardSampler.process

    def noted(self: StandardSampler, logits: torch.Tensor, *rest: Any) -> Any:
        numbers.append(len(logits))
        return process(self, logits, *rest)

    monkeypatch.setattr(StandardSampler, "process", noted)
    return numbers


def run(llm: LLM, prompts: list[list[int]], params: Any) -> list[RequestOutput]:
    asked: list[Any] = [{"prompt_token_ids": prompt} for prompt in prompts]
    return llm.generate(asked, params, use_tqdm=False)


def worker_of(llm: LLM) -> Worker:
    found: Worker = llm._engine.client.core.executor.worker  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize("case", CASES)
def test_captured_draws_change_no_result(
    case: str, checkpoint: Checkpoint, open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, given, settings = CASES[case]
    settings = {**SETTINGS, "max_model_len": 128, **settings}
    model, params = checkpoint("llama"), SamplingParams(**given)
    in_a_row = said(run(open_llm(model, **settings), prompts, params))
    device = play_graphs(monkeypatch)
    captured = open_llm(model, **settings)
    assert said(run(captured, prompts, params)) == in_a_row
    assert said(run(captured, prompts, params)) == in_a_row  # from the cache, too
    assert bool(device.replays) == (given["max_tokens"] > 1)


def test_requests_of_every_kind_share_steps(
    checkpoint: Checkpoint, open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.7},
        {"top_k": 5},
        {"presence_penalty": 1.5, "max_tokens": 3},
        {"top_p": 0.8, "min_tokens": 4},
        {"min_p": 0.1, "temperature": 1.5},
        {"temperature": 0.0, "logit_bias": {7: 50.0}, "max_tokens": 5},
        {"top_k": 30, "top_p": 0.9, "logprobs": 2},
        {"allowed_token_ids": [4, 5, 6], "max_tokens": 4},
        {"stop_token_ids": list(range(0, 320, 5))},
        {"bad_words": ["a", "bc"], "max_tokens": 6},
    ]
    params = [SamplingParams(seed=i, **{"max_tokens": 14, **kind}) for i, kind in enumerate(kinds)]

    def completions(llm: LLM) -> list[Any]:  # log probabilities vary in their last digits with the batch
        return [completion for _, completion, *_ in said(run(llm, PROMPTS, params))]

    expected = completions(open_llm(checkpoint("llama"), **SETTINGS))
    play_graphs(monkeypatch)
    captured = open_llm(checkpoint("llama"), **SETTINGS)
    assert completions(captured) == expected
    assert completions(captured) == expected


@pytest.mark.parametrize(
    "kind",
    [
        {"temperature": 0.0},
        {"temperature": 0.6, "min_p": 0.1},
        {"top_k": 9, "top_p": 0.9},
        {"logprobs": 1},
        {"min_tokens": 1},
    ],
    ids=lambda kind: "-".join(kind),
)
def test_plain_rows_are_never_drawn_afterwards(
    kind: dict[str, Any],
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
    device: CapturingDevice,
    afterwards: list[int],
) -> None:
    llm = open_llm(checkpoint("llama"), **SETTINGS)
    afterwards.clear()
    run(llm, PROMPTS[:4], SamplingParams(seed=1, **LONG, **kind))
    assert afterwards == [4]  # the prompts' step


@pytest.mark.parametrize("ahead", [0, 2])
def test_beside_a_draft_model_steps_without_drafts_draw_themselves(
    ahead: int,
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
    monkeypatch: pytest.MonkeyPatch,
    afterwards: list[int],
) -> None:
    """By the race that the sampler runs after the others: whoever is asked for drafts, and when."""
    model = checkpoint("llama")
    params = [
        SamplingParams(seed=i, temperature=1.3, top_p=(1.0, 0.9)[i % 2], max_tokens=20, ignore_eos=True)
        for i in range(4)
    ]
    speculation = {"model": str(model.directory), "num_speculative_tokens": 2}

    def opened() -> LLM:
        llm = open_llm(model, speculative_config=speculation, **SETTINGS)
        core = llm._engine.client.core  # type: ignore[attr-defined]
        # At every third length: steps with drafts and steps without take turns.
        always_draft(core.scheduler, ahead, lambda one: ahead > 0 and len(one.token_ids) % 3 == 0)
        afterwards.clear()
        return llm

    expected = said(run(opened(), PROMPTS[:4], params))
    device = play_graphs(monkeypatch)
    llm = opened()
    assert said(run(llm, PROMPTS[:4], params)) == expected
    assert device.replays
    if not ahead:
        assert afterwards == [4]  # the prompts' step


@pytest.mark.parametrize(
    "kind",
    [
        {"repetition_penalty": 1.2},
        {"logit_bias": {3: 1.0}},
        {"allowed_token_ids": [3, 4]},
        {"bad_words": ["a"]},
        {"min_tokens": 4, "stop_token_ids": [3]},
    ],
    ids=lambda kind: next(iter(kind)),
)
def test_a_row_that_needs_the_host_takes_its_own_steps_alone_out_of_the_graph(
    kind: dict[str, Any],
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
    device: CapturingDevice,
    afterwards: list[int],
) -> None:
    llm = open_llm(checkpoint("llama"), **SETTINGS)
    plain = SamplingParams(seed=1, **LONG)
    needy = SamplingParams(seed=2, ignore_eos=True, max_tokens=20 if "min_tokens" in kind else 4, **kind)
    afterwards.clear()
    run(llm, PROMPTS[:3], [plain, needy, plain])
    assert afterwards == [3, 3, 3, 3]  # the prompts' step, then three


def test_nan_in_a_captured_step_fails_its_request_alone(
    checkpoint: Checkpoint, open_llm: OpenLLM, device: CapturingDevice
) -> None:
    llm = open_llm(checkpoint("llama"), enable_prefix_caching=False, **SETTINGS)
    params = SamplingParams(seed=6, top_p=0.95, **LONG)
    expected = [list(one.outputs[0].token_ids) for one in run(llm, PROMPTS[:4], params)]
    others = {token for i in (0, 2, 3) for token in [*PROMPTS[i], *expected[i]]}
    at, mark = next(
        (i, token)
        for i, token in enumerate(expected[1])
        if i > 2 and token not in others and token not in expected[1][:i]
    )
    model = worker_of(llm).model
    embed = model.embed
    model.embed = lambda ids: torch.where((ids == mark).unsqueeze(-1), torch.nan, embed(ids))  # type: ignore[assignment, method-assign]
    outputs = run(llm, PROMPTS[:4], params)
    assert "NaN" in (outputs[1].error or "")
    assert list(outputs[1].outputs[0].token_ids) == expected[1][: at + 1]
    for i in (0, 2, 3):
        assert list(outputs[i].outputs[0].token_ids) == expected[i]


def test_rows_that_cannot_be_prepared_together_run_in_parts(
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
    device: CapturingDevice,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And uncaptured: the results of graphs lie in the same place."""
    llm = open_llm(checkpoint("llama"), **SETTINGS)
    params = SamplingParams(seed=6, **LONG)
    expected = said(run(llm, PROMPTS[:4], params))

    def broken(self: DrawBySlot, rows: SampleRows) -> int | None:
        raise RuntimeError("the draw is broken")

    monkeypatch.setattr(DrawBySlot, "prepare", broken)
    assert said(run(llm, PROMPTS[:4], params)) == expected
    assert "A step of 4 requests failed (the draw is broken); running it in halves" in caplog.text


def test_the_device_keeps_count_of_every_slot(
    checkpoint: Checkpoint, open_llm: OpenLLM, device: CapturingDevice
) -> None:
    """What steps read by slot is what the host knows, whichever way a step went."""
    llm = open_llm(checkpoint("llama"), **SETTINGS)
    worker = worker_of(llm)
    kept: list[bool] = []
    sample = worker.sample

    def looked(step_id: int, masks: TokenMasks | None = None) -> None:
        sample(step_id, masks)
        state = worker._state
        assert state is not None
        kept.extend(int(state.lengths[slot]) == worker.slots.num_tokens[slot] for slot in worker.slots.info)

    worker.sample = looked  # type: ignore[method-assign]
    kinds: list[dict[str, Any]] = [{}, {"presence_penalty": 1.0, "max_tokens": 4}, {"temperature": 0.0}]
    params = [
        SamplingParams(
            seed=i, **{"max_tokens": 9 + i, "stop_token_ids": [*range(0, 320, 11)], **kinds[i % 3]}
        )
        for i in range(len(PROMPTS))
    ]
    run(llm, PROMPTS, params)
    assert len(kept) > 30
    assert all(kept)
