"""`NativeSamplingOps`: from logits to token ids in the native library, each row by one thread.

Takes fp32 and bf16 logits whose rows are contiguous; every other form is left to the reference.
"""

from __future__ import annotations

from typing import TypeAlias
from weakref import ref

import numpy as np
import torch

from quire.ops.logprobs import LogprobOps
from quire.ops.masks import MaskOps
from quire.ops.sampling import SamplingOps
from quire_native_cpu import Library
from quire_native_cpu.dtypes import DTYPES

_Peaks: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # as `peak` returns them


class NativeSamplingOps(LogprobOps, SamplingOps, MaskOps):
    """Mixed into kernels that have loaded the library. A row's bits depend on that row alone."""

    _library: Library
    _found: tuple[ref[torch.Tensor], _Peaks] | None = None  # logits whose peaks were found on the way

    def argmax(self, logits: torch.Tensor) -> torch.Tensor:
        """As the reference."""
        if not _takes(logits):
            return super().argmax(logits)
        return self.peak(logits)[0]

    def peak(self, logits: torch.Tensor) -> _Peaks:
        """As the reference; values are fp32."""
        if self._found is not None and self._found[0]() is logits:
            return self._found[1]
        if not _takes(logits):
            return super().peak(logits)
        ids = torch.empty(logits.shape[0], dtype=torch.int64)
        values = torch.empty(logits.shape[0], dtype=torch.float32)
        invalid = torch.empty(logits.shape[0], dtype=torch.bool)
        self._library.calls.quire_peak(
            *_rows(logits), ids.data_ptr(), values.data_ptr(), invalid.data_ptr(), torch.get_num_threads()
        )
        return ids, values, invalid

    def apply_token_bitmask(self, logits: torch.Tensor, bits: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """As the reference, in one pass that also finds the rows' peaks, which are kept for `peak`."""
        if not _takes(logits) or not rows:
            return super().apply_token_bitmask(logits, bits, rows)
        count = logits.shape[0]
        mask_of_row = np.arange(count, dtype=np.int32)
        if len(rows) < count:
            mask_of_row.fill(-1)
            mask_of_row[rows] = np.arange(len(rows), dtype=np.int32)
        masks = bits.contiguous()
        out = torch.empty(logits.shape, dtype=logits.dtype)
        ids = torch.empty(count, dtype=torch.int64)
        values = torch.empty(count, dtype=torch.float32)
        invalid = torch.empty(count, dtype=torch.bool)
        self._library.calls.quire_mask(
            *_rows(logits),
            masks.data_ptr(),
            masks.shape[1],
            mask_of_row.ctypes.data,
            out.data_ptr(),
            ids.data_ptr(),
            values.data_ptr(),
            invalid.data_ptr(),
            torch.get_num_threads(),
        )
        self._found = ref(out), (ids, values, invalid)
        return out

    def draw_from(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """As the reference, up to the rounding of the probabilities' sums."""
        if not _takes(logits):
            return super().draw_from(logits, uniforms)
        numbers = uniforms.contiguous()
        ids = torch.empty(logits.shape[0], dtype=torch.int64)
        self._library.calls.quire_draw(
            *_rows(logits), numbers.data_ptr(), ids.data_ptr(), torch.get_num_threads()
        )
        return ids

    def draw_coupled(self, logits: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """As the reference, but where two tokens arrive at the same time up to rounding."""
        if not _takes(logits):
            return super().draw_coupled(logits, keys)
        keys = keys.contiguous()
        ids = torch.empty(logits.shape[0], dtype=torch.int64)
        self._library.calls.quire_race(
            *_rows(logits), keys.data_ptr(), ids.data_ptr(), torch.get_num_threads()
        )
        return ids

    def apply_temperature(self, logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
        """As the reference, in one pass from the logits' dtype to fp32."""
        if not _takes(logits) or bool((temperature == 1).all()):
            return super().apply_temperature(logits, temperature)
        by = temperature.contiguous()
        out = torch.empty(logits.shape, dtype=torch.float32)
        self._library.calls.quire_temperature(
            *_rows(logits), by.data_ptr(), out.data_ptr(), torch.get_num_threads()
        )
        return out

    def apply_min_p(self, logits: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
        """As the reference."""
        if not _takes(logits) or logits.dtype != torch.float32 or not bool((min_p > 0).any()):
            return super().apply_min_p(logits, min_p)
        margins = min_p.log().float()
        out = torch.empty(logits.shape, dtype=torch.float32)
        self._library.calls.quire_min_p(
            logits.data_ptr(),
            logits.stride(0),
            *logits.shape,
            margins.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out

    def apply_top_k_top_p(
        self, logits: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
    ) -> torch.Tensor:
        """As the reference, up to the rounding of the probabilities' sums; no row is sorted."""
        if not _takes(logits) or logits.dtype != torch.float32:
            return super().apply_top_k_top_p(logits, top_k, top_p)
        if not bool(((top_k < logits.shape[1]) | (top_p < 1)).any()):
            return logits
        top_k, top_p = top_k.contiguous(), top_p.contiguous()
        out = torch.empty(logits.shape, dtype=torch.float32)
        self._library.calls.quire_top_k_top_p(
            logits.data_ptr(),
            logits.stride(0),
            *logits.shape,
            top_k.data_ptr(),
            top_p.data_ptr(),
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out

    def log_softmax_gather(
        self, logits: torch.Tensor, ids: torch.Tensor, k: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As the reference; among equals of the most likely the lower id comes first."""
        if not _takes(logits):
            return super().log_softmax_gather(logits, ids, k)
        rows, vocab = logits.shape
        index = ids.long().contiguous()
        if int(index.min()) < 0 or int(index.max()) >= vocab or not 0 <= k <= vocab:
            raise IndexError(f"ids from {int(index.min())} to {int(index.max())}, k {k}: not within {vocab}")
        chosen = torch.empty(rows, dtype=torch.float32)
        rank = torch.empty(rows, dtype=torch.int64)
        top = torch.empty((rows, k), dtype=torch.float32)
        top_ids = torch.empty((rows, k), dtype=torch.int64)
        self._library.calls.quire_logprobs(
            *_rows(logits),
            index.data_ptr(),
            k,
            chosen.data_ptr(),
            rank.data_ptr(),
            top.data_ptr(),
            top_ids.data_ptr(),
            torch.get_num_threads(),
        )
        return chosen, rank, top, top_ids


def _takes(logits: torch.Tensor) -> bool:
    """Whether the library reads such logits, and there are any."""
    return logits.dtype in DTYPES and logits.dim() == 2 and logits.stride(1) == 1 and 0 not in logits.shape


def _rows(logits: torch.Tensor) -> tuple[int, int, int, int, int]:
    """Address, stride, rows, columns, dtype."""
    return logits.data_ptr(), logits.stride(0), *logits.shape, DTYPES[logits.dtype]
