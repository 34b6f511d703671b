"""OpenVINO GenAI, through its continuous batching pipeline; the model is an export made beforehand."""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from harness.adapters.worker import Adapter, Request, Result, serve


class OpenVINO(Adapter):
    """`ContinuousBatchingPipeline`, stepped. The option `properties` holds more of the device's settings."""

    def load(self) -> None:
        self._numpy: Any = import_module("numpy")
        self._openvino: Any = import_module("openvino")
        self._genai: Any = import_module("openvino_genai")
        scheduler = self._genai.SchedulerConfig()
        scheduler.cache_size = 2  # GiB
        scheduler.enable_prefix_caching = True
        scheduler.max_num_batched_tokens = 2048
        scheduler.max_num_seqs = 64
        properties = {"INFERENCE_NUM_THREADS": self.threads, "PERFORMANCE_HINT": "LATENCY"}
        properties |= self.options.get("properties", {})
        self._pipeline = self._genai.ContinuousBatchingPipeline(self.model, scheduler, "CPU", properties)
        self._count = 0

    def generate(self, requests: list[Request]) -> list[Result]:
        handles = []
        for one in requests:
            config = self._genai.GenerationConfig()
            config.max_new_tokens, config.ignore_eos, config.do_sample = one.new, True, False
            ids = self._openvino.Tensor(self._numpy.array([one.prompt], dtype=self._numpy.int64))
            handles.append(self._pipeline.add_request(self._count, ids, config))
            self._count += 1
        results = [Result([], []) for _ in requests]
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            now = time.perf_counter()
            for handle, result in zip(handles, results, strict=True):
                while handle.can_read():
                    for output in handle.read().values():
                        result.tokens.extend(output.generated_ids)
                        result.times.extend([now] * len(output.generated_ids))
        return results


if __name__ == "__main__":
    serve(OpenVINO)
