"""Beam search of the whole engine against transformers' `generate(num_beams=...)`: beams and scores."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch

from quire import (
    LLM,
    AsyncLLM,
    BeamSearchParams,
    CompletionOutput,
    EngineConfig,
    EngineProcess,
    RequestOutput,
    SamplingParams,
)
from quire.errors import InvalidRequestError
from quire.testing.model import Reference

from .conftest import random_prompt

Checkpoint = Callable[[str], Reference]
OpenLLM = Callable[..., LLM]
Early = bool | Literal["never"]
NEW = 12
EOS = 1
PROMPTS = [random_prompt(length, seed=length) for length in (1, 5, 16, 33)]
_LIKED: dict[Path, int] = {}
FAMILIES = ("llama", "mistral", "qwen2-window", "qwen3")


class Case(NamedTuple):
    """What is asked for."""

    width: int
    length_penalty: float
    early_stopping: Early
    min_tokens: int = 0
    ends: tuple[int, ...] = ()

    def params(self, **changes: Any) -> SamplingParams:
        asked: dict[str, Any] = {
            "n": self.width,
            "use_beam_search": True,
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
            "min_tokens": self.min_tokens,
            "stop_token_ids": list(self.ends),
            "max_tokens": NEW,
        }
        return SamplingParams(**{**asked, **changes})


PENALTIES = (-1.0, 0.0, 0.6, 1.0, 2.0)
EARLY: tuple[Early, ...] = (True, False, "never")
CASES = [
    Case(1 + number % 5, penalty, early, min_tokens=3 * (number % 4 == 3))
    for number, (penalty, early) in enumerate(product(PENALTIES, EARLY))
]


class Beams(NamedTuple):
    """What transformers finds: output ids and scores, best first; no scores of one beam, a greedy search."""

    tokens: list[list[int]]
    scores: list[float] | None


@torch.inference_mode()
def expected(reference: Reference, prompt: list[int], case: Case) -> Beams:
    ends = [EOS, *case.ends]
    beams: dict[str, Any] = {"length_penalty": case.length_penalty, "early_stopping": case.early_stopping}
    found = reference.model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        num_beams=case.width,
        num_return_sequences=case.width,
        max_new_tokens=NEW,
        min_new_tokens=case.min_tokens,
        do_sample=False,
        eos_token_id=ends,
        pad_token_id=EOS,
        output_scores=True,
        return_dict_in_generate=True,
        **(beams if case.width > 1 else {}),
    )
    tokens = []
    for row in found.sequences[:, len(prompt) :].tolist():
        end = next((place for place, token in enumerate(row, start=1) if token in ends), len(row))
        tokens.append(row[:end])
    scores = found.sequences_scores.tolist() if case.width > 1 else None
    return Beams(tokens, scores)


def liked(reference: Reference) -> int:
    """A token that beams come by now and then: as an end token it makes them end at different lengths."""
    if reference.directory in _LIKED:
        return _LIKED[reference.directory]
    seen: Counter[int] = Counter()
    for prompt in PROMPTS:
        for tokens in expected(reference, prompt, Case(5, 1.0, False)).tokens:
            seen.update(tokens[2:-1])
    return _LIKED.setdefault(reference.directory, seen.most_common(1)[0][0])


def assert_equal(output: RequestOutput, beams: Beams, case: Case) -> None:
    assert [one.token_ids for one in output.outputs] == beams.tokens
    assert [one.index for one in output.outputs] == list(range(case.width))
    for one, score in zip(output.outputs, beams.scores or (), strict=beams.scores is not None):
        assert score_of(one, case.length_penalty) == pytest.approx(score, abs=2e-4, rel=2e-4)
    for one in output.outputs:
        last = one.token_ids[-1]
        assert one.finish_reason == ("stop" if last in (EOS, *case.ends) else "length")
        assert one.stop_reason == (last if last in case.ends else None)


def score_of(one: CompletionOutput, length_penalty: float) -> float:
    assert one.cumulative_logprob is not None
    return one.cumulative_logprob / math.pow(len(one.token_ids), length_penalty)


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_transformers(family: str, checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    reference = checkpoint(family)
    llm = open_llm(reference, max_num_seqs=64)
    cases = [case._replace(ends=(liked(reference),)) for case in CASES]
    asked = [(prompt, case) for number, case in enumerate(cases) for prompt in PROMPTS[number % 2 :: 2]]
    outputs = llm.generate(
        [prompt for prompt, _ in asked], [case.params() for _, case in asked], use_tqdm=False
    )
    ended: Counter[bool] = Counter()
    for output, (prompt, case) in zip(outputs, asked, strict=True):
        assert_equal(output, expected(reference, prompt, case), case)
        ended.update(1 < len(one.token_ids) < NEW for one in output.outputs)
    assert min(ended[True], ended[False]) > 10, "ends that come too rarely, or always, show little"


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize(
    "settings",
    [
        {"max_num_seqs": 3},
        {"max_num_batched_tokens": 7},
        {"blocks": 16, "max_model_len": 48},
        {"enable_prefix_caching": False, "max_num_seqs": 2},
    ],
)
def test_beams_beside_others_and_in_want_of_room(
    settings: dict[str, Any], family: str, checkpoint: Checkpoint, open_llm: OpenLLM
) -> None:
    reference = checkpoint(family)
    if "blocks" in settings:
        probe = open_llm(reference, block_size=4).startup_report.memory
        per_block = probe.kv // probe.num_blocks
        settings = {**settings, "kv_cache_memory_bytes": per_block * settings["blocks"]}
        del settings["blocks"]
    llm = open_llm(reference, block_size=4, **settings)
    case = Case(4, 0.6, False, ends=(liked(reference),))
    plain = SamplingParams(temperature=0.0, max_tokens=NEW)
    alone = [llm.generate([prompt], plain, use_tqdm=False)[0].outputs[0].token_ids for prompt in PROMPTS]
    outputs = llm.generate(PROMPTS * 2, [plain] * 4 + [case.params()] * 4, use_tqdm=False)
    assert [output.outputs[0].token_ids for output in outputs[:4]] == alone
    for output, prompt in zip(outputs[4:], PROMPTS, strict=True):
        assert_equal(output, expected(reference, prompt, case), case)


def test_the_models_own_end_token_ends_beams(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    reference = checkpoint("llama")
    end = liked(reference)
    llm = open_llm(reference, hf_overrides={"eos_token_id": end}, generation_config="none")
    case = Case(4, 0.0, True, ends=(end,))
    params = case.params(stop_token_ids=None)
    outputs = llm.generate(PROMPTS, params, use_tqdm=False)
    for output, prompt in zip(outputs, PROMPTS, strict=True):
        assert [one.token_ids for one in output.outputs] == expected(reference, prompt, case).tokens
        assert {one.stop_reason for one in output.outputs} == {None}
    assert "stop" in {one.finish_reason for output in outputs for one in output.outputs}
    outputs = llm.generate(PROMPTS, case.params(stop_token_ids=None, ignore_eos=True), use_tqdm=False)
    assert {one.finish_reason for output in outputs for one in output.outputs} == {"length"}
    assert any(end in one.token_ids for output in outputs for one in output.outputs)


def test_n_of_best_of_and_log_probabilities(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    reference = checkpoint("qwen3")
    llm = open_llm(reference)
    case = Case(5, 1.0, False, ends=(liked(reference),))
    (output,) = llm.generate([PROMPTS[1]], case.params(n=2, best_of=5, logprobs=2), use_tqdm=False)
    assert [one.token_ids for one in output.outputs] == expected(reference, PROMPTS[1], case).tokens[:2]
    for one in output.outputs:
        assert one.logprobs is not None
        rows = reference.logits(PROMPTS[1] + one.token_ids[:-1])[len(PROMPTS[1]) - 1 :].log_softmax(-1)
        for token, entries, row in zip(one.token_ids, one.logprobs, rows, strict=True):
            assert entries[token].logprob == pytest.approx(float(row[token]), abs=1e-3)
            assert entries[token].rank == int((row > row[token]).sum()) + 1
            assert list(entries) == list(dict.fromkeys([token, *row.topk(2).indices.tolist()]))
        assert one.cumulative_logprob == pytest.approx(
            sum(entries[token].logprob for token, entries in zip(one.token_ids, one.logprobs, strict=True))
        )


def test_the_context_ends_beams(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    llm = open_llm(checkpoint("llama"), max_model_len=20)
    params = SamplingParams(use_beam_search=True, n=3, max_tokens=None, ignore_eos=True)
    (output,) = llm.generate([PROMPTS[2]], params, use_tqdm=False)
    assert [len(one.token_ids) for one in output.outputs] == [4, 4, 4]
    assert {one.finish_reason for one in output.outputs} == {"length"}


def test_beam_search_gives_what_vllms_users_know(checkpoint: Checkpoint, open_llm: OpenLLM) -> None:
    reference = checkpoint("llama")
    end = liked(reference)
    llm = open_llm(reference, hf_overrides={"eos_token_id": end}, generation_config="none")
    case = Case(3, 0.6, False, ends=(end,))
    params = BeamSearchParams(beam_width=3, max_tokens=NEW, length_penalty=0.6)
    outputs = llm.beam_search([{"prompt_token_ids": prompt} for prompt in PROMPTS], params)
    for output, prompt in zip(outputs, PROMPTS, strict=True):
        beams = expected(reference, prompt, case)
        assert beams.scores is not None
        assert len(output.sequences) == 3
        for one, tokens, score in zip(output.sequences, beams.tokens, beams.scores, strict=True):
            ends = tokens[-1] == end
            assert one.tokens == prompt + (tokens[:-1] if ends else tokens)
            assert one.text == llm.detokenize(one.tokens, skip_special_tokens=False)
            assert one.cum_logprob / len(tokens) ** 0.6 == pytest.approx(score, abs=2e-4)
            assert [next(iter(entry)) for entry in one.logprobs] == tokens
            assert one.finish_reason == ("stop" if ends else "length")
    kept = BeamSearchParams(3, NEW, length_penalty=0.6, include_stop_str_in_output=True)
    (output,) = llm.beam_search(PROMPTS[2], kept)
    whole = [PROMPTS[2] + tokens for tokens in expected(reference, PROMPTS[2], case).tokens]
    assert [one.tokens for one in output.sequences] == whole


def test_more_beams_than_the_vocabulary_can_feed_are_refused(
    checkpoint: Checkpoint, open_llm: OpenLLM
) -> None:
    llm = open_llm(checkpoint("llama"))
    with pytest.raises(
        InvalidRequestError, match="320 beams and 1 end tokens are more than the 320"
    ) as caught:
        llm.generate(["a"], SamplingParams(use_beam_search=True, n=320), use_tqdm=False)
    assert caught.value.field == "n"
    with pytest.raises(InvalidRequestError, match="SamplingParams: beam_search takes BeamSearchParams"):
        llm.beam_search(["a"], SamplingParams(use_beam_search=True, n=2))  # type: ignore[arg-type]


def test_an_engine_process_searches_too(checkpoint: Checkpoint, tmp_path: Path) -> None:
    reference = checkpoint("llama")
    case = Case(4, 1.0, "never", ends=(liked(reference),))
    config = EngineConfig(
        model=str(reference.directory), dtype="float32", kv_cache_memory_bytes="8MiB", max_num_seqs=8
    )

    async def body(engine: EngineProcess) -> None:
        await engine.ready()
        async with await AsyncLLM.connect(engine.endpoint) as llm:
            params = case.params(n=2, best_of=4)
            with pytest.raises(InvalidRequestError, match="cannot be given in deltas") as caught:
                await llm.submit(PROMPTS[2], params, deltas=True)
            assert caught.value.field == "use_beam_search"
            outputs = [output async for output in llm.generate(PROMPTS[2], params)]
            tokens = [one.token_ids for one in outputs[-1].outputs]
            assert tokens == expected(reference, PROMPTS[2], case).tokens[:2]
            stats = await llm.get_metrics()
            assert (stats.num_running, stats.num_waiting) == (0, 0)

    engine = EngineProcess(config, f"ipc://{tmp_path}/engine", show_progress=False)
    try:
        asyncio.run(asyncio.wait_for(body(engine), timeout=60))
    finally:
        engine.stop()
