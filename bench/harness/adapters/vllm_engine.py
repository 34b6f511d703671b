"""vLLM, through the engine below its `LLM`: requests are added, then stepped until none is left.

That is what `LLM.generate` does; stepping here tells when each token came.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from harness.adapters.worker import Adapter, Request, Result, serve


class VLLM(Adapter):
    """`LLMEngine.add_request` and `step`."""

    def load(self) -> None:
        vllm: Any = import_module("vllm")
        settings = {"dtype": "bfloat16", "max_model_len": 2048, "max_num_seqs": 64, "seed": 0}
        llm = vllm.LLM(
            model=self.model, disable_log_stats=True, **(settings | self.options.get("engine", {}))
        )
        self._engine, self._params, self._count = llm.llm_engine, vllm.SamplingParams, 0

    def generate(self, requests: list[Request]) -> list[Result]:
        results: dict[int, Result] = {}
        first = self._count
        for one in requests:
            params = self._params(temperature=0.0, max_tokens=one.new, ignore_eos=True, detokenize=False)
            self._engine.add_request(str(self._count), {"prompt_token_ids": one.prompt}, params)
            results[self._count] = Result([], [])
            self._count += 1
        while self._engine.has_unfinished_requests():
            outputs = self._engine.step()
            now = time.perf_counter()
            for output in outputs:
                result = results[int(output.request_id.split("-")[0])]
                fresh = list(output.outputs[0].token_ids)[len(result.tokens) :]
                result.tokens.extend(fresh)
                result.times.extend([now] * len(fresh))
        return [results[number] for number in range(first, self._count)]


if __name__ == "__main__":  # vLLM starts processes that import this module again
    serve(VLLM)
