"""The bundled head guesses what the bundled model says, and changes none of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from quire import LLM, SamplingParams
from quire.testing.model import Reference
from quire_models_tiny.source import DATA, EAGLE

from .chi_square import assert_drawn_from, second_tokens
from .eagle_heads import ReferenceHead
from .test_draft_model import TEXTS, ask_about, core_of, generate_text
from .test_eagle_reference import check

OpenLLM = Callable[..., LLM]

HEAD = {"method": "eagle", "model": "tiny-eagle", "num_speculative_tokens": 3}
ROOT = Path(__file__).resolve().parent.parent
ROOM: dict[str, Any] = {"kv_cache_memory_bytes": "64MiB"}


@pytest.fixture(scope="module")
def reference() -> ReferenceHead:
    """The bundled head in plain PyTorch."""
    model = AutoModelForCausalLM.from_pretrained(DATA, dtype=torch.float32, attn_implementation="eager")
    config = json.loads((EAGLE / "config.json").read_text())
    tensors = {name: tensor.float() for name, tensor in load_file(EAGLE / "model.safetensors").items()}
    depths = tuple(one + 1 for one in config["eagle_config"]["eagle_aux_hidden_state_layer_ids"])
    return ReferenceHead(EAGLE, config, tensors, Reference(DATA, model.config.to_dict(), model, {}), depths)


def test_it_was_trained_on_what_it_is_asked(
    reference: ReferenceHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool's network says of three tokens ahead what the reference says that goes on by itself."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from tiny_model.head import Eagle3, load_target
    from tiny_model.presets import PRESETS, HeadPreset

    preset = PRESETS["tiny-eagle"]
    assert isinstance(preset, HeadPreset)
    head = Eagle3(replace(preset, stride=1), load_target("tiny", DATA))
    head.load_state_dict(reference.tensors)
    tokens = torch.randint(10, 4000, (20,), generator=torch.Generator().manual_seed(5)).tolist()
    said = reference.target.logits(tokens).softmax(-1)
    for place in (4, 9, 17):  # of the last token that is known or proposed
        targets = torch.full((1, len(tokens)), -100)
        targets[0, place] = 1
        with torch.no_grad():
            losses, _ = head.losses(torch.tensor([tokens]), targets)
        for step, loss in enumerate(losses):
            logits = reference.logits(tokens[: place + 1], place + 1 - step)
            expected = -(said[place] * logits.log_softmax(-1)).sum()
            torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)


def test_the_engine_says_what_the_reference_says(reference: ReferenceHead, open_llm: OpenLLM) -> None:
    llm = open_llm("tiny", **ROOM, dtype="float32", speculative_config=HEAD)
    checked = check(llm, reference)
    params = SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True)
    ask_about(llm).generate(TEXTS, params, use_tqdm=False)
    assert not checked.problems, checked.problems[0]
    assert checked.checked > 20


@pytest.mark.parametrize(("temperature", "bound"), [(0.0, 0.35), (0.7, 0.2), (1.0, 0.1)])
def test_it_knows_what_the_model_says(temperature: float, bound: float, open_llm: OpenLLM) -> None:
    """On Python that neither has seen; of three tokens proposed at a time."""
    llm = open_llm("tiny", **ROOM, dtype="bfloat16", speculative_config=HEAD)
    generate_text(ask_about(llm), temperature=temperature)
    drafts = core_of(llm).stats().scheduler.drafts
    assert drafts.num_accepted_tokens > bound * drafts.num_draft_tokens


def test_greedy_text_is_that_of_an_engine_without_it(open_llm: OpenLLM) -> None:
    params = SamplingParams(temperature=0.0, max_tokens=64, ignore_eos=True)
    texts = []
    for settings in ({}, {"speculative_config": HEAD}):
        llm = open_llm("tiny", **ROOM, dtype="float32", **settings)
        if settings:
            ask_about(llm)
        texts.append([one.outputs[0].token_ids for one in llm.generate(TEXTS, params, use_tqdm=False)])
    assert texts[0] == texts[1]
    assert core_of(llm).stats().scheduler.drafts.num_accepted_tokens > 0


@pytest.mark.parametrize("temperature", [0.7, 1.3])
def test_tokens_are_drawn_from_the_models_distribution(temperature: float, open_llm: OpenLLM) -> None:
    """The second token, which is drafted, among the six likeliest."""
    prompt, count, top = TEXTS[1], 900, 6
    llm = open_llm("tiny", **ROOM, dtype="float32", max_num_seqs=64, speculative_config=HEAD)
    params = [
        SamplingParams(max_tokens=3, ignore_eos=True, seed=seed, temperature=temperature, top_k=top)
        for seed in range(count)
    ]
    outputs = ask_about(llm).generate([prompt] * count, params, use_tqdm=False)
    drafts = core_of(llm).stats().scheduler.drafts
    assert 0.05 * drafts.num_draft_tokens < drafts.num_accepted_tokens < drafts.num_draft_tokens
    first, found = second_tokens(outputs)
    asked = SamplingParams(max_tokens=1, temperature=0.0, logprobs=top)
    (output,) = llm.generate(
        {"prompt_token_ids": [*outputs[0].prompt_token_ids, first]}, asked, use_tqdm=False
    )
    assert output.outputs[0].logprobs is not None
    told = {token: entry.logprob for token, entry in output.outputs[0].logprobs[0].items()}
    weights = {token: math.exp(logprob / temperature) for token, logprob in told.items()}
    assert len(weights) == top
    assert_drawn_from(found, {token: weight / sum(weights.values()) for token, weight in weights.items()})
