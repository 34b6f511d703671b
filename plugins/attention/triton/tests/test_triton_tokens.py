"""An engine on these kernels: the bundled model's greedy tokens in fp32 are the reference backend's."""

from __future__ import annotations

import pytest
import torch
import triton

from quire import LLM, SamplingParams
from quire.errors import PluginError

ON_GPU = torch.cuda.is_available()
NAME = "triton" if ON_GPU else "triton-interpreted"
PROMPTS = ["def main(", "import os\nimport sys\n\n\nclass"]


def tokens(backend: str) -> list[list[int]]:
    """Six greedy tokens of each prompt, computed in chunks beside each other."""
    llm = LLM(
        "tiny",
        dtype="float32",
        attention_backend=backend,
        max_num_batched_tokens=9,
        max_model_len=64,
        show_progress=False,
        kv_cache_memory_bytes="8MiB",
    )
    params = SamplingParams(temperature=0.0, max_tokens=6)
    return [list(output.outputs[0].token_ids) for output in llm.generate(PROMPTS, params, use_tqdm=False)]


def test_greedy_tokens_equal_the_reference_backends() -> None:
    assert tokens(NAME) == tokens("torch")


def test_a_cache_in_fp8_holds_more_and_says_nearly_the_same() -> None:
    params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=1)
    blocks, chances = [], []
    for dtype in ("auto", "fp8"):
        llm = LLM(
            "tiny",
            dtype="float32",
            attention_backend=NAME,
            max_model_len=64,
            kv_cache_dtype=dtype,
            kv_cache_memory_bytes="4MiB",
            show_progress=False,
        )
        blocks.append(llm._engine.info.num_blocks)
        (output,) = llm.generate(PROMPTS[:1], params, use_tqdm=False)
        assert output.outputs[0].logprobs is not None
        (position,) = output.outputs[0].logprobs
        chances.append({token: entry.logprob for token, entry in position.items()})
    assert blocks[1] > 3 * blocks[0]
    assert chances[1] == pytest.approx(chances[0], abs=0.2)
    assert chances[1] != chances[0]


@pytest.mark.skipif(ON_GPU, reason="on a GPU there is nothing to refuse")
def test_a_processor_is_refused_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(
        PluginError, match="'triton-interpreted' was asked for and cannot be used: runs on CUDA"
    ):
        LLM("tiny", attention_backend="triton-interpreted", show_progress=False)
    with pytest.raises(
        PluginError, match="'triton' was asked for and cannot be used: runs on cuda, not on cpu"
    ):
        LLM("tiny", attention_backend="triton", show_progress=False)
