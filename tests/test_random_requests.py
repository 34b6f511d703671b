"""Requests made up at random: drafts, overlapping steps, graphs and want of memory change no token of theirs.

The feature matrix (T39) has each feature by itself; here they meet in one request, as nobody would list them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from quire import LLM, SamplingParams, StructuredOutputsParams
from quire.runtime import worker as worker_module
from quire.testing.drafting import always_draft

from .played_device import PlayedDevice, play_graphs

OpenLLM = Callable[..., LLM]
Said = list[tuple[list[int], str, str | None]]

FORMS: list[dict[str, Any]] = [
    {
        "json": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 9},
                "age": {"type": "integer", "minimum": 0, "maximum": 99},
                "kind": {"enum": ["town", "village"]},
            },
            "required": ["name", "age", "kind"],
        }
    },
    {"json": {"type": "array", "items": {"enum": ["alpha", "beta", "gamma"]}, "minItems": 1, "maxItems": 4}},
    {"regex": r"[a-z ]{5,20}\."},
    {"choice": ["positive", "negative", "neutral and undecided"]},
    {"grammar": 'root ::= item ("," item)*\nitem ::= [a-z] | "(" root ")"'},
]
BEGINNINGS = [
    "def main():\n    parser = argparse.ArgumentParser()\n",
    "import os\nimport sys\n\n",
    "class Foo:\n    def __init__(self, a, b):\n        self.a = a\n        self.b = b\n",
]
MAYBE: list[tuple[float, Callable[[random.Random], dict[str, Any]]]] = [
    (0.2, lambda rng: {"top_p": 0.9}),
    (0.2, lambda rng: {"top_k": 20}),
    (0.2, lambda rng: {"min_p": 0.05}),
    (0.2, lambda rng: {"presence_penalty": 0.7}),
    (0.2, lambda rng: {"repetition_penalty": 1.2}),
    (0.2, lambda rng: {"logprobs": rng.choice([0, 3])}),
    (0.2, lambda rng: {"ignore_eos": True}),
    (0.15, lambda rng: {"logit_bias": {rng.randrange(4096): 3.0}}),
    (0.1, lambda rng: {"prompt_logprobs": 1}),
    (0.1, lambda rng: {"extra_args": {"no_repeat_ngram_size": 3}}),
]
FREE: list[tuple[float, Callable[[random.Random], dict[str, Any]]]] = [
    (0.2, lambda rng: {"stop": ["self", "\n\n", "e, "]}),
    (0.2, lambda rng: {"bad_words": ["self"]}),
    (0.15, lambda rng: {"min_tokens": 1}),
    (0.4, lambda rng: {"thinking_token_budget": rng.choice([0, 3, 10])}),
]
"""What a request without a form may have besides."""

SPECULATORS: dict[str, dict[str, Any]] = {
    "ngram": {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_min": 1},
    "draft": {"model": "tiny-draft", "num_speculative_tokens": 3},
    "head": {"method": "eagle", "model": "tiny-eagle", "num_speculative_tokens": 3},
}


def request(rng: random.Random, seed: int) -> tuple[str, SamplingParams]:
    """A prompt, some of which share prefixes, and what is asked of it."""
    prompt = rng.choice(BEGINNINGS) * rng.choice([1, 1, 2, 5]) + rng.choice(["", "x = 1\n", "<think>"])
    temperature = rng.choice([0.0, 0.0, 0.5, 1.0, 1.3])
    values: dict[str, Any] = {"temperature": temperature, "seed": seed}
    values["max_tokens"] = rng.choice([1, 2, 8, 40, 90])
    if temperature and rng.random() < 0.3:
        values["n"] = rng.choice([2, 3])
    formed = rng.random() < 0.45
    if formed:
        values["structured_outputs"] = StructuredOutputsParams(**rng.choice(FORMS))
    for likely, make in MAYBE if formed else MAYBE + FREE:
        if rng.random() < likely:
            values |= make(rng)
    return prompt, SamplingParams(**values)


@pytest.fixture
def open_tiny() -> Iterator[OpenLLM]:
    opened: list[LLM] = []

    def open_one(**changes: Any) -> LLM:
        settings: dict[str, Any] = {
            "dtype": "float32",
            "max_num_seqs": 10,
            "max_model_len": 512,
            "reasoning_parser": "think",
            "logits_processors": ["no-repeat-ngram"],
            "kv_cache_memory_bytes": "64MiB",
            **changes,
        }
        opened.append(LLM("tiny", show_progress=False, **settings))
        return opened[-1]

    yield open_one
    for llm in opened:
        llm.shutdown()


def generate(llm: LLM, seed: int, count: int) -> list[Said]:
    rng = random.Random(seed)
    requests = [request(rng, number) for number in range(count)]
    outputs = llm.generate(
        [prompt for prompt, _ in requests], [params for _, params in requests], use_tqdm=False
    )
    return [
        [(list(one.token_ids), one.text, one.finish_reason) for one in output.outputs] for output in outputs
    ]


@pytest.mark.parametrize(
    ("speculator", "device", "memory", "backend"),
    [
        ("ngram", "sequential", "2600KiB", "llguidance"),
        ("ngram", "overlapping", "2600KiB", "xgrammar"),
        ("ngram", "graphs", "64MiB", "llguidance"),
        ("draft", "sequential", "2600KiB", "xgrammar"),
        ("draft", "overlapping", "2600KiB", "llguidance"),
        ("draft", "graphs", "64MiB", "xgrammar"),
        ("head", "sequential", "64MiB", "llguidance"),
        ("head", "overlapping", "3600KiB", "xgrammar"),
    ],
)
def test_no_token_changes(
    speculator: str,
    device: str,
    memory: str,
    backend: str,
    open_tiny: OpenLLM,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: dict[str, Any] = {"structured_outputs": {"backend": backend, "compile_timeout": 20}}
    if device == "graphs":
        settings |= {"attention_backend": "torch", "kernels": "reference"}
    drafting = {**settings, "speculative_config": SPECULATORS[speculator]}
    # Beside a model that guesses tokens are drawn by other numbers: it is there, and is not asked.
    models = speculator != "ngram"
    plain = open_tiny(enable_prefix_caching=False, **(drafting if models else settings))
    if models:
        ask(plain, lambda: False)
    seed, count = sum(map(ord, speculator + device + backend)), 20
    expected = generate(plain, seed, count)

    if device == "graphs":
        play_graphs(monkeypatch)
    elif device == "overlapping":
        monkeypatch.setattr(worker_module, "open_device", lambda name: PlayedDevice())
    llm = open_tiny(max_num_batched_tokens=64, **{**drafting, "kv_cache_memory_bytes": memory})
    rng = random.Random(seed)
    ask(llm, lambda: rng.random() < 0.7)
    for number, (found, right) in enumerate(zip(generate(llm, seed, count), expected, strict=True)):
        assert found == right, number
    metrics = llm.get_metrics()
    assert metrics.drafts.num_accepted_tokens > 20
    assert all(usage.used == 0 for usage in metrics.kv)


def ask(llm: LLM, asks: Callable[[], bool]) -> None:
    scheduler = llm._engine.client.core.scheduler  # type: ignore[attr-defined]
    always_draft(scheduler, 4, lambda _: asks())
