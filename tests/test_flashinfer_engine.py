"""An engine over FlashInfer gives the reference backend's tokens: overlapping, captured, in windows.

FlashInfer is played by the stand-in of its plugin's tests, the GPU by a processor that "captures" work by
doing it again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch

from quire import LLM, SamplingParams
from quire.contracts import AttentionNeed
from quire.runtime import worker as worker_module
from quire.testing.model import Reference
from quire_attn_flashinfer.backend import FlashInferAttention

from .conftest import random_prompt
from .played_device import PlayedDevice

STAND_IN = Path(__file__).parent.parent / "plugins/attention/flashinfer/tests/played_flashinfer.py"
PROMPTS = [random_prompt(length, seed=length) for length in (3, 17, 40, 1, 26, 9, 33)]


class AnywhereAttention(FlashInferAttention):
    """The backend where the stand-in is: on a processor, for heads of any size."""

    @classmethod
    def reject(cls, need: AttentionNeed) -> str | None:
        return None


@dataclass(frozen=True, slots=True)
class Again:
    """A graph: the work itself."""

    replay: Callable[[], None]


class CapturingDevice(PlayedDevice):
    """A device that captures; `captured` counts."""

    captures = True
    captured = 0

    def capture(self, work: Callable[[], None]) -> Again:
        work()
        self.captured += 1
        return Again(work)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> CapturingDevice:
    spec = spec_from_file_location("flashinfer", STAND_IN)
    assert spec is not None
    assert spec.loader is not None
    stand_in = module_from_spec(spec)
    spec.loader.exec_module(stand_in)
    monkeypatch.setitem(sys.modules, "flashinfer", stand_in)
    played = CapturingDevice()
    monkeypatch.setattr(worker_module, "open_device", lambda name: played)
    return played


def tokens(llm: LLM, **params: Any) -> list[list[int]]:
    asked: list[Any] = [{"prompt_token_ids": prompt} for prompt in PROMPTS]
    outputs = llm.generate(asked, SamplingParams(ignore_eos=True, **params), use_tqdm=False)
    return [list(one.token_ids) for output in outputs for one in output.outputs]


@pytest.mark.parametrize("family", ["llama", "qwen2-window"])
def test_tokens_are_the_references(
    family: str,
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    device: CapturingDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = checkpoint(family)
    settings: dict[str, Any] = {
        "attention_backend": "torch",
        "kernels": "reference",
        "max_num_seqs": 5,
        "max_num_batched_tokens": 24,
    }
    params: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12}
    wanted = tokens(open_llm(model, enforce_eager=True, **settings), **params)
    monkeypatch.setattr("quire_attn_torch.backend.TorchAttention", AnywhereAttention)
    assert tokens(open_llm(model, enforce_eager=True, **settings), **params) == wanted
    assert device.captured == 0
    assert tokens(open_llm(model, **settings), **params) == wanted
    assert device.captured > 1


def test_the_stand_in_is_what_computes(
    checkpoint: Callable[[str], Reference],
    open_llm: Callable[..., LLM],
    device: CapturingDevice,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("quire_attn_torch.backend.TorchAttention", AnywhereAttention)
    stand_in = sys.modules["flashinfer"]

    def nothing(self: object, q: torch.Tensor, *args: Any, out: torch.Tensor, **kwargs: Any) -> None:
        out.zero_()

    llm = open_llm(checkpoint("llama"), attention_backend="torch", kernels="reference", enforce_eager=True)
    sure = tokens(llm, temperature=0.0, max_tokens=4)
    monkeypatch.setattr(stand_in.BatchPrefillWithPagedKVCacheWrapper, "run", nothing)
    assert tokens(llm, temperature=0.0, max_tokens=4) != sure
