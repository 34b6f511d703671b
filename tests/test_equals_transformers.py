"""Greedy tokens and log probabilities of the whole engine against transformers, for every family."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from quire import LLM, RequestOutput, SamplingParams
from quire.testing.model import TOLERANCE, Reference

from .conftest import FAMILIES, random_prompt

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]
LENGTHS = (1, 15, 16, 17, 40, 61)
NEW = 20
GREEDY = SamplingParams(temperature=0.0, max_tokens=NEW, ignore_eos=True, logprobs=3)

pytestmark = pytest.mark.parametrize("family", FAMILIES)


def prompts() -> list[list[int]]:
    return [random_prompt(length, seed=length) for length in LENGTHS]


def assert_equals_reference(reference: Reference, outputs: Sequence[RequestOutput]) -> None:
    """Same greedy tokens up to the first step whose top-2 margin is inside the tolerance; logprobs close."""
    compared = 0
    for output in outputs:
        completion = output.outputs[0]
        assert completion.logprobs is not None
        assert len(completion.token_ids) == NEW
        ids = output.prompt_token_ids + completion.token_ids
        rows = reference.logits(ids[:-1])[len(output.prompt_token_ids) - 1 :]
        for token, logprobs, row in zip(completion.token_ids, completion.logprobs, rows, strict=True):
            tolerance = 2 * TOLERANCE * float(row.abs().max())
            best = row.topk(2)
            if float(best.values[0] - best.values[1]) < tolerance:
                break
            assert token == int(best.indices[0])
            expected = row.log_softmax(-1)[token]
            assert logprobs[token].logprob == pytest.approx(float(expected), abs=tolerance)
            assert logprobs[token].rank == 1
            compared += 1
    assert compared > NEW * len(outputs) // 2, "nearly everything was inside the tolerance"


def generate(llm: LLM, ids: Sequence[Sequence[int]]) -> list[RequestOutput]:
    return llm.generate([{"prompt_token_ids": list(one)} for one in ids], GREEDY, use_tqdm=False)


def test_alone_batched_and_warm(family: str, checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    reference = checkpoint(family)
    llm = open_llm(reference)
    alone = [generate(llm, [prompt])[0] for prompt in prompts()]
    assert_equals_reference(reference, alone)
    llm.reset_prefix_cache()
    batched = generate(llm, prompts())
    assert_equals_reference(reference, batched)
    assert all(output.num_cached_tokens == 0 for output in batched)
    warm = generate(llm, prompts())
    assert_equals_reference(reference, warm)
    assert [output.num_cached_tokens for output in warm] == [(length - 1) // 16 * 16 for length in LENGTHS]


@pytest.mark.parametrize("block_size", [4, 16])
def test_chunked(family: str, block_size: int, checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    reference = checkpoint(family)
    llm = open_llm(reference, max_num_batched_tokens=13, block_size=block_size, enable_prefix_caching=False)
    assert_equals_reference(reference, generate(llm, prompts()))


def test_preempted_and_resumed(family: str, checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    reference = checkpoint(family)
    probe = open_llm(reference, block_size=4).startup_report.memory
    per_block = probe.kv // probe.num_blocks
    # Room for the longest request, or for its window, and little more, while six want to run.
    blocks = 9 if family == "mistral" else 26
    llm = open_llm(reference, block_size=4, max_model_len=88, kv_cache_memory_bytes=per_block * blocks)
    outputs = generate(llm, prompts())
    assert_equals_reference(reference, outputs)
    assert llm.get_metrics().num_preemptions > 0


def test_prompt_logprobs(family: str, checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    reference = checkpoint(family)
    llm = open_llm(reference, max_num_batched_tokens=16)
    params = SamplingParams(temperature=0.0, max_tokens=2, ignore_eos=True, prompt_logprobs=2)
    ids = [{"prompt_token_ids": prompt} for prompt in prompts()]
    for _ in ("cold", "warm"):
        for output in llm.generate(ids, params, use_tqdm=False):
            assert output.prompt_logprobs is not None
            assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
            assert output.prompt_logprobs[0] is None
            expected = reference.logits(output.prompt_token_ids).log_softmax(-1)
            for position, entry in enumerate(output.prompt_logprobs[1:], start=1):
                assert entry is not None
                token = output.prompt_token_ids[position]
                row = expected[position - 1]
                assert entry[token].logprob == pytest.approx(float(row[token]), abs=2e-3)
                assert entry[token].rank == int((row > row[token]).sum()) + 1
                top = {int(index) for index in torch.topk(row, 2).indices}
                assert top <= set(entry)
