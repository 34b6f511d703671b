"""Features on or off, in every combination, change no token (T39).

One batch of greedy and of sampled requests, some of which share prefixes and one of which has two
completions. The plain engine (no cache, whole prompts, ample memory) is held to transformers, and all
others to it. Beside a draft model what is sampled is drawn by other numbers: those engines are held to one
that has it and never asks, with requests that have a form, or that processors edit, among them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quire import LLM, SamplingParams, StructuredOutputsParams
from quire.testing.drafting import always_draft
from quire.testing.model import TOLERANCE, Reference

from .conftest import random_prompt
from .eagle_heads import ReferenceHead, save_head

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]

NEW = 8
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1}
_SHARED = random_prompt(32, seed=39)
PROMPTS = [
    random_prompt(14, seed=1),
    _SHARED + random_prompt(14, seed=2),
    random_prompt(30, seed=3),
    _SHARED + random_prompt(1, seed=4),
]
SAMPLED: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 0.9,
    "min_p": 0.01,
    "presence_penalty": 0.5,
    "max_tokens": NEW,
}
REQUESTS = [
    (prompt, params)
    for number, prompt in enumerate(PROMPTS)
    for params in (
        SamplingParams(temperature=0.0, max_tokens=NEW, ignore_eos=True),
        SamplingParams(**SAMPLED, seed=number, n=1 + number % 2, ignore_eos=True),
    )
]


IN_FORM = [
    (
        _SHARED + random_prompt(3, seed=9),
        SamplingParams(max_tokens=NEW, seed=9, temperature=temperature, **more),
    )
    for temperature in (0.0, 1.0)
    for more in (
        {"structured_outputs": StructuredOutputsParams(regex="[a-f]{2,4}(-[0-9]{2,3}){1,9}")},
        {"extra_args": {"no_repeat_ngram_size": 1}, "ignore_eos": True},
    )
]
"""Requests with a grammar, or that a logits processor edits."""


def tight(family: str, block_size: int) -> int:
    """Tokens of a KV cache that the longest request fills, or a window or two wherever they begin."""
    return 64 if family == "llama" else max(16, 2 * block_size)


@dataclass(frozen=True)
class Plain:
    """What the plain engine made of the requests.

    Attributes:
        tokens: per request and completion.
        certain: per request how many of its tokens are to be the same everywhere: all, or, of a greedy one,
            those before the first whose two best logits lie too close to call.
        bytes_per_token: KV memory.
    """

    tokens: list[list[list[int]]]
    certain: list[int]
    bytes_per_token: int


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "dtype": "float32",
        "max_num_seqs": 12,
        "max_model_len": 64,
        "enable_prefix_caching": False,
        **changes,
    }


def generate(llm: LLM, more: list[tuple[list[int], SamplingParams]] | None = None) -> list[list[list[int]]]:
    requests = REQUESTS + (more or [])
    outputs = llm.generate(
        [{"prompt_token_ids": prompt} for prompt, _ in requests],
        [params for _, params in requests],
        use_tqdm=False,
        priority=[number % 3 for number in range(len(requests))],
    )
    return [[one.token_ids for one in output.outputs] for output in outputs]


@pytest.fixture(scope="module")
def head(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> ReferenceHead:
    return save_head(tmp_path_factory.mktemp("head"), checkpoint("llama"))


@pytest.fixture(scope="module")
def plain(checkpoint: Checkpoint) -> Callable[[str], Plain]:
    made: dict[str, Plain] = {}

    def make(family: str) -> Plain:
        if family not in made:
            reference = checkpoint(family)
            values = settings(kv_cache_memory_bytes="8MiB")
            with LLM(str(reference.directory), show_progress=False, **values) as llm:
                memory = llm.startup_report.memory
                tokens = generate(llm)
                assert llm.get_metrics().num_preemptions == 0
            certain = [
                _certain(reference, prompt, completions[0]) if params.greedy else NEW
                for (prompt, params), completions in zip(REQUESTS, tokens, strict=True)
            ]
            made[family] = Plain(tokens, certain, memory.kv // memory.num_blocks // 16)
        return made[family]

    return make


def _certain(reference: Reference, prompt: list[int], tokens: list[int]) -> int:
    """How many greedy tokens are transformers' beyond doubt; the first that is neither fails."""
    rows = reference.logits(prompt + tokens[:-1])[len(prompt) - 1 :]
    for count, (token, row) in enumerate(zip(tokens, rows, strict=True)):
        best = row.topk(2)
        if float(best.values[0] - best.values[1]) < 2 * TOLERANCE * float(row.abs().max()):
            return count
        assert token == int(best.indices[0])
    return len(tokens)


