"""Steps with drafts, and with tokens that were appended, are replayed from captured graphs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from quire import LLM, CompletionOutput, SamplingParams, StructuredOutputsParams
from quire.runtime.graphs import graph_sizes
from quire.testing.drafting import always_draft
from quire.testing.model import Reference

from .conftest import random_prompt
from .played_device import CapturingDevice, play_graphs

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]

SETTINGS: dict[str, Any] = {"attention_backend": "torch", "kernels": "reference", "max_num_seqs": 40}
SPECULATORS: dict[str, dict[str, Any]] = {
    "ngram": {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1},
    "draft": {"num_speculative_tokens": 3},
}
KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0, "logprobs": 1},
    {"temperature": 0.8, "seed": 4, "n": 2, "presence_penalty": 0.3},
]
_PIECE = random_prompt(9, seed=1)
PROMPTS = [_PIECE * 2, [5, 6] * 8, random_prompt(19, seed=2)]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> CapturingDevice:
    return play_graphs(monkeypatch)


class Steps:
    """Watches an engine: of how many steps with several rows for a request, how many were replayed."""

    def __init__(self, llm: LLM, device: CapturingDevice) -> None:
        worker = llm._engine.client.core.executor.worker  # type: ignore[attr-defined]
        submit = worker.submit
        self.wide = self.replayed = 0

        def watch(plan: Any) -> None:
            starting, before = {start.slot for start in plan.starts}, len(device.replays)
            submit(plan)
            # Prompts, and chunks of them, are nobody's to replay.
            if max(plan.counts, default=0) > 1 and not starting:
                self.wide += 1
                self.replayed += len(device.replays) == before + 1

        worker.submit = watch


def generate(llm: LLM, draft: Callable[[Any], bool]) -> list[CompletionOutput]:
    scheduler = llm._engine.client.core.scheduler  # type: ignore[attr-defined]
    always_draft(scheduler, 3, draft)
    asked = [
        (prompt, SamplingParams(max_tokens=24, ignore_eos=True, **kind))
        for prompt in PROMPTS
        for kind in KINDS
    ]
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt, _ in asked], [params for _, params in asked], use_tqdm=False
    )
    return [one for output in outputs for one in output.outputs]


def assert_same(found: list[CompletionOutput], plain: list[CompletionOutput]) -> None:
    """Log probabilities as well: of the rows that the tokens were drawn in."""
    assert [one.token_ids for one in found] == [one.token_ids for one in plain]
    for one, other in zip(found, plain, strict=True):
        for row, expected in zip(one.logprobs or (), other.logprobs or (), strict=True):
            assert {token: entry.logprob for token, entry in row.items()} == pytest.approx(
                {token: entry.logprob for token, entry in expected.items()}, abs=2e-3
            )


@pytest.mark.parametrize("speculator", SPECULATORS)
@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("asks", [lambda _: True, lambda one: one.slot % 2 == 1], ids=["all", "some"])
def test_no_token_changes(
    family: str,
    speculator: str,
    asks: Callable[[Any], bool],
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
    device: CapturingDevice,
) -> None:
    model = checkpoint(family)
    config = SPECULATORS[speculator]
    if speculator == "draft":
        config = {**config, "model": str(model.directory)}
    eager = open_llm(model, enforce_eager=True, speculative_config=config, **SETTINGS)
    plain = generate(eager, lambda _: False)
    assert not device.replays
    llm = open_llm(model, speculative_config=config, **SETTINGS)
    steps = Steps(llm, device)
    assert_same(generate(llm, asks), plain)
    assert steps.wide == steps.replayed > 0
    if speculator == "draft":  # the model itself, which is always right
        drafts = llm.get_metrics().drafts
        assert drafts.num_accepted_tokens > 0.9 * drafts.num_draft_tokens
    # And steps without drafts after them take nothing that was given to these.
    assert_same(generate(llm, lambda _: False), plain)


def test_tokens_that_were_appended_are_rows_of_such_steps(device: CapturingDevice) -> None:
    schema = {
        "type": "object",
        "properties": {"temperature": {"enum": ["low", "high"]}},
        "required": ["temperature"],
    }
    params = [
        SamplingParams(seed=seed, max_tokens=40, structured_outputs=StructuredOutputsParams(json=schema))
        for seed in range(4)
    ]

    def run(**changes: Any) -> tuple[list[list[int]], int, Steps]:
        with LLM("tiny", show_progress=False, dtype="float32", **SETTINGS, **changes) as llm:
            steps = Steps(llm, device)
            outputs = llm.generate(["def main():\n"] * 4, params, use_tqdm=False)
            return [one.outputs[0].token_ids for one in outputs], llm.get_metrics().num_forced_tokens, steps

    plain, _, none = run(enforce_eager=True)
    found, forced, steps = run()
    assert found == plain
    assert not none.replayed
    assert steps.wide == steps.replayed
    assert (steps.wide > 0) == (forced > 0)


def test_a_draft_model_guesses_by_graphs(
    checkpoint: Checkpoint, open_llm: OpenLLM, device: CapturingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its tokens is a replay, but the first behind a prompt that it has not read."""
    model = checkpoint("llama")
    config = {**SPECULATORS["draft"], "model": str(model.directory)}
    llm = open_llm(model, speculative_config=config, **SETTINGS)
    sizes = len(graph_sizes(SETTINGS["max_num_seqs"]))
    assert device.captured == sizes * (4 + 1)
    worker = llm._engine.client.core.executor.worker  # type: ignore[attr-defined]
    propose, rounds = worker._propose, list[tuple[int, int]]()

    def watch(plan: Any, failed: dict[int, str]) -> Any:
        before = len(device.replays)
        drafts = propose(plan, failed)
        rounds.append((max(map(len, drafts.values()), default=0), len(device.replays) - before))
        return drafts

    worker._propose = watch
    generate(llm, lambda _: True)
    whole = [replays for most, replays in rounds if most == 3]
    assert len(whole) > 5
    assert set(whole[3:]) == {3}


def test_more_rows_than_any_graph_has_are_not_replayed(
    checkpoint: Checkpoint, open_llm: OpenLLM, device: CapturingDevice
) -> None:
    model, settings = checkpoint("llama"), {**SETTINGS, "max_num_seqs": 4}
    config = SPECULATORS["ngram"]
    plain = generate(
        open_llm(model, enforce_eager=True, speculative_config=config, **settings), lambda _: False
    )
    llm = open_llm(model, speculative_config=config, **settings)
    steps = Steps(llm, device)
    assert_same(generate(llm, lambda _: True), plain)
    assert steps.wide > steps.replayed
