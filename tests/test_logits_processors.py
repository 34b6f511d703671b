"""Logits processors in the engine: equal to transformers', beside other requests, with drafts, over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from quire import LLM, SamplingParams
from quire.errors import ConfigError, InvalidRequestError, PluginError
from quire.runtime import worker as worker_module
from quire.testing.drafting import always_draft
from quire.testing.model import Reference

from .conftest import random_prompt
from .played_device import PlayedDevice
from .test_verification import Oracle, assert_same, scheduler_of, speculate

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]

ACTIVE = {"logits_processors": ["no-repeat-ngram"]}
PROMPTS = [random_prompt(length, seed=length) for length in (3, 17, 33, 40)]
NEW = 32


def params(size: int | None, **changes: Any) -> SamplingParams:
    arguments = None if size is None else {"no_repeat_ngram_size": size}
    asked = {"temperature": 0.0, "max_tokens": NEW, "ignore_eos": True, **changes}
    return SamplingParams(extra_args=arguments, **asked)


MIXED = [params(1), params(None), params(2, temperature=1.0, seed=3, n=2), params(3, logprobs=1)]


def generate(llm: LLM, asked: list[SamplingParams]) -> Any:
    return llm.generate([{"prompt_token_ids": prompt} for prompt in PROMPTS], asked, use_tqdm=False)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_equals_transformers(size: int, checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    from transformers import AutoModelForCausalLM

    reference = checkpoint("llama")
    model: Any = AutoModelForCausalLM.from_pretrained(reference.directory, dtype=torch.float32)
    outputs = generate(open_llm(reference, **ACTIVE), [params(size)] * len(PROMPTS))
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
            do_sample=False,
            no_repeat_ngram_size=size,
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert output.outputs[0].token_ids == theirs[0, len(prompt) :].tolist()


def test_it_does_something_and_only_for_those_who_ask(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), **ACTIVE)
    plain = generate(open_llm(checkpoint("llama")), [params(None)] * len(PROMPTS))
    edited = generate(llm, [params(1)] * len(PROMPTS))
    assert any(a.outputs[0].token_ids != b.outputs[0].token_ids for a, b in zip(plain, edited, strict=True))
    mixed = generate(llm, [params(1), params(None), params(1), params(None)])
    for output, want in zip(mixed, [edited[0], plain[1], edited[2], plain[3]], strict=True):
        assert output.outputs[0].token_ids == want.outputs[0].token_ids


def test_drafts_preemption_and_overlap_change_nothing(
    checkpoint: Checkpoint, open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = generate(open_llm(checkpoint("llama"), **ACTIVE), MIXED)
    tight = open_llm(checkpoint("llama"), max_model_len=80, kv_cache_memory_bytes="150KiB", **ACTIVE)
    assert_same(generate(tight, MIXED), plain)
    drafting = open_llm(checkpoint("llama"), **ACTIVE)
    core = speculate(drafting, Oracle(plain, lambda position: position % 4 == 3), 3)
    assert_same(generate(drafting, MIXED), plain)
    assert core.stats().scheduler.drafts.num_accepted_tokens > 0
    monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())
    assert_same(generate(open_llm(checkpoint("llama"), **ACTIVE), MIXED), plain)


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ({"no_repeat_ngram_size": -1}, ACTIVE, "extra_args.no_repeat_ngram_size: Input should be greater"),
        (
            {"no_repeat_ngram_size": "3"},
            ACTIVE,
            "no_repeat_ngram_size: Input should be a valid integer, got '3'",
        ),
        ({"no_repeat": 3}, ACTIVE, "reads 'no_repeat'. Known are: no_repeat_ngram_size"),
        ({"no_repeat_ngram_size": 3}, {}, "None is active that takes any; `logits_processors`"),
    ],
)
def test_arguments_are_checked_when_the_request_comes(
    arguments: dict[str, Any],
    settings: dict[str, Any],
    message: str,
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
) -> None:
    llm = open_llm(checkpoint("llama"), **settings)
    with pytest.raises(InvalidRequestError, match=message):
        llm.generate([{"prompt_token_ids": [5]}], SamplingParams(extra_args=arguments), use_tqdm=False)


def test_activation_is_checked_when_the_engine_starts(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    with pytest.raises(PluginError, match="no-repeat"):
        open_llm(checkpoint("llama"), logits_processors=["no-repeat"])
    with pytest.raises(ConfigError, match="twice"):
        open_llm(checkpoint("llama"), logits_processors=["no-repeat-ngram", "no-repeat-ngram"])


def test_a_draft_model_obeys_them(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    """The served model itself guesses all that it will say, what is excluded by earlier guesses included."""
    reference = checkpoint("llama")
    ahead = {"model": str(reference.directory), "num_speculative_tokens": 4}
    llm = open_llm(reference, **ACTIVE, speculative_config=ahead)
    scheduler = scheduler_of(llm)
    always_draft(scheduler, 4, lambda _: False)
    plain = generate(llm, MIXED)
    always_draft(scheduler, 4)
    assert_same(generate(llm, MIXED), plain)
    drafts = scheduler.stats().drafts
    assert drafts.num_accepted_tokens > 0.97 * drafts.num_draft_tokens
