"""A draft model of any kind changes no token, knows what it should of every request, and keeps the books."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from quire import LLM, EngineConfig, RequestOutput, SamplingParams
from quire.contracts import DraftModel
from quire.engine.planning.forecast import forecast
from quire.errors import ConfigError, ModelNotFoundError
from quire.runtime import worker as worker_module
from quire.testing.drafting import always_draft
from quire.testing.model import Reference, assert_logits_equal, save_random_checkpoint

from .chi_square import assert_drawn_from, second_tokens
from .conftest import BASE, FAMILIES, save_byte_tokenizer
from .played_device import PlayedDevice
from .test_verification import KINDS, NEW, assert_same, generate

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]

SETTINGS: dict[str, dict[str, Any]] = {
    "roomy": {},
    "chunked": {"max_num_batched_tokens": 16},
    "tight": {"max_model_len": 80, "kv_cache_memory_bytes": "150KiB"},
    "alone": {"enable_prefix_caching": False},
}


def core_of(llm: LLM) -> Any:
    return llm._engine.client.core  # type: ignore[attr-defined]


def ask_about(llm: LLM, asks: Callable[[Any], bool] = lambda _: True) -> LLM:
    """Have the engine ask for as many tokens as it may each time, of the sequences that `asks` names."""
    core = core_of(llm)
    always_draft(core.scheduler, core.executor.worker.config.draft.num_speculative_tokens, asks)
    return llm


def alone(llm: LLM, kinds: Sequence[dict[str, Any]] = KINDS) -> list[RequestOutput]:
    """What it says while nobody is asked about."""
    ask_about(llm, lambda _: False)
    outputs = generate(llm, kinds)
    assert core_of(llm).stats().scheduler.drafts.num_drafts == 0
    ask_about(llm)
    return outputs


def with_draft(directory: Path, ahead: int = 3) -> dict[str, Any]:
    return {"speculative_config": {"model": str(directory), "num_speculative_tokens": ahead}}


_known: dict[tuple[Path, tuple[int, ...]], torch.Tensor] = {}


class Checked(DraftModel):
    """Holds each of a draft model's answers against the model it was saved from, run without a cache.

    Without a reference it counts them.
    """

    def __init__(self, inner: Any, reference: Reference | None) -> None:
        self.max_len = inner.max_len
        self.inner, self._reference = inner, reference
        self._contexts: list[list[int]] = []
        self.problems: list[str] = []
        self.checked = 0

    def begin(self, slots: Sequence[int]) -> torch.Tensor:
        self._contexts = [self.inner._table.context(slot).tolist() for slot in slots]
        return self._check(self.inner.begin(slots))

    def extend(self, ids: torch.Tensor) -> torch.Tensor:
        self._contexts = [
            [*context, token] for context, token in zip(self._contexts, ids.tolist(), strict=False)
        ]
        return self._check(self.inner.extend(ids))

    def sample(self, logits: torch.Tensor) -> torch.Tensor:
        ids: torch.Tensor = self.inner.sample(logits)
        return ids

    def _expected(self, context: list[int]) -> torch.Tensor:
        assert self._reference is not None
        key = (self._reference.directory, tuple(context))
        if key not in _known:
            _known[key] = self._reference.logits(context)[-1]
        return _known[key]

    def _check(self, logits: torch.Tensor) -> torch.Tensor:
        for row, context in zip(logits, self._contexts, strict=True):
            self.checked += 1
            if self._reference is None:
                continue
            try:
                assert_logits_equal(row, self._expected(context))
            except AssertionError as error:  # whoever asked would take it for a failure of the draft model
                self.problems.append(f"{len(context)} tokens: {error}")
        return logits


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize(
    ("target", "draft"), [("llama", "qwen3"), ("mistral", "llama-tied"), ("qwen2-window", "qwen2-window")]
)
def test_it_knows_what_it_should(
    target: str, draft: str, settings: dict[str, Any], checkpoint: Checkpoint, open_llm: OpenLLM
) -> None:
    """Whatever was computed when, found in the cache, forked, preempted, rejected or past a table's end."""
    llm = open_llm(checkpoint(target), max_num_seqs=7, **with_draft(checkpoint(draft).directory), **settings)
    core = core_of(llm)
    checked = Checked(core.executor.worker.draft, checkpoint(draft))
    core.executor.worker.speculator._model = checked
    found = generate(ask_about(llm))
    assert_same(generate(llm), found)  # and once more, with all prompts in the cache
    assert not checked.problems, checked.problems[0]
    assert checked.checked > 200
    core.scheduler._kv.check()


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2-window"])
def test_no_token_changes(
    family: str,
    settings: dict[str, Any],
    checkpoint: Checkpoint,
    nearly: Callable[[str], Path],
    open_llm: OpenLLM,
) -> None:
    llm = open_llm(checkpoint(family), max_num_seqs=7, **with_draft(nearly(family), 4), **settings)
    plain = alone(llm)
    assert_same(generate(llm), plain)
    drafts = core_of(llm).stats().scheduler.drafts
    assert 0 < drafts.num_accepted_tokens < drafts.num_draft_tokens
    core_of(llm).scheduler._kv.check()


