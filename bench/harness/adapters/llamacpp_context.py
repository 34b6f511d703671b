"""llama.cpp, through the low-level API of llama-cpp-python; the model is a GGUF file.

The binding's own high-level class serves one sequence at a time. This does what llama.cpp's server does: a
sequence per request; each batch takes the next token of every running request, then prompt tokens of those
that wait, up to the batch's size. llama.cpp finds no shared prefix among sequences that are alive, so the
common prefix of a batch is computed once and its cells are shared by hand: the best that it can do.
"""

from __future__ import annotations

import time
from importlib import import_module
from typing import Any

from harness.adapters.worker import Adapter, Request, Result, serve

SEATS = 32
LENGTH = 1088
BATCH = 512
LEAST_SHARED = 16


class Seat:
    """One sequence: what has been computed of its prompt, and what came out."""

    def __init__(self, number: int, request: Request, computed: int) -> None:
        self.number, self.request, self.computed = number, request, computed
        self.result = Result([], [])

    @property
    def decoding(self) -> bool:
        """Its prompt is done, it wants more tokens."""
        return 0 < len(self.result.tokens) < self.request.new

    @property
    def waiting(self) -> bool:
        """Its prompt is not done."""
        return not self.result.tokens


def shared_length(requests: list[Request]) -> int:
    """Prompt tokens that all requests begin with, at least one of each prompt left out; 0 if few."""
    if len(requests) < 2:
        return 0
    columns = zip(*(one.prompt[:-1] for one in requests), strict=False)
    length = next((i for i, column in enumerate(columns) if len(set(column)) > 1), None)
    if length is None:
        length = min(len(one.prompt) for one in requests) - 1
    return length if length >= LEAST_SHARED else 0


class LlamaCpp(Adapter):
    """`llama_decode` on batches filled by hand."""

    def load(self) -> None:
        self._lib: Any = import_module("llama_cpp")
        self._numpy: Any = import_module("numpy")
        lib = self._lib
        self._silent = lib.llama_log_callback(lambda level, text, data: None)
        lib.llama_log_set(self._silent, None)
        lib.llama_backend_init()
        model = lib.llama_model_load_from_file(self.model.encode(), lib.llama_model_default_params())
        if not model:
            raise RuntimeError(f"llama.cpp cannot load {self.model}")
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = SEATS * LENGTH, SEATS, False
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = self.threads
        params.no_perf = True
        self._context = lib.llama_init_from_model(model, params)
        self._vocabulary = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(model))
        self._batch = lib.llama_batch_init(BATCH, 0, 1)

    def generate(self, requests: list[Request]) -> list[Result]:
        memory = self._lib.llama_get_memory(self._context)
        self._lib.llama_memory_clear(memory, False)
        shared = shared_length(requests)
        if shared:
            self._compute_shared(requests[0].prompt[:shared])
            for number in range(1, len(requests)):
                self._lib.llama_memory_seq_cp(memory, 0, number, -1, -1)
        seats = [Seat(number, one, shared) for number, one in enumerate(requests)]
        while any(seat.decoding or seat.waiting for seat in seats):
            self._step(seats)
        return [seat.result for seat in seats]

    def _compute_shared(self, prompt: list[int]) -> None:
        for start in range(0, len(prompt), BATCH):
            self._batch.n_tokens = 0
            for position in range(start, min(start + BATCH, len(prompt))):
                self._put(prompt[position], position, 0, wanted=position == len(prompt) - 1)
            self._decode()

    def _step(self, seats: list[Seat]) -> None:
        self._batch.n_tokens = 0
        rows: list[tuple[Seat, int]] = []
        for seat in seats:
            if seat.decoding:
                position = len(seat.request.prompt) + len(seat.result.tokens) - 1
                rows.append((seat, self._put(seat.result.tokens[-1], position, seat.number, wanted=True)))
        for seat in (one for one in seats if one.waiting):
            prompt = seat.request.prompt
            while seat.computed < len(prompt) and self._batch.n_tokens < BATCH:
                last = seat.computed == len(prompt) - 1
                row = self._put(prompt[seat.computed], seat.computed, seat.number, wanted=last)
                seat.computed += 1
                if last:
                    rows.append((seat, row))
        self._decode()
        tokens = [self._best(row) for _, row in rows]
        now = time.perf_counter()
        for (seat, _), token in zip(rows, tokens, strict=True):
            seat.result.tokens.append(token)
            seat.result.times.append(now)

    def _put(self, token: int, position: int, sequence: int, *, wanted: bool) -> int:
        batch = self._batch
        row: int = batch.n_tokens
        batch.token[row], batch.pos[row] = token, position
        batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
        batch.logits[row] = int(wanted)
        batch.n_tokens = row + 1
        return row

    def _decode(self) -> None:
        status = self._lib.llama_decode(self._context, self._batch)
        if status:
            raise RuntimeError(f"llama_decode gave {status}")

    def _best(self, row: int) -> int:
        logits = self._lib.llama_get_logits_ith(self._context, row)
        return int(self._numpy.ctypeslib.as_array(logits, shape=(self._vocabulary,)).argmax())


if __name__ == "__main__":
    serve(LlamaCpp)
