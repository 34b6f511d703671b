"""Prompt lookup in whole engines: no token changes (T39), silence is free, sampling stays exact."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from quire import LLM, RequestOutput, SamplingParams
from quire.runtime import worker as worker_module
from quire.scheduler import Scheduler
from quire.testing.drafting import always_draft
from quire.testing.model import Reference
from quire.testing.sampler_bench import chi_square_p

from .conftest import random_prompt
from .played_device import PlayedDevice

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]

NGRAM = {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
NEW = 24
_PIECE = random_prompt(12, seed=7)
PROMPTS = [_PIECE * 3, random_prompt(21, seed=8), _PIECE + random_prompt(9, seed=9) + _PIECE, [5, 6] * 10]
KINDS: list[dict[str, Any]] = [
    {"temperature": 0.0, "logprobs": 1},
    {"temperature": 0.7, "seed": 3, "n": 2, "presence_penalty": 0.4},
    {"temperature": 0.0, "stop": ["e", "Q"], "repetition_penalty": 1.1},
    {"temperature": 1.0, "seed": 9, "allowed_token_ids": [5, 6, 7]},
    {"temperature": 1.0, "seed": 4, "min_p": 0.02, "logit_bias": {40: 4.0}, "prompt_logprobs": 1},
]


def requests() -> list[tuple[list[int], SamplingParams]]:
    return [
        (prompt, SamplingParams(max_tokens=NEW, ignore_eos=True, **kind))
        for prompt in PROMPTS
        for kind in KINDS
    ]


def scheduler_of(llm: LLM) -> Scheduler:
    scheduler: Scheduler = llm._engine.client.core.scheduler  # type: ignore[attr-defined]
    return scheduler


def generate(llm: LLM) -> list[RequestOutput]:
    asked = requests()
    prompts = [{"prompt_token_ids": prompt} for prompt, _ in asked]
    return llm.generate(prompts, [params for _, params in asked], use_tqdm=False)


def told(outputs: list[RequestOutput]) -> list[list[tuple[list[int], str, str | None]]]:
    return [[(one.token_ids, one.text, one.finish_reason) for one in output.outputs] for output in outputs]


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"max_num_batched_tokens": 16, "enable_prefix_caching": False},
        {"max_model_len": 80, "kv_cache_memory_bytes": "150KiB"},
    ],
    ids=["roomy", "chunked", "tight"],
)
@pytest.mark.parametrize("overlapping", [False, True])
def test_no_token_changes(
    family: str,
    settings: dict[str, Any],
    overlapping: bool,
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = told(generate(open_llm(checkpoint(family), max_num_seqs=7)))
    if overlapping:
        monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())
    llm = open_llm(checkpoint(family), max_num_seqs=7, speculative_config=NGRAM, **settings)
    always_draft(scheduler_of(llm), 4)
    assert told(generate(llm)) == plain
    metrics = llm.get_metrics()
    assert metrics.drafts.num_accepted_tokens > 0
    assert sum(metrics.drafts.accepted_per_position) == metrics.drafts.num_accepted_tokens
    assert all(usage.used == 0 for usage in metrics.kv)
    assert (metrics.num_preemptions > 0) == ("kv_cache_memory_bytes" in settings and family == "llama")


def test_left_to_itself_it_changes_no_token_either(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    plain = told(generate(open_llm(checkpoint("llama"), max_num_seqs=7)))
    llm = open_llm(checkpoint("llama"), max_num_seqs=7, speculative_config=NGRAM)
    for _ in range(2):
        assert told(generate(llm)) == plain


def test_an_abort_between_drafts_leaves_the_others_alone(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), speculative_config=NGRAM)
    always_draft(scheduler_of(llm), 4)
    core = llm._engine.client.core  # type: ignore[attr-defined]
    params = SamplingParams(temperature=0.0, max_tokens=NEW, ignore_eos=True)
    alone = llm.generate([{"prompt_token_ids": PROMPTS[3]}], params, use_tqdm=False)[0].outputs[0].token_ids
    step, count = core.step, 0

    def aborting() -> Any:
        nonlocal count
        count += 1
        outputs = step()
        if count == 5:
            first = core.scheduler._roster.running[0]
            outputs += core.abort(first.state.request.request_id)
        return outputs

    core.step = aborting
    outputs = llm.generate(
        [{"prompt_token_ids": PROMPTS[0]}, {"prompt_token_ids": PROMPTS[3]}], params, use_tqdm=False
    )
    assert [one.outputs[0].finish_reason for one in outputs] == ["abort", "length"]
    assert outputs[1].outputs[0].token_ids == alone
    assert all(usage.used == 0 for usage in core.stats().scheduler.kv)


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]  # PyTorch's has no types
    """Counts operations by name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    with Counting() as mode:
        yield mode.counts


