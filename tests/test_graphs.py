"""Captured decode steps give what uncaptured ones give, and nothing else is captured."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from quire import LLM, SamplingParams
from quire.contracts import Sampler
from quire.ops import Kernels
from quire.runtime.graphs import graph_sizes
from quire.testing.model import Reference
from quire_sampler_standard.sampler import StandardSampler

from .played_device import CapturingDevice, play_graphs

PROMPTS = [list(range(2 + i, 2 + i + 5 * (i % 4 + 1))) for i in range(11)]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> CapturingDevice:
    return play_graphs(monkeypatch)


def tokens(llm: LLM, **params: Any) -> list[list[int]]:
    asked: list[Any] = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    outputs = llm.generate(asked, SamplingParams(**params), use_tqdm=False)
    return [list(one.token_ids) for output in outputs for one in output.outputs]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0, "max_tokens": 11, "ignore_eos": True},
        {"seed": 3, "max_tokens": 24, "stop_token_ids": list(range(0, 320, 9)), "presence_penalty": 1.0},
        {"seed": 3, "max_tokens": 9, "n": 2, "logprobs": 2},
    ],
)
def test_captured_steps_change_no_token(
    params: dict[str, Any],
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    device: CapturingDevice,
) -> None:
    model = checkpoint("llama")
    settings: dict[str, Any] = {"attention_backend": "torch", "kernels": "reference", "max_num_seqs": 8}
    eager = tokens(open_llm(model, enforce_eager=True, **settings), **params)
    assert (device.captured, device.replays) == (0, [])
    captured = open_llm(model, **settings)
    assert device.captured == len(graph_sizes(8)) * 4  # from slots to logits, and three forms of drawing
    assert tokens(captured, **params) == eager
    assert len(set(device.replays)) > 1  # several sizes


def test_only_decode_steps_are_replayed(
    checkpoint: Callable[[str], Reference], open_llm: Callable[..., LLM], device: CapturingDevice
) -> None:
    settings: dict[str, Any] = {"attention_backend": "torch", "kernels": "reference", "max_num_seqs": 2}
    llm = open_llm(checkpoint("llama"), max_num_batched_tokens=16, **settings)

    def replayed(prompt: list[int], **params: Any) -> int:
        device.replays.clear()
        asked: list[Any] = [{"prompt_token_ids": prompt}]
        llm.generate(asked, SamplingParams(ignore_eos=True, **params), use_tqdm=False)
        return len(device.replays)

    assert replayed([5, 6, 7], max_tokens=1) == 0
    assert replayed([5, 6, 7], max_tokens=4) == 6  # the first token comes from the prompt's step
    assert replayed([8] * 17, max_tokens=1) == 2  # of which the last chunk is one token
    assert replayed([9] * 17, max_tokens=3, prompt_logprobs=1) == 6  # the same: no more rows are needed then


def test_the_report_names_what_was_captured(
    checkpoint: Callable[[str], Reference], open_llm: Callable[..., LLM], device: CapturingDevice
) -> None:
    llm = open_llm(checkpoint("llama"), attention_backend="torch", kernels="reference", max_num_seqs=20)
    report = "\n".join(llm._engine.report.lines())
    assert "graphs    6 of decode steps, of 1 to 20 requests, sampling included; they hold" in report
    assert "graphs 0." in report.splitlines()[-1]


@pytest.mark.parametrize(
    ("owner", "name", "value", "reason"),
    [
        (Kernels, "captures_sampling", False, "Kernels cannot draw inside a graph"),
        (StandardSampler, "captured_draw", Sampler.captured_draw, "it knows no captured steps"),
    ],
    ids=["kernels that look at the device", "a sampler of before"],
)
def test_others_draw_after_the_graph(
    owner: Any,
    name: str,
    value: Any,
    reason: str,
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    device: CapturingDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, name, value)
    settings: dict[str, Any] = {"attention_backend": "torch", "kernels": "reference", "max_num_seqs": 8}
    params = {"seed": 3, "max_tokens": 12, "top_p": 0.9, "ignore_eos": True}
    eager = tokens(open_llm(checkpoint("llama"), enforce_eager=True, **settings), **params)
    llm = open_llm(checkpoint("llama"), **settings)
    assert device.captured == len(graph_sizes(8))
    report = "\n".join(llm._engine.report.lines())
    assert f"requests, without sampling ({reason}); they hold" in report
    assert tokens(llm, **params) == eager


@pytest.mark.parametrize("most", [1, 2, 3, 8, 9, 64, 200, 256, 1000])
def test_sizes_ascend_to_the_most(most: int) -> None:
    sizes = graph_sizes(most)
    assert sizes[-1] == most
    assert list(sizes) == sorted(set(sizes))
    assert len(sizes) < 32
    assert all(after <= 2 * before for before, after in itertools.pairwise(sizes))
