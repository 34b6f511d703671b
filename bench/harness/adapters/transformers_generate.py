"""Hugging Face transformers: `generate` on batches, padded on the left.

A batch decodes until its longest request is done; only the tokens that were asked for count. Requests are
sorted by the tokens they want, so that the option `batch`, the most in one batch, wastes little.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from harness.adapters.worker import Adapter, Request, Result, serve


class StepClock:
    """A streamer that only notes when each step's tokens came."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._prompt_came = False

    def put(self, tokens: object) -> None:
        """Called with the prompts, then with every step's tokens."""
        if self._prompt_came:
            self.times.append(time.perf_counter())
        self._prompt_came = True

    def end(self) -> None:
        """Called after the last."""


class Transformers(Adapter):
    """`AutoModelForCausalLM.generate`."""

    def load(self) -> None:
        self._torch: Any = import_module("torch")
        factory: Any = import_module("transformers").AutoModelForCausalLM
        self._torch.set_num_threads(self.threads)
        self._lm = factory.from_pretrained(
            self.model, dtype=self._torch.bfloat16, attn_implementation="sdpa"
        ).eval()

    def generate(self, requests: list[Request]) -> list[Result]:
        order = sorted(range(len(requests)), key=lambda number: requests[number].new)
        size = self.options.get("batch", 32)
        results: dict[int, Result] = {}
        for start in range(0, len(order), size):
            numbers = order[start : start + size]
            batch = self._generate_batch([requests[number] for number in numbers])
            results |= dict(zip(numbers, batch, strict=True))
        return [results[number] for number in range(len(requests))]

    def _generate_batch(self, requests: list[Request]) -> list[Result]:
        width = max(len(one.prompt) for one in requests)
        ids = self._torch.zeros(len(requests), width, dtype=self._torch.long)
        mask = self._torch.zeros_like(ids)
        for row, one in enumerate(requests):
            ids[row, width - len(one.prompt) :] = self._torch.tensor(one.prompt)
            mask[row, width - len(one.prompt) :] = 1
        clock = StepClock()
        with self._torch.inference_mode():
            output = self._lm.generate(
                input_ids=ids,
                attention_mask=mask,
                do_sample=False,
                max_new_tokens=max(one.new for one in requests),
                eos_token_id=-1,
                pad_token_id=0,
                streamer=clock,
            )
        return [
            Result(output[row, width : width + one.new].tolist(), clock.times[: one.new])
            for row, one in enumerate(requests)
        ]


if __name__ == "__main__":
    serve(Transformers)