def test_asking_nobody_costs_no_operation(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    """At draft length 0 steps are those of an engine without a speculator, operation by operation."""
    found = []
    for settings in ({}, {"speculative_config": NGRAM}):
        llm = open_llm(checkpoint("llama"), max_num_seqs=7, **settings)
        if settings:
            always_draft(scheduler_of(llm), 4, lambda _: False)
        with counted() as counts:
            generate(llm)
        found.append((counts, llm._engine.client.core.stats().steps))  # type: ignore[attr-defined]
    assert found[0] == found[1]
    assert found[0][0].total() > 1000


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.6])
def test_sampled_tokens_follow_the_target(
    temperature: float, checkpoint: Checkpoint, open_llm: OpenLLM
) -> None:
    """The second and third token of many seeds, drawn with drafts, against the model's own distribution.

    What a request says first is forced, so that the distribution of the next is one; it is sharpened, lest
    most tokens be too rare to count.
    """
    reference = checkpoint("llama")
    llm = open_llm(reference, max_num_seqs=32, speculative_config={**NGRAM, "num_speculative_tokens": 2})
    always_draft(scheduler_of(llm), 2)
    allowed = [5, 6, 7, 8]
    prompt = [5, 6, 7, 8, 6, 5, 8, 7, 5, 7, 6, 8, 5, 5, 6, 6]
    count = 1200
    params = [
        SamplingParams(
            temperature=temperature,
            max_tokens=3,
            seed=seed,
            allowed_token_ids=allowed,
            repetition_penalty=1.2,
            frequency_penalty=0.3,
            ignore_eos=True,
            detokenize=False,
        )
        for seed in range(count)
    ]
    outputs = llm.generate([{"prompt_token_ids": prompt}] * count, params, use_tqdm=False)
    drafts = llm.get_metrics().drafts
    assert 0 < drafts.num_accepted_tokens < drafts.num_draft_tokens
    observed = Counter(tuple(output.outputs[0].token_ids) for output in outputs)
    exact: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(3):
        exact = {
            (*said, token): chance * p
            for said, chance in exact.items()
            for token, p in zip(
                allowed, _probabilities(reference, prompt, list(said), allowed, temperature), strict=True
            )
        }
    keys = sorted(exact)
    assert chi_square_p([observed[key] for key in keys], [exact[key] for key in keys]) > 1e-4


def _probabilities(
    reference: Reference, prompt: list[int], said: list[int], allowed: list[int], temperature: float
) -> list[float]:
    """Of the allowed tokens, with the penalties, by their definitions."""
    logits = reference.logits(prompt + said)[-1].double()
    values = []
    for token in allowed:
        value = float(logits[token])
        if token in prompt + said:
            value = value / 1.2 if value > 0 else value * 1.2
        values.append((value - 0.3 * said.count(token)) / temperature)
    top = max(values)
    weights = [math.exp(value - top) for value in values]
    return [weight / sum(weights) for weight in weights]


def test_the_start_up_report_names_it(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), speculative_config=NGRAM)
    (line,) = (line for line in llm.startup_report.lines() if line.startswith("drafts"))
    assert line == "drafts    ngram, up to 4 tokens ahead of a request, as far as that pays"
