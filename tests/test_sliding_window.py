"""Blocks that left a layer's window: a long sequence in a small pool, forks, chunks, prefixes, neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from quire import LLM, RequestOutput, SamplingParams
from quire.errors import CapacityError
from quire.testing.model import Reference

from .conftest import random_prompt

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]

WINDOWED = pytest.mark.parametrize("family", ["mistral", "qwen2-window"])  # in all layers; in some


def generate(llm: LLM, ids: Sequence[Sequence[int]], **params: object) -> list[RequestOutput]:
    asked = SamplingParams(**{"max_tokens": 20, "ignore_eos": True, **params})  # type: ignore[arg-type]
    return llm.generate([{"prompt_token_ids": list(one)} for one in ids], asked, use_tqdm=False)


def tokens(outputs: Sequence[RequestOutput]) -> list[list[list[int]]]:
    return [[one.token_ids for one in output.outputs] for output in outputs]


def small(llm: LLM, blocks: int) -> int:
    """Bytes of so many usable blocks, and the null block."""
    memory = llm.startup_report.memory
    return memory.kv // memory.num_blocks * (blocks + 1)


def test_a_long_generation_runs_in_a_pool_too_small_for_it(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    reference = checkpoint("mistral")
    prompt = random_prompt(100, seed=1)
    ample = open_llm(reference, block_size=4)
    expected = tokens(generate(ample, [prompt], temperature=0.0, max_tokens=120))
    # A window of 9 lies in at most 3 blocks: 12 tokens of room for 220.
    llm = open_llm(reference, block_size=4, kv_cache_memory_bytes=small(ample, 3), max_model_len=256)
    assert tokens(generate(llm, [prompt], temperature=0.0, max_tokens=120)) == expected
    usage = llm.get_metrics().kv[0]
    assert usage.total == 3
    assert usage.used == 0
    with pytest.raises(CapacityError, match="largest max_model_len that works is 8"):
        open_llm(reference, block_size=4, kv_cache_memory_bytes=small(ample, 2), max_model_len=256)


@WINDOWED
@pytest.mark.parametrize("budget", [7, 64])
def test_completions_of_one_prompt_share_what_their_windows_see(
    family: str, budget: int, checkpoint: Checkpoint, open_llm: OpenLLM
) -> None:
    reference = checkpoint(family)
    prompts = [random_prompt(length, seed=length) for length in (3, 33, 50)]
    ample = open_llm(reference, block_size=4)
    params = {"n": 2, "temperature": 1.0, "seed": 5}
    expected = tokens(generate(ample, prompts, **params))
    # Room for one of the longest and a little: forks are dropped, and with small steps some are preempted.
    blocks = 6 if family == "mistral" else 20
    llm = open_llm(
        reference,
        block_size=4,
        max_num_batched_tokens=budget,
        kv_cache_memory_bytes=small(ample, blocks),
        max_model_len=72,
    )
    for _ in ("cold", "warm"):
        assert tokens(generate(llm, prompts, **params)) == expected
    assert llm.get_metrics().num_preemptions > 0 or budget == 64
    assert all(usage.used == 0 for usage in llm.get_metrics().kv)


@WINDOWED
def test_a_prefix_is_found_though_its_start_is_gone(
    family: str, checkpoint: Checkpoint, open_llm: OpenLLM
) -> None:
    llm = open_llm(checkpoint(family), block_size=4, max_num_batched_tokens=8)
    prompt = random_prompt(41, seed=2)
    cold = generate(llm, [prompt], temperature=0.0)
    assert llm.get_metrics().kv[-1].cached > 0
    warm = generate(llm, [prompt], temperature=0.0)
    assert tokens(warm) == tokens(cold)
    assert warm[0].num_cached_tokens == 40