@pytest.mark.parametrize("block_size", [4, 16])
@pytest.mark.parametrize("pool", ["ample", "tight"])
@pytest.mark.parametrize("budget", [11, 512], ids=["chunked", "whole"])
@pytest.mark.parametrize("caching", [True, False], ids=["cached", "uncached"])
@pytest.mark.parametrize(
    ("family", "method"),
    [("llama", ""), ("llama", "ngram"), ("llama", "eagle"), ("mistral", ""), ("mistral", "ngram")],
)
def test_no_feature_changes_a_token(
    family: str,
    method: str,
    caching: bool,
    budget: int,
    pool: str,
    block_size: int,
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
    plain: Callable[[str], Plain],
    head: ReferenceHead,
) -> None:
    """Of a head greedy tokens alone: where a model proposes, others are drawn by other numbers."""
    expected, memory = plain(family), plain(family).bytes_per_token
    ahead: dict[str, Any] | None = NGRAM if method else None
    if method == "eagle":
        memory += 4 * (2 * 2 * 16 + 56)  # its K and V, and a feature
        ahead = {"method": "eagle", "model": str(head.directory), "num_speculative_tokens": 3}
    room = tight(family, block_size) if pool == "tight" else 4096
    # Half of all combinations with the policy, so that each of three features occurs with each of them.
    urgent = [caching, budget == 11, pool == "tight", block_size == 4].count(True) % 2
    llm = open_llm(
        checkpoint(family),
        **settings(
            enable_prefix_caching=caching,
            max_num_batched_tokens=budget,
            block_size=block_size,
            scheduling_policy="priority" if urgent else "fcfs",
            kv_cache_memory_bytes=(room + block_size) * memory,
            speculative_config=ahead,
        ),
    )
    if ahead:
        always_draft(llm._engine.client.core.scheduler, 3)  # type: ignore[attr-defined]
    for _ in ("cold", "warm") if caching else ("cold",):
        tokens = generate(llm)
        for (_, params), ours, theirs, count in zip(
            REQUESTS, tokens, expected.tokens, expected.certain, strict=True
        ):
            if method == "eagle" and not params.greedy:
                continue
            assert [one[:count] for one in ours] == [one[:count] for one in theirs]
    metrics = llm.get_metrics()
    assert (metrics.num_preemptions > 0) == (pool == "tight")
    assert (metrics.prefix_hits > 0) == caching or pool == "tight"
    assert (metrics.drafts.num_draft_tokens > 0) == bool(method)
    assert all(usage.used == 0 for usage in metrics.kv)


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_most_greedy_tokens_are_beyond_doubt(family: str, plain: Callable[[str], Plain]) -> None:
    certain = plain(family).certain
    assert sum(certain) > 0.8 * NEW * len(REQUESTS)


@pytest.fixture(scope="module")
def unasked(
    checkpoint: Checkpoint, nearly: Callable[[str], Path], plain: Callable[[str], Plain]
) -> Callable[[str], Plain]:
    """What the plain engine makes of all requests if it has a draft model that nobody asks."""
    made: dict[str, Plain] = {}

    def make(family: str) -> Plain:
        if family not in made:
            values = settings(kv_cache_memory_bytes="16MiB", **beside(nearly(family)))
            with LLM(str(checkpoint(family).directory), show_progress=False, **values) as llm:
                always_draft(llm._engine.client.core.scheduler, 3, lambda _: False)  # type: ignore[attr-defined]
                memory = llm.startup_report.memory
                tokens = generate(llm, IN_FORM)
            certain = [*plain(family).certain, *[NEW] * len(IN_FORM)]
            for number, (_, params) in enumerate(REQUESTS):
                if params.greedy:  # greedy tokens know of no random numbers
                    count = certain[number]
                    assert tokens[number][0][:count] == plain(family).tokens[number][0][:count]
            made[family] = Plain(tokens, certain, memory.kv // memory.num_blocks // 16)
        return made[family]

    return make


def beside(draft: Path) -> dict[str, Any]:
    return {
        "max_num_seqs": 16,
        "speculative_config": {"model": str(draft), "num_speculative_tokens": 3},
        "logits_processors": ["no-repeat-ngram"],
        "structured_outputs": {"compile_timeout": 20},
    }


EVEN = [
    combination
    for combination in itertools.product([True, False], repeat=4)
    if combination.count(True) % 2 == 0
]
"""Half of all combinations of four features: each three of them occur together in all ways."""


@pytest.mark.parametrize(("caching", "chunked", "small", "narrow"), EVEN)
@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_no_feature_beside_a_draft_model_does(
    family: str,
    caching: bool,
    chunked: bool,
    small: bool,
    narrow: bool,
    checkpoint: Checkpoint,
    open_llm: OpenLLM,
    nearly: Callable[[str], Path],
    unasked: Callable[[str], Plain],
) -> None:
    expected, block_size = unasked(family), 4 if narrow else 16
    room = 64 if small else 4096  # a model without windows beside one that has some keeps all tokens
    llm = open_llm(
        checkpoint(family),
        **settings(
            enable_prefix_caching=caching,
            max_num_batched_tokens=11 if chunked else 512,
            block_size=block_size,
            scheduling_policy="priority" if caching == chunked else "fcfs",
            kv_cache_memory_bytes=(room + block_size) * expected.bytes_per_token,
            **beside(nearly(family)),
        ),
    )
    always_draft(llm._engine.client.core.scheduler, 3)  # type: ignore[attr-defined]
    for _ in ("cold", "warm") if caching else ("cold",):
        tokens = generate(llm, IN_FORM)
        for ours, theirs, count in zip(tokens, expected.tokens, expected.certain, strict=True):
            assert [one[:count] for one in ours] == [one[:count] for one in theirs]
    metrics = llm.get_metrics()
    assert (metrics.num_preemptions > 0) == small
    assert 0 < metrics.drafts.num_accepted_tokens < metrics.drafts.num_draft_tokens
    assert all(usage.used == 0 for usage in metrics.kv)