def test_greedy_tokens_are_those_of_an_engine_without_one(
    checkpoint: Checkpoint, nearly: Callable[[str], Path], open_llm: OpenLLM
) -> None:
    greedy = [kind for kind in KINDS if kind["temperature"] == 0]
    plain = generate(open_llm(checkpoint("llama")), greedy)
    llm = ask_about(open_llm(checkpoint("llama"), **with_draft(nearly("llama"))))
    assert_same(generate(llm, greedy), plain)


def test_the_model_itself_is_always_right(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    """At any temperature: like logits and the same random numbers give the same tokens."""
    llm = open_llm(checkpoint("llama"), max_num_seqs=7, **with_draft(checkpoint("llama").directory, 5))
    kinds = [{"temperature": 0.0}, {"temperature": 1.0, "seed": 5}, {"temperature": 0.7, "top_p": 0.9}]
    generate(ask_about(llm), kinds)
    core = core_of(llm)
    drafts = core.stats().scheduler.drafts
    assert drafts.num_accepted_tokens > 0.97 * drafts.num_draft_tokens


@pytest.mark.parametrize("settings", [{}, {"max_model_len": 80, "kv_cache_memory_bytes": "200KiB"}])
def test_on_a_device_that_works_by_itself_too(
    settings: dict[str, Any],
    checkpoint: Checkpoint,
    nearly: Callable[[str], Path],
    open_llm: OpenLLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Drafts are asked for while the others' next step has begun."""
    monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())
    llm = open_llm(checkpoint("llama"), max_num_seqs=7, **with_draft(nearly("llama")), **settings)
    plain = alone(llm)
    core = core_of(llm)
    checked = Checked(core.executor.worker.draft, None)
    core.executor.worker.speculator._model = checked
    ask_about(llm, lambda sequence: sequence.slot % 2 == 1)
    assert_same(generate(llm), plain)
    assert checked.checked > 0
    assert core.stats().scheduler.drafts.num_accepted_tokens > 0
    core.scheduler._kv.check()


def test_requests_that_end_early_leave_the_others_alone(
    checkpoint: Checkpoint, nearly: Callable[[str], Path], open_llm: OpenLLM
) -> None:
    """Stop strings and tokens, and an abort while drafts of it are under way."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0, "stop": ["a", "Z"]},
        {"temperature": 1.0, "seed": 3, "stop_token_ids": list(range(40, 70))},
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 4, "n": 2, "stop": ["q"], "include_stop_str_in_output": True},
        {"temperature": 0.7, "seed": 5},
    ]
    llm = open_llm(checkpoint("llama"), max_num_seqs=7, **with_draft(nearly("llama"), 4))
    core = core_of(llm)
    plain = alone(llm, kinds)
    update, seen = core.scheduler.update, [0]

    def abort_the_third(*step: Any) -> Any:
        outputs = update(*step)
        seen[0] += 1
        live = sorted(core.scheduler._requests, key=int)
        if seen[0] == 4:
            outputs += core.scheduler.abort(next(name for name in live if int(name) % 5 == 2))
        return outputs

    core.scheduler.update = abort_the_third
    found = generate(llm, kinds)
    third = found.pop(2).outputs[0].token_ids
    assert list(third) == list(plain.pop(2).outputs[0].token_ids)[: len(third)]
    assert len(third) < NEW
    assert_same(found, plain)
    assert [[one.finish_reason for one in each.outputs] for each in found] == [
        [one.finish_reason for one in each.outputs] for each in plain
    ]
    core.scheduler._kv.check()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.6])
def test_tokens_are_drawn_from_the_targets_distribution(
    temperature: float, checkpoint: Checkpoint, nearly: Callable[[str], Path], open_llm: OpenLLM
) -> None:
    """Pearson's chi-square of the second token, which is drafted, with penalties and a bias."""
    reference = checkpoint("llama")
    llm = open_llm(reference, max_num_seqs=64, **with_draft(nearly("llama")))
    prompt, biased, count = [5, 80, 31, 200], 7, 900
    params = [
        SamplingParams(
            max_tokens=3,
            ignore_eos=True,
            seed=seed,
            temperature=temperature,
            top_k=6,
            presence_penalty=1.5,
            logit_bias={biased: 1.0},
        )
        for seed in range(count)
    ]
    ask_about(llm)
    outputs = llm.generate([{"prompt_token_ids": prompt}] * count, params, use_tqdm=False)
    drafts = core_of(llm).stats().scheduler.drafts
    assert 0.2 * drafts.num_draft_tokens < drafts.num_accepted_tokens < drafts.num_draft_tokens
    first, found = second_tokens(outputs)
    logits = reference.logits([*prompt, first])[-1].double()
    logits[biased] += 1.0
    logits[first] -= 1.5
    kept = logits.topk(6)
    expected = (kept.values / temperature).softmax(-1)
    assert_drawn_from(found, dict(zip(kept.indices.tolist(), expected.tolist(), strict=True)))


def test_for_nobody_nothing_runs(
    checkpoint: Checkpoint, open_llm: OpenLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = open_llm(checkpoint("llama"), **with_draft(checkpoint("qwen3").directory))
    core = core_of(llm)
    draft = core.executor.worker.draft
    ask_about(llm, lambda _: False)
    calls: list[str] = []
    monkeypatch.setattr(draft, "_forward", lambda *args: calls.append("forward"))
    monkeypatch.setattr(draft._kv, "clear", lambda *args: calls.append("clear"))
    before = [stack.clone() for stacks in draft._kv._stacks for _, stack in stacks]
    generate(llm)
    assert not calls
    after = [stack for stacks in draft._kv._stacks for _, stack in stacks]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_context_may_outgrow_the_draft_model(
    checkpoint: Checkpoint, open_llm: OpenLLM, tmp_path: Path
) -> None:
    short = save_random_checkpoint(tmp_path, {**FAMILIES["qwen3"], "max_position_embeddings": 40})
    save_byte_tokenizer(tmp_path)
    llm = open_llm(checkpoint("llama"), **with_draft(short.directory))
    checked = Checked(core_of(llm).executor.worker.draft, short)
    core_of(llm).executor.worker.speculator._model = checked
    assert checked.max_len == 40
    generate(ask_about(llm))
    assert checked.checked > 0
    assert not checked.problems, checked.problems[0]


@pytest.mark.parametrize("width", [288, 352])
def test_logits_may_be_padded_otherwise(
    width: int, checkpoint: Checkpoint, open_llm: OpenLLM, tmp_path: Path
) -> None:
    """As those of models of one family are, where a size is made even for the hardware's sake."""
    save_random_checkpoint(tmp_path, {**BASE, "model_type": "llama", "vocab_size": width})
    save_byte_tokenizer(tmp_path)
    llm = open_llm(checkpoint("llama"), **with_draft(tmp_path))
    plain = alone(llm)
    assert_same(generate(llm), plain)
    assert core_of(llm).stats().scheduler.drafts.num_draft_tokens > 0


def test_another_vocabulary_is_refused(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    with pytest.raises(ConfigError, match=r"'tiny-draft' has another vocabulary .* Name a draft model with"):
        open_llm(checkpoint("llama"), speculative_config={"model": "tiny-draft", "num_speculative_tokens": 2})


def test_a_model_that_is_not_there_is_named(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    with pytest.raises(ModelNotFoundError, match="The draft model of speculative_config: 'nowhere'"):
        open_llm(checkpoint("llama"), speculative_config={"model": "nowhere", "num_speculative_tokens": 2})


def test_memory_counts_both_models(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    alone = open_llm(checkpoint("llama"))
    llm = open_llm(checkpoint("llama"), **with_draft(checkpoint("qwen3").directory, 20))
    one, both = core_of(alone).executor, core_of(llm).executor
    assert both.worker.bytes_per_block == 2 * one.worker.bytes_per_block  # layers of the same shape
    assert both.worker.weight_bytes > 1.9 * one.worker.weight_bytes
    spare = both.worker.config.max_num_seqs * 2 * one.worker.bytes_per_block  # 20 tokens, blocks of 16
    assert both.worker.draft._kv.nbytes() == both.worker.kv.nbytes() + spare
    assert both.profile().activations >= one.profile().activations + spare


def test_a_dry_run_counts_both_models(open_llm: OpenLLM) -> None:
    ahead = {"model": "tiny-draft", "num_speculative_tokens": 4}
    settings: dict[str, Any] = {"dtype": "bfloat16", "speculative_config": ahead}
    worker = core_of(open_llm("tiny", **settings)).executor.worker
    found = forecast(EngineConfig(model="tiny", kv_cache_memory_bytes="8MiB", max_num_seqs=8, **settings))
    without = forecast(EngineConfig(model="tiny", kv_cache_memory_bytes="8MiB", dtype="bfloat16"))
    assert found.problem is None
    assert found.profile.kv_bytes_per_block == worker.bytes_per_block
    assert without.profile.kv_bytes_per_block * 9 == worker.bytes_per_block * 8  # 4 layers of 2 heads, 1 of 1
    assert found.profile.weights - without.profile.weights > 1.4e6
    assert found.budget is not None
    assert without.budget is not None
    assert found.budget.tokens < without.budget.tokens


def test_tiny_draft_knows_what_tiny_says(open_llm: OpenLLM) -> None:
    """On Python that neither has seen."""
    settings: dict[str, Any] = {"kv_cache_memory_bytes": "64MiB", "dtype": "bfloat16"}
    llm = open_llm(
        "tiny", **settings, speculative_config={"model": "tiny-draft", "num_speculative_tokens": 3}
    )
    generate_text(ask_about(llm), temperature=0.0)
    drafts = core_of(llm).stats().scheduler.drafts
    assert drafts.num_accepted_tokens > 0.35 * drafts.num_draft_tokens
    assert drafts.num_emitted_tokens > 1.9 * drafts.num_drafts


TEXTS = [
    "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def ",
    "import json\n\n\ndef read_settings(path):\n",
    "def fibonacci(n):\n",
    "async def fetch(session, url, timeout=None):\n    try:\n",
]


def generate_text(llm: LLM, **params: Any) -> None:
    llm.generate(TEXTS, SamplingParams(max_tokens=64, ignore_eos=True, seed=1, **params), use_tqdm=False)
