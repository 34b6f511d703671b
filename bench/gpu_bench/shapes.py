"""Shapes of models, and what a step on them reads and computes at least. Knows arithmetic alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from checkpoint import SHAPES
from harness.adapters.roofline import weights_read

_LLAMA_31_8B: dict[str, Any] = {
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


@dataclass(frozen=True, slots=True)
class Shape:
    """A model of Llama's form.

    Attributes:
        name: as on the command line.
        config: entries of its config.json.
        dtype: of weights and cache.
        element: bytes of a number of that type.
    """

    name: str
    config: dict[str, Any]
    dtype: str = "bfloat16"
    element: int = 2

    @property
    def heads(self) -> tuple[int, int, int]:
        """Query heads, KV heads, elements of a head."""
        config = self.config
        return config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return int(self.config["num_hidden_layers"])

    @property
    def vocab(self) -> int:
        """Tokens that there are."""
        return int(self.config["vocab_size"])

    @property
    def products(self) -> int:
        """Weights that a token is multiplied with, the head's among them."""
        return weights_read(self.config)

    @property
    def weight_bytes(self) -> int:
        """Read in every step: all of them but the table of embeddings, of which a step reads a few rows."""
        return self.products * self.element

    @property
    def kv_bytes(self) -> int:
        """K and V of one token, all layers."""
        _, kv_heads, dim = self.heads
        return 2 * self.layers * kv_heads * dim * self.element

    def decode_bytes(self, batch: int, context: int) -> int:
        """Least memory traffic of a decode step: every weight and every cached K and V once."""
        return self.weight_bytes + batch * context * self.kv_bytes

    def decode_flops(self, batch: int, context: int) -> int:
        """Operations of a decode step: products with weights, scores and weighted sums."""
        heads, _, dim = self.heads
        return batch * (2 * self.products + 4 * self.layers * heads * dim * context)

    def prefill_flops(self, tokens: int) -> int:
        """Operations of one prompt: the head for its last token, attention to what is visible."""
        head = int(self.config["hidden_size"]) * self.vocab
        return (
            2 * tokens * (self.products - head) + 2 * head + self.layers * prefill_flops(self.heads, tokens)
        )


def prefill_flops(heads: tuple[int, int, int], tokens: int) -> int:
    """Operations of causal attention of one layer over one prompt: a token sees itself and all before."""
    q_heads, _, dim = heads
    return 4 * q_heads * dim * (tokens * (tokens + 1) // 2)


def decode_read(heads: tuple[int, int, int], batch: int, context: int, element: int) -> int:
    """Bytes of K and V that one layer reads in a decode step."""
    _, kv_heads, dim = heads
    return batch * context * 2 * kv_heads * dim * element


MODELS = {
    "8b": Shape("8b", _LLAMA_31_8B),
    "1b": Shape("1b", SHAPES["1b"]),
    "toy": Shape("toy", {**SHAPES["tiny"], "vocab_size": 512}, "float32", 4),
}
"""Llama-3.1-8B's and Llama-3.2-1B's; and one to try the benchmark itself."""
