"""No engine: what the machine can do at that moment, measured in the same rounds as the peers.

A generated token takes one reading of as many bytes as the weights have; a prompt takes the model's matrix
products in bf16 (oneDNN's, through torch), without attention and all else. The tokens are made up. It is a
limit in practice, measured with these two loops, not one of physics: who keeps more in a cache, or
multiplies better than oneDNN, may pass it.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from harness.adapters.worker import Adapter, Request, Result, serve

READ_LOOP = r"""
#include <stddef.h>
#include <stdint.h>
#define LANES 8
typedef uint64_t line __attribute__((vector_size(64)));
/* Reads n bytes (a multiple of 4096 per thread) with all threads, each in 4 streams. */
uint64_t read_all(const char *data, size_t bytes, int threads) {
    uint64_t total = 0;
    #pragma omp parallel for num_threads(threads) schedule(static) reduction(^:total)
    for (int part = 0; part < threads; part++) {
        size_t length = bytes / threads / 4 / 256 * 256;
        const char *from = data + bytes / threads / 64 * 64 * part;
        line a = {0}, b = {0}, c = {0}, d = {0};
        for (size_t at = 0; at < length; at += 256)
            for (int stream = 0; stream < 4; stream++) {
                const char *q = from + stream * length + at;
                __builtin_prefetch(q + 1024); __builtin_prefetch(q + 1088);
                __builtin_prefetch(q + 1152); __builtin_prefetch(q + 1216);
                const line *p = (const line *)q;
                a ^= p[0]; b ^= p[1]; c ^= p[2]; d ^= p[3];
            }
        a ^= b ^ c ^ d;
        for (int lane = 0; lane < LANES; lane++) total ^= a[lane];
    }
    return total;
}
"""


def compile_read_loop() -> Any:
    """The loop as a library, or None where there is no compiler: torch's sum reads then, more slowly."""
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "read.c", Path(folder) / "read.so"
        source.write_text(READ_LOOP)
        flags = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]
        try:
            subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        loop = ctypes.CDLL(str(library)).read_all
    loop.argtypes, loop.restype = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int], ctypes.c_uint64
    return loop


def linear_shapes(config: dict[str, Any]) -> list[tuple[int, int]]:
    """[out, in] of a decoder layer's linears, those that share their input as one."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    query, key = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    return [(query + 2 * key, hidden), (hidden, query), (2 * inner, hidden), (hidden, inner)]


def head_weights(config: dict[str, Any]) -> int:
    """Weights of the output head."""
    count: int = config["hidden_size"] * config["vocab_size"]
    return count


def weights_read(config: dict[str, Any]) -> int:
    """Weights that a generated token reads: all linears, and the output head."""
    layer = sum(rows * columns for rows, columns in linear_shapes(config))
    layers: int = config["num_hidden_layers"]
    return layers * layer + head_weights(config)


def bytes_read(config: dict[str, Any], weight_bytes: float, head_bytes: float) -> int:
    """Bytes that a generated token reads, with so many for a weight of the linears and of the head."""
    head = head_weights(config)
    return int((weights_read(config) - head) * weight_bytes + head * head_bytes)


class Roofline(Adapter):
    """Reading and multiplying.

    The option `weight_bytes` is the size of a weight, 2 for bf16; `head_bytes` that of the output head's,
    where it is another.
    """

    def load(self) -> None:
        self._torch: Any = import_module("torch")
        self._torch.set_num_threads(self.threads)
        config = json.loads((Path(self.model) / "config.json").read_text())
        each = self.options.get("weight_bytes", 2)
        size = bytes_read(config, each, self.options.get("head_bytes", each))
        self._buffer = self._torch.ones(size // 8 + 512, dtype=self._torch.int64)
        self._loop = compile_read_loop()
        self._layers: int = config["num_hidden_layers"]
        kinds = [self._torch.randn(shape).to(self._torch.bfloat16) for shape in linear_shapes(config)]
        # every layer has weights of its own: a cache must not help more than it helps an engine
        self._weights = [[kind.clone() for kind in kinds] for _ in range(self._layers)]
        self._inputs: dict[int, list[Any]] = {}
        self._measured: dict[str, float] = {}

    def generate(self, requests: list[Request]) -> list[Result]:
        return [self._answer(one) for one in requests]

    def measured(self) -> dict[str, float]:
        return self._measured

    def _answer(self, request: Request) -> Result:
        rows = len(request.prompt)
        if rows not in self._inputs:
            first = self._weights[0]
            random = [self._torch.randn(rows, weight.shape[1]) for weight in first]
            self._inputs[rows] = [one.to(self._torch.bfloat16) for one in random]
        begin = time.perf_counter()
        with self._torch.inference_mode():
            for layer in self._weights:
                for x, weight in zip(self._inputs[rows], layer, strict=True):
                    self._torch.nn.functional.linear(x, weight)
        times = [time.perf_counter()]
        products = sum(weight.numel() for weight in self._weights[0]) * self._layers * rows
        self._measured = {"gemm_gflop_s": 2 * products / (times[0] - begin) / 1e9}
        while len(times) < request.new:
            self._read()
            times.append(time.perf_counter())
        if len(times) > 1:
            per_token = (times[-1] - times[0]) / (len(times) - 1)
            self._measured["read_gb_s"] = self._buffer.nbytes / per_token / 1e9
        return Result([0] * request.new, times)

    def _read(self) -> None:
        if self._loop is None:
            self._buffer.sum()
        else:
            self._loop(self._buffer.data_ptr() // 64 * 64 + 64, self._buffer.nbytes - 4096, self.threads)


if __name__ == "__main__":
    serve(Roofline)
