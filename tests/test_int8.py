"""int8 weights end to end, on the bundled model: what they cost in quality and take in memory."""

from __future__ import annotations

import ast
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire import LLM, EngineConfig, SamplingParams
from quire.engine.assembly import start_engine
from quire.engine.client import InProcessClient
from quire.errors import PluginError
from quire.executors.in_process import InProcessExecutor
from quire.layers import DecoderLayer

TOKENS = 480
"""Tokens per text, a good part of the bundled model's context."""

MODULES = (
    "argparse",
    "asyncio.events",
    "collections",
    "logging",
    "random",
    "statistics",
    "tarfile",
    "typing",
)


def docstrings(module: str) -> str:
    """All docstrings of a module of the standard library, one after another."""
    root = Path(sys.modules["os"].__file__ or "").parent
    path = root.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
    nodes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = [ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, nodes)]
    return re.sub(r"\n{2,}", "\n", "\n".join(one for one in found if one))


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return [docstrings(module) for module in MODULES]


def open_tiny(**settings: object) -> LLM:
    defaults = {"max_num_seqs": 8, "max_num_batched_tokens": 512, "kv_cache_memory_bytes": "16MiB"}
    return LLM("tiny", show_progress=False, **{**defaults, **settings})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def quantized() -> Iterator[LLM]:
    llm = open_tiny(quantization="int8")
    yield llm
    llm.shutdown()


def perplexity(llm: LLM, texts: list[str]) -> float:
    """exp of the mean negative log likelihood per token."""
    total, count = 0.0, 0
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    for text in texts:
        ids = llm.get_tokenizer().encode(text[: 8 * TOKENS])[:TOKENS]
        (output,) = llm.generate({"prompt_token_ids": ids}, params, use_tqdm=False)
        assert output.prompt_logprobs is not None
        for token, entry in zip(ids[1:], output.prompt_logprobs[1:], strict=True):
            assert entry is not None
            total -= entry[token].logprob
            count += 1
    return math.exp(total / count)


def test_perplexity_is_within_one_percent_of_the_checkpoints(quantized: LLM, texts: list[str]) -> None:
    plain = open_tiny()
    before, after = perplexity(plain, texts), perplexity(quantized, texts)
    plain.shutdown()
    assert 0.98 < after / before < 1.01, f"{before:.3f} became {after:.3f}"


def test_the_weights_take_less_memory(quantized: LLM) -> None:
    plain = open_tiny()
    before, after = plain.startup_report.memory.weights, quantized.startup_report.memory.weights
    plain.shutdown()
    # The embedding's table stays as it is, and is more than a fifth of so small a model.
    assert after < 0.62 * before


def test_greedy_tokens_are_the_same_again(quantized: LLM) -> None:
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    prompts = ["def fibonacci(n):\n", "import os\n", "class Stack:\n"]
    again = open_tiny(quantization="int8")
    first, second = (
        [one.outputs[0].token_ids for one in llm.generate(prompts, params, use_tqdm=False)]
        for llm in (quantized, again)
    )
    again.shutdown()
    assert first == second


def test_a_skipped_head_is_as_it_was(quantized: LLM) -> None:
    bare = open_tiny(
        quantization="int8",
        plugins={"options": {"quantization.int8": {"lm_head": False, "skip": ["*.q_proj", "*.down_proj"]}}},
    )
    weights = bare.startup_report.memory.weights
    bare.shutdown()
    assert weights > quantized.startup_report.memory.weights


@pytest.mark.parametrize("skip", [[], ["*.down_proj"]])
def test_layers_are_computed_in_one_call_each(skip: list[str]) -> None:
    cpu = pytest.importorskip("quire_kernels_cpu.decoder_layer")
    settings = {
        "model": "tiny",
        "quantization": "int8",
        "dtype": "bfloat16",
        "kernels": "cpu",
        "attention_backend": "cpu",
        "kv_cache_memory_bytes": "16MiB",
        "plugins": {"options": {"quantization.int8": {"skip": skip}}},
    }
    engine = start_engine(EngineConfig(**settings), show_progress=False)
    assert isinstance(engine.client, InProcessClient)
    executor = engine.client.core.executor
    assert isinstance(executor, InProcessExecutor)
    modules = executor.worker.model.modules()  # type: ignore[attr-defined]
    fused = [module.fused for module in modules if isinstance(module, DecoderLayer)]
    engine.client.shutdown()
    assert fused
    assert all(isinstance(layer, cpu.CpuDecoderLayer) for layer in fused)


def test_dummy_weights_run(quantized: LLM) -> None:
    llm = open_tiny(quantization="int8", load_format="dummy")
    params = SamplingParams(max_tokens=3, temperature=0, ignore_eos=True)
    (output,) = llm.generate(["def"], params, use_tqdm=False)
    llm.shutdown()
    assert len(output.outputs[0].token_ids) == 3


def test_a_checkpoint_that_is_quantized_already_is_refused() -> None:
    with pytest.raises(PluginError, match=r"quantized already \(gptq\)"):
        open_tiny(quantization="int8", hf_overrides={"quantization_config": {"quant_method": "gptq"}})
