"""The host's side of a batch: tensors that are written to anew in every step that has the same requests.

To make a tensor of an array costs as much as several operations on it, when a step has the caches cold.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quire.ops.upload import upload


class Staging:
    """The tensors of `Batch` that change from step to step, as arrays.

    Attributes:
        seq_lens: `[S]` int32.
        positions, token_ids: `[T]` int64 each.
        slot_mappings: per KV group `[T]` int64.
    """

    __slots__ = ("_fill", "_tables", "_tensors", "positions", "seq_lens", "slot_mappings", "token_ids")

    def __init__(self, requests: int, rows: int, groups: int, fill: int) -> None:
        """Take the memory.

        Args:
            requests, rows: S and T.
            groups: KV groups.
            fill: requests of one row to put behind them, which read and write nothing. The arrays end
                before them, the tensors do not.
        """
        self._fill = fill
        seq_lens = np.zeros(requests + fill, dtype=np.int32)
        positions, token_ids = (np.zeros(rows + fill, dtype=np.int64) for _ in range(2))
        mappings = [np.full(rows + fill, -1, dtype=np.int64) for _ in range(groups)]
        self._tables = [np.zeros((requests + fill, 0), dtype=np.int32) for _ in range(groups)]
        pairs = [one for pair in zip(self._tables, mappings, strict=True) for one in pair]
        self._tensors = [torch.from_numpy(one) for one in (seq_lens, positions, token_ids, *pairs)]
        self.seq_lens, self.positions, self.token_ids = (
            seq_lens[:requests],
            positions[:rows],
            token_ids[:rows],
        )
        self.slot_mappings = [one[:rows] for one in mappings]

    def block_table(self, group: int, width: int) -> NDArray[np.int32]:
        """`[S, width]` of a KV group."""
        table = self._tables[group]
        if table.shape[1] != width:
            table = self._tables[group] = np.zeros((len(table), width), dtype=np.int32)
            self._tensors[3 + 2 * group] = torch.from_numpy(table)
        return table[: len(table) - self._fill]

    def upload(self, device: torch.device, *others: NDArray[np.int64]) -> list[torch.Tensor]:
        """Sequence lengths, positions, token ids, each group's block table and slot mapping, and `others`."""
        return upload(device, *self._tensors, *map(torch.from_numpy, others))


def filled(rows: NDArray[Any], size: int, value: int) -> NDArray[Any]:
    """As many rows as asked for, contiguous, the further ones all of one value."""
    every = np.full((size, *rows.shape[1:]), value, dtype=rows.dtype)
    every[: len(rows)] = rows
    return every
