"""The engine on a GPU: Triton attention and kernels, graphs, overlapping steps.

Without one the same lines run on a processor that plays it, with the reference's attention and kernels: what
they say of Triton is nothing then, but that they would run is known.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from quire import LLM, SamplingParams
from quire.testing.drafting import always_draft
from quire.testing.model import Reference

from .played_device import play_graphs

pytestmark = pytest.mark.gpu

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"
PLAIN = {"attention_backend": "torch", "kernels": "reference", "enforce_eager": True}
FAST = (
    {"attention_backend": "triton", "kernels": "triton"}
    if ON_GPU
    else {"attention_backend": "torch", "kernels": "reference"}
)


@pytest.fixture(autouse=True)
def _played(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a GPU a processor plays one that works by itself and captures graphs."""
    if not ON_GPU:
        play_graphs(monkeypatch)


@pytest.fixture
def on_gpu(open_llm: Callable[..., LLM], checkpoint: Callable[[str], Reference]) -> Callable[..., LLM]:
    """Opens engines on the GPU, in fp32, on a random checkpoint of a family."""

    def make(family: str, **settings: Any) -> LLM:
        return open_llm(checkpoint(family), **{"device": DEVICE, "dtype": "float32", **settings})

    return make


def prompts(count: int, longest: int, seed: int) -> list[Any]:
    draw = random.Random(seed)
    return [
        {"prompt_token_ids": [draw.randint(2, 257) for _ in range(draw.randint(1, longest))]}
        for _ in range(count)
    ]


def tokens(llm: LLM, asked: Sequence[Any], params: SamplingParams | list[SamplingParams]) -> list[list[int]]:
    outputs = llm.generate(list(asked), params, use_tqdm=False)
    return [list(one.token_ids) for output in outputs for one in output.outputs]


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(temperature=0.0, max_tokens=max_tokens, ignore_eos=True)


@pytest.mark.parametrize("family", ["llama", "llama-tied", "mistral", "qwen2", "qwen2-window", "qwen3"])
def test_greedy_tokens_are_the_references(family: str, on_gpu: Callable[..., LLM]) -> None:
    asked = prompts(12, 60, seed=1)
    expected = tokens(on_gpu(family, **PLAIN), asked, greedy(24))
    assert tokens(on_gpu(family, **FAST), asked, greedy(24)) == expected


def test_graphs_change_no_token(on_gpu: Callable[..., LLM]) -> None:
    asked = prompts(20, 60, seed=2)
    for params in (greedy(30), SamplingParams(seed=5, max_tokens=30, top_p=0.9, ignore_eos=True)):
        captured = tokens(on_gpu("llama", **FAST), asked, params)
        assert tokens(on_gpu("llama", enforce_eager=True, **FAST), asked, params) == captured


def test_what_graphs_draw_is_what_the_sampler_draws(on_gpu: Callable[..., LLM]) -> None:
    """Every kind of request in the same steps; those that need the host leave after some tokens."""
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0},
        {"temperature": 0.7, "min_p": 0.05},
        {"top_k": 5},
        {"presence_penalty": 1.5, "max_tokens": 6},
        {"top_p": 0.8, "min_tokens": 4},
        {"top_k": 30, "top_p": 0.9, "logprobs": 2},
        {"allowed_token_ids": [4, 5, 6], "max_tokens": 4},
        {"stop_token_ids": list(range(0, 320, 7))},
    ]
    asked = prompts(24, 60, seed=6)
    params = [
        SamplingParams(seed=i, **{"max_tokens": 30, **kinds[i % len(kinds)]}) for i in range(len(asked))
    ]
    captured = on_gpu("llama", **FAST)
    assert "sampling included" in "\n".join(captured._engine.report.lines())
    expected = tokens(on_gpu("llama", enforce_eager=True, **FAST), asked, params)
    assert tokens(captured, asked, params) == expected
    assert tokens(captured, asked, params) == expected  # in slots that others have had


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_drafts_in_graphs_change_no_token(family: str, on_gpu: Callable[..., LLM]) -> None:
    """Rows of a request as requests of one row, at several depths, beside such without drafts."""
    asked = prompts(6, 60, seed=7)
    expected = tokens(on_gpu(family, enforce_eager=True, **FAST), asked, greedy(30))
    ngram = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_min": 1}
    llm = on_gpu(family, speculative_config=ngram, **FAST)
    always_draft(llm._engine.client.core.scheduler, 3, lambda one: one.slot != 1)  # type: ignore[attr-defined]
    assert tokens(llm, asked, greedy(30)) == expected
    assert llm.get_metrics().drafts.num_draft_tokens > 0


def test_the_largest_blocks_and_smallest(on_gpu: Callable[..., LLM]) -> None:
    asked = prompts(6, 100, seed=3)
    expected = tokens(on_gpu("llama", **PLAIN), asked, greedy(16))
    for block_size in (16, 32, 64, 128):
        assert tokens(on_gpu("llama", block_size=block_size, **FAST), asked, greedy(16)) == expected


def test_200_requests_of_random_lengths_with_preemption(on_gpu: Callable[..., LLM]) -> None:
    asked = prompts(200, 100, seed=4)
    draw = random.Random(5)
    params = [greedy(draw.randint(1, 100)) for _ in asked]
    roomy = on_gpu("llama", max_num_seqs=64, kv_cache_memory_bytes="64MiB", **FAST)
    expected = tokens(roomy, asked, params)
    small: dict[str, Any] = {"kv_cache_memory_bytes": "1MiB", "enable_prefix_caching": False}
    tight = on_gpu("llama", max_num_seqs=64, **small, **FAST)
    assert tokens(tight, asked, params) == expected
    core = tight._engine.client.core  # type: ignore[attr-defined]
    while core.has_unfinished():
        core.step()
    stats = core.stats().scheduler
    assert stats.num_preemptions > 0
    assert [pool.used for pool in stats.kv] == [0]


def test_bf16_by_the_bundled_model(open_llm: Callable[..., LLM]) -> None:
    """What is chosen by itself, in the dtype that is served: the model goes on with a text it has learnt."""
    llm = open_llm("tiny", device=DEVICE, dtype="bfloat16", **({} if ON_GPU else FAST))
    chosen = {role: plugin.name for role, plugin in llm._engine.plan.plugins.plugins.items()}
    assert (chosen["attention/0"], chosen["kernels"]) == (FAST["attention_backend"], FAST["kernels"])
    fp32 = open_llm("tiny", device=DEVICE, dtype="float32", **PLAIN)
    text = "def fibonacci(n):\n"
    ours = llm.generate(text, greedy(24), use_tqdm=False)[0].outputs[0].token_ids
    theirs = fp32.generate(text, greedy(24), use_tqdm=False)[0].outputs[0].token_ids
    assert list(ours[:8]) == list(theirs[:8])
