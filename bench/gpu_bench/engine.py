"""Engines with random weights that were drawn on the device, and prompts that are cached uncomputed.

Speed does not depend on what the weights and the cache hold, as long as it is no zeros. Nothing but a config
and a tokenizer is written to disk (`load_format="dummy"`).
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from checkpoint import save_tokenizer
from gpu_bench.shapes import Shape
from quire import LLM

MOST_REQUESTS = 256
MOST_ROWS = 8192
"""Tokens in a step: a prompt of 8k is one."""

LONGEST = 8192 + 256


@contextmanager
def opened(shape: Shape, device: str, toy: bool) -> Iterator[LLM]:
    """An engine as a user would have it, with `MOST_REQUESTS` and `MOST_ROWS`."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", **shape.config}
        (directory / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
        save_tokenizer(directory)
        with LLM(
            str(directory), load_format="dummy", **settings(shape, device, toy), show_progress=False
        ) as llm:
            yield llm


def settings(shape: Shape, device: str, toy: bool) -> dict[str, Any]:
    """Of the engine: large bounds, the rest as it comes; small ones for a toy."""
    bounds: dict[str, Any] = {
        "max_num_seqs": MOST_REQUESTS,
        "max_num_batched_tokens": MOST_ROWS,
        "max_model_len": LONGEST,
    }
    if toy:
        bounds = {
            "max_num_seqs": 8,
            "max_num_batched_tokens": 64,
            "max_model_len": 128,
            "kv_cache_memory_bytes": "2MiB",
        }
    return {"device": device, "dtype": shape.dtype, **bounds}


def draw_prompt(draw: random.Random, tokens: int, vocab: int) -> list[int]:
    """Random ids; no two prompts share a prefix of a block, by all likelihood."""
    return draw.choices(range(vocab), k=tokens)


class HollowModel:
    """In the model's place: hidden states and logits that are there before they are asked for."""

    def __init__(self, worker: Any, shape: Shape) -> None:
        config, device = worker.config, worker.device.name
        dtype = getattr(torch, shape.dtype)
        self._hidden = torch.zeros(
            config.max_num_batched_tokens, shape.config["hidden_size"], dtype=dtype, device=device
        )
        self._logits = torch.randn(config.max_num_seqs, shape.vocab, device=device).to(dtype)

    def embed(self, token_ids: torch.Tensor) -> torch.Tensor:
        """`[T] -> [T, H]`."""
        return self._hidden[: len(token_ids)]

    def forward(self, x: torch.Tensor, positions: torch.Tensor, step: Any) -> torch.Tensor:
        """`[T, H]` as it came."""
        return x

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[R, H] -> [R, V]`."""
        return self._logits[: len(hidden)]


def worker_of(llm: LLM) -> Any:
    """The worker of an engine in this process."""
    client: Any = llm._engine.client
    return client.core.executor.worker


@contextmanager
def hollow(llm: LLM, shape: Shape) -> Iterator[None]:
    """Prompts pass through the engine uncomputed; afterwards the whole cache holds random numbers.

    What was cached of them stays cached: the engine takes it for theirs.
    """
    worker = worker_of(llm)
    model = worker.model
    worker.model = HollowModel(worker, shape)
    try:
        yield
    finally:
        worker.model = model
    with torch.inference_mode():
        for layer in worker.kv.layers:
            for tensor in layer.values():
                tensor.normal_()


def cache_tokens(llm: LLM) -> int:
    """How many tokens the KV cache holds."""
    info = llm._engine.info
    return info.num_blocks * info.block_size
