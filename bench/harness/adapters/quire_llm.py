"""Quire, through `LLM`. The option `engine` holds more of its settings."""

from __future__ import annotations

import time
from typing import Any

from harness.adapters.worker import Adapter, Request, Result, serve


class Quire(Adapter):
    """`LLM.generate`; it notes itself when each token came."""

    def load(self) -> None:
        from quire import LLM

        settings: dict[str, Any] = {
            "dtype": "bfloat16",
            "max_num_seqs": 64,
            "max_model_len": 2048,
            "kv_cache_memory_bytes": "2GiB",
        }
        self._llm = LLM(self.model, **(settings | self.options.get("engine", {})), show_progress=False)

    def generate(self, requests: list[Request]) -> list[Result]:
        from quire import SamplingParams

        clocks = time.perf_counter() - time.monotonic()  # the engine's times are monotonic ones
        params = [
            SamplingParams(temperature=0.0, max_tokens=one.new, ignore_eos=True, detokenize=False)
            for one in requests
        ]
        outputs = self._llm.generate([one.prompt for one in requests], params, use_tqdm=False)
        results = []
        for output in outputs:
            assert output.metrics is not None
            times = [moment + clocks for moment in output.metrics.token_times]
            results.append(Result(list(output.outputs[0].token_ids), times))
        return results


if __name__ == "__main__":
    serve(Quire)
