"""Hugging Face transformers' ways to generate, each timed on requests of (prompt, tokens wanted), greedy.

Knows transformers; knows nothing of Quire.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from checkpoint import save_tokenizer

Request = tuple[list[int], int]
POLL_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Timed:
    """What a way took.

    Attributes:
        tokens: that were asked for and came.
        seconds: from the first request to the last token.
        first: the first token of each request that was taken, by its number.
        cut: requests that there was no time for.
    """

    tokens: int
    seconds: float
    first: dict[int, int]
    cut: int = 0

    @property
    def rate(self) -> float:
        """Output tokens per second."""
        return self.tokens / self.seconds


def make_model(config: dict[str, Any], dtype: str, device: str, directory: Path) -> Any:
    """A model with random weights drawn on the device, which are saved too, with a tokenizer."""
    transformers: Any = import_module("transformers")
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    torch.manual_seed(0)
    try:
        with torch.device(device):
            wanted = transformers.LlamaConfig(**config, attn_implementation="sdpa")
            model = transformers.LlamaForCausalLM(wanted)
    finally:
        torch.set_default_dtype(before)
    model.eval()
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return model


def in_batches(model: Any, requests: Sequence[Request], size: int, late: Callable[[], bool]) -> Timed:
    """`generate` on batches padded on the left, those that want most tokens together.

    A batch goes on until its longest request is done; only tokens that were asked for count. No batch is
    begun when it is `late`.
    """
    order = sorted(range(len(requests)), key=lambda number: -requests[number][1])
    firsts: dict[int, int] = {}
    begin = time.perf_counter()
    tokens = 0
    for start in range(0, len(order), size):
        if start and late():
            break
        numbers = order[start : start + size]
        outputs = _generate(model, [requests[number] for number in numbers])
        firsts |= dict(zip(numbers, outputs, strict=True))
        tokens += sum(requests[number][1] for number in numbers)
    seconds = time.perf_counter() - begin
    return Timed(tokens, seconds, firsts, len(requests) - len(firsts))


def _generate(model: Any, requests: Sequence[Request]) -> list[int]:
    """One batch; the first token of each."""
    width = max(len(prompt) for prompt, _ in requests)
    ids = torch.zeros(len(requests), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, (prompt, _) in enumerate(requests):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    with torch.inference_mode():
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            do_sample=False,
            max_new_tokens=max(new for _, new in requests),
            eos_token_id=-1,
            pad_token_id=0,
        )
    first: list[int] = output[:, width].tolist()
    return first


def continuously(
    model: Any, requests: Sequence[Request], late: Callable[[], bool], bounds: dict[str, int]
) -> Timed:
    """Its continuous batching; captures and the like come before the clock.

    Args:
        model, requests: what generates, and what is wanted.
        late: whether to give up.
        bounds: of its memory, none to leave all to its own defaults.

    Raises:
        RuntimeError: it gave up, gave other counts, or was not done in time.
    """
    transformers: Any = import_module("transformers")
    most = max(new for _, new in requests)
    settings = transformers.GenerationConfig(
        do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=most
    )
    done: dict[str, list[int]] = {}
    manage = model.continuous_batching_context_manager(
        generation_config=settings,
        continuous_batching_config=transformers.ContinuousBatchingConfig(**bounds),
        timeout=5.0,
    )
    with manage as manager:
        begin = time.perf_counter()
        wanted = {
            manager.add_request(list(prompt), max_new_tokens=new): new  # its own list: it may change it
            for prompt, new in requests
        }
        while len(done) < len(wanted):
            result = manager.get_result(timeout=POLL_SECONDS)
            if result is None:
                if not manager.is_running():
                    raise RuntimeError("The thread of continuous batching ended.")
            elif result.error is not None:
                raise RuntimeError(f"Continuous batching failed: {result.error}")
            elif result.is_finished():
                done[result.request_id] = result.generated_tokens
            if late():
                raise RuntimeError(f"{len(done)} of {len(wanted)} requests were done in time.")
        seconds = time.perf_counter() - begin
    if {name: len(ids) for name, ids in done.items()} != wanted:
        raise RuntimeError("Continuous batching gave other numbers of tokens than were asked for.")
    first = {number: done[name][0] for number, name in enumerate(wanted)}
    return Timed(sum(wanted.values()), seconds, first)
