"""In fp32 the C++ attention gives the bundled model's tokens just as the reference backend does."""

from __future__ import annotations

from quire import LLM, SamplingParams

PREFIX = "class Stack:\n    def __init__(self):\n        self.items = []\n\n" * 6
"""Long enough for requests that share it to attend to it together."""

PROMPTS = ["def main(", "import os\n", *(PREFIX + f"    def method{i}(self" for i in range(3))]


def tokens(backend: str) -> list[list[int]]:
    llm = LLM(
        "tiny", dtype="float32", attention_backend=backend, show_progress=False, kv_cache_memory_bytes="32MiB"
    )
    params = SamplingParams(temperature=0.0, max_tokens=24)
    return [list(output.outputs[0].token_ids) for output in llm.generate(PROMPTS, params, use_tqdm=False)]


def test_greedy_tokens_equal_the_reference_backends() -> None:
    assert tokens("cpu") == tokens("torch")
