"""Llama 2/3/3.x, Mistral, Qwen2/2.5 and Qwen3 for Quire. Light: describes, imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from quire.contracts import ModelSpec, hookimpl


@hookimpl
def quire_models() -> Iterable[ModelSpec]:
    """One family, one implementation; what differs is read from config.json."""
    yield ModelSpec(
        name="llama",
        api=1,
        target="quire_models_llama.model:LlamaFamily",
        matches=frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}),
        summary="Llama 2/3, Mistral, Qwen2/2.5 and Qwen3",
    )
