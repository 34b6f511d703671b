"""What quantization costs: perplexity of the bundled model, by Quire and by transformers with the tool.

    python bench/quality.py [--dtype bfloat16]

The text is source of the standard library; neither was the model trained on it nor did a tool see it.
The checkpoints are the tools' own; the first run makes the tools' environments and lets them write (see
`tools/checkpoint_recipes`; `make test-tools` uses the same). The last column is transformers in fp32, on the
checkpoint as it is or on the weights as the tool itself dequantizes them.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

from checkpoint_recipes import reference, sources
from checkpoint_recipes.environments import TINY, written
from checkpoint_recipes.variants import VARIANTS
from harness.markdown import align
from quire import LLM, SamplingParams

QUANTIZED = {
    "int8, llm-compressor": "tiny-ct-w8a8",
    "FP8, llm-compressor": "tiny-ct-fp8",
    "GPTQ 8, groups of 32, GPTQModel": "tiny-gptq-b8-g32-act",
    "GPTQ 4, groups of 128, GPTQModel": "tiny-gptq-b4-g128",
    "GPTQ 4, groups of 64, AutoGPTQ": "tiny-autogptq-b4-g64",
    "W4A16, groups of 128, llm-compressor": "tiny-ct-w4a16-g128",
    "AWQ 4, groups of 128, AutoAWQ": "tiny-awq-g128",
    "AWQ 4, groups of 64, AutoAWQ": "tiny-awq-gemv-g64",
}
ROUNDED_HEAD = "GPTQ 4, groups of 128, GPTQModel"
"""Measured with its head rounded to 8 bits, too."""


@dataclass(frozen=True, slots=True)
class Row:
    """One way to keep the weights.

    Attributes:
        name: as the table says it.
        model: a directory, or the bundled model's name.
        settings: of the engine, beside the model.
        theirs: perplexity by transformers; None where it has no such weights.
    """

    name: str
    model: str
    settings: dict[str, Any]
    theirs: float | None


def rows() -> Iterator[Row]:
    """All of them, the plain weights first."""
    from transformers import AutoModelForCausalLM

    plain: Any = AutoModelForCausalLM.from_pretrained(TINY)
    texts = sources.held_out(TINY)
    yield Row("bf16", "tiny", {}, reference.perplexity(plain.float().eval(), texts))
    yield Row("int8, quantized while loading", "tiny", {"quantization": "int8"}, None)
    for name, variant in QUANTIZED.items():
        directory = written(VARIANTS[variant].tool) / variant
        told = json.loads((directory / "reference" / "cases.json").read_text())
        yield Row(name, str(directory), {}, told["perplexity"])
        if name == ROUNDED_HEAD:
            options = {"options": {"quantization.gptq": {"head": "int8"}}}
            yield Row(f"{name}, head in 8", str(directory), {"plugins": options}, None)


def perplexity(model: str, dtype: str, texts: Sequence[list[int]], **settings: Any) -> tuple[float, int]:
    """By Quire's engine: exp of the mean negative log likelihood per token, and bytes of weights held."""
    llm = LLM(model, dtype=dtype, kv_cache_memory_bytes="32MiB", show_progress=False, **settings)
    params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    try:
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in texts], params, use_tqdm=False)
        held = llm.startup_report.memory.weights
    finally:
        llm.shutdown()
    logprobs = []
    for ids, output in zip(texts, outputs, strict=True):
        assert output.prompt_logprobs is not None
        for token, entry in zip(ids[1:], output.prompt_logprobs[1:], strict=True):
            assert entry is not None
            logprobs.append(entry[token].logprob)
    return math.exp(-math.fsum(logprobs) / len(logprobs)), held


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", default="bfloat16", help="what Quire computes in (%(default)s)")
    dtype = parser.parse_args().dtype
    texts = sources.held_out(TINY)
    head = ["weights", "MB held", f"quire, {dtype}", "quire, float32", "transformers + tool, float32"]
    table = [head, ["---"] * len(head)]
    for row in rows():
        ours, held = perplexity(row.model, dtype, texts, **row.settings)
        exact, _ = perplexity(row.model, "float32", texts, **row.settings)
        theirs = "" if row.theirs is None else f"{row.theirs:.4f}"
        table.append([row.name, f"{held / 1e6:.2f}", f"{ours:.4f}", f"{exact:.4f}", theirs])
    print(f"{sum(map(len, texts))} tokens of {len(texts)} files\n")
    print(align(table))


if __name__ == "__main__":
    main()
